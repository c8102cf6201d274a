"""The METHODS rows of RDN: training stages, presets, latency."""

from __future__ import annotations

from vodbench.knobs import MethodConfig
from vodbench.spec import MethodSpec, Stage
from vodbench_methods.detection.faster_rcnn import latency
from vodbench_methods.detection.warm_start import detector_stages, narrowed
from vodbench_methods.rdn.basic import RDNBasic
from vodbench_methods.rdn.config import BASIC_SMALL, BASIC_TINY, SMALL, TINY, RDNBasicConfig, RDNConfig
from vodbench_methods.rdn.full import RDN

_PAPER = "Deng et al., Relation Distillation Networks for Video Object Detection, ICCV 2019"


def basic_stages(config: MethodConfig) -> tuple[Stage, ...]:
    """The single-frame detector where the configuration starts from it, then the basic stage."""
    assert isinstance(config, RDNBasicConfig)
    basic = Stage(
        name="basic",
        method=BASIC.name,
        config=narrowed(config, RDNBasicConfig),
        clips=config.clips(),
        schedule=config.basic_schedule(),
    )
    return (*detector_stages(config), basic)


def stages(config: MethodConfig) -> tuple[Stage, ...]:
    """The stages of ``rdn-basic``, then the advanced stage, which trains everything that is not frozen."""
    assert isinstance(config, RDNConfig)
    advanced = Stage(
        name="advanced",
        method=FULL.name,
        config=config,
        clips=config.clips(),
        schedule=config.advanced_schedule(),
    )
    return (*basic_stages(config), advanced)


def _build_basic(config: MethodConfig, num_classes: int) -> RDNBasic:
    assert isinstance(config, RDNBasicConfig)
    return RDNBasic(config, num_classes)


def _build(config: MethodConfig, num_classes: int) -> RDN:
    assert isinstance(config, RDNConfig)
    return RDN(config, num_classes)


BASIC = MethodSpec(
    name="rdn-basic",
    summary="RDN's basic stage: proposals attend to those of 2T neighbouring frames",
    paper=_PAPER,
    config=RDNBasicConfig,
    presets={"paper": {}, "small": BASIC_SMALL, "tiny": BASIC_TINY},
    build=_build_basic,
    stages=basic_stages,
    latency_frames=latency,
)

FULL = MethodSpec(
    name="rdn",
    summary="RDN: the basic stage, then attention to the refined best of the pool",
    paper=_PAPER,
    config=RDNConfig,
    presets={"paper": {}, "small": SMALL, "tiny": TINY},
    build=_build,
    stages=stages,
    latency_frames=latency,
)
