"""Flow-guided feature aggregation (Zhu et al., ICCV 2017): every frame sees the maps of the frames around it."""
