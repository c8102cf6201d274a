"""Relation Distillation Networks (Deng et al., ICCV 2019): ``rdn-basic`` and ``rdn``."""
