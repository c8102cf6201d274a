"""The row of semi-DFF in the METHODS table, and its stages."""

from __future__ import annotations

from dataclasses import replace

from vodbench.knobs import MethodConfig
from vodbench.spec import ClipSpec, MethodSpec, Stage
from vodbench_methods.detection.faster_rcnn import latency
from vodbench_methods.semidff.config import SMALL, TINY, SemiDFFConfig
from vodbench_methods.semidff.model import JOINT, REGRESSION, SEMANTICS, SemiDFF


def _build(config: MethodConfig, num_classes: int) -> SemiDFF:
    assert isinstance(config, SemiDFFConfig)
    return SemiDFF(config, num_classes)


def _stages(config: MethodConfig) -> tuple[Stage, ...]:
    assert isinstance(config, SemiDFFConfig)
    first = config.detector_stages()
    match config.second_stage:
        case "reg":
            return (*first, _regression(config))
        case "two-step":
            return (*first, _regression(config.for_regression()), _semantics(config))
        case "sem":
            return (*first, _semantics(config))
        case _:
            return (*first, _joint(config))


def _regression(config: SemiDFFConfig) -> Stage:
    clips = config.unlabelled_clips(num_supports=2 if config.regression_loss == "steady" else 1)
    return _stage(REGRESSION, config, clips, config.regression_iterations)


def _semantics(config: SemiDFFConfig) -> Stage:
    return _stage(SEMANTICS, config, config.unlabelled_clips(own_frame=True), config.semantic_iterations)


def _joint(config: SemiDFFConfig) -> Stage:
    return replace(_regression(config), name=JOINT, schedule=config.unlabelled_schedule(config.semantic_iterations))


def _stage(name: str, config: SemiDFFConfig, clips: ClipSpec, iterations: int) -> Stage:
    schedule = config.unlabelled_schedule(iterations)
    return Stage(name=name, method=SPEC.name, config=config, clips=clips, schedule=schedule)


SPEC = MethodSpec(
    name="semi-dff",
    summary="Deep Feature Flow whose feature flow is learned from unlabelled video, from a single-frame detector",
    paper="Han et al., Semi-Supervised DFF: Decoupling Detection and Feature Flow, ACM MM 2018",
    config=SemiDFFConfig,
    presets={"paper": {}, "small": SMALL, "tiny": TINY},
    build=_build,
    stages=_stages,
    latency_frames=latency,
)
