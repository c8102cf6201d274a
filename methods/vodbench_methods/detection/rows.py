"""Rows of the METHODS table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from vodbench.knobs import MethodConfig
from vodbench.spec import Method, MethodSpec, Stage
from vodbench_methods.detection.faster_rcnn import latency

Config = TypeVar("Config", bound=MethodConfig)


def method_row(
    name: str,
    method: Callable[[Config, int], Method],
    config: type[Config],
    stages: Callable[[Config], tuple[Stage, ...]],
    *,
    summary: str,
    paper: str,
    presets: Mapping[str, Mapping[str, Any]],
) -> MethodSpec:
    """The row of a two-stage ``method`` that is built from a ``config`` and a number of classes."""

    def build(given: MethodConfig, num_classes: int) -> Method:
        assert isinstance(given, config)
        return method(given, num_classes)

    def own_stages(given: MethodConfig) -> tuple[Stage, ...]:
        assert isinstance(given, config)
        return stages(given)

    return MethodSpec(
        name=name,
        summary=summary,
        paper=paper,
        config=config,
        presets=presets,
        build=build,
        stages=own_stages,
        latency_frames=latency,
    )
