"""R-FCN (Dai et al., NeurIPS 2016), and Deformable R-FCN (Dai et al., ICCV 2017)."""
