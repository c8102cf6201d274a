"""RDN's basic stage that leaves a line for every step it trains and every snippet it begins to detect.

The lines tell what ran when, in whichever process, and so whether anything ran again that had been finished. They go to
the file that ``VODBENCH_WITNESS`` names; each is one short write, which the system appends whole.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vodbench.fingerprint import fingerprint
from vodbench.knobs import MethodConfig, knob
from vodbench.spec import Clip, Clock, MethodSpec, Stage
from vodbench_methods.detection.streaming import Answer, AnswerStream, Found
from vodbench_methods.rdn.basic import RDNBasic
from vodbench_methods.rdn.config import BASIC_TINY, RDNBasicConfig
from vodbench_methods.rdn.specs import BASIC

WITNESS = "VODBENCH_WITNESS"


@dataclass(frozen=True, kw_only=True)
class WatchedConfig(RDNBasicConfig):
    """``step_s``: so that a handful of steps leaves time to be killed in."""

    step_s: float = knob(0.0, "seconds that a training step waits", low=0)


class Watched(RDNBasic):
    config: WatchedConfig

    def losses(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        note("train", self.config.training_settings())
        time.sleep(self.config.step_s)
        return super().losses(clips)

    def answer_stream(self, config: Any, clock: Clock, answer: Answer[Found]) -> AnswerStream[Found]:
        note("detect", config.to_mapping())
        return super().answer_stream(config, clock, answer)


def note(what: str, of: Mapping[str, Any]) -> None:
    """Append (what, fingerprint of the settings it was done with, when, by whom)."""
    with open(os.environ[WITNESS], "a") as file:
        file.write(json.dumps([what, fingerprint(dict(of)), time.time(), os.getpid()]) + "\n")


def _build(config: MethodConfig, num_classes: int) -> Watched:
    assert isinstance(config, WatchedConfig)
    return Watched(config, num_classes)


def _stages(config: MethodConfig) -> tuple[Stage, ...]:
    """RDN's basic stage alone, from random weights."""
    assert isinstance(config, WatchedConfig)
    schedule, clips = config.basic_schedule(), config.clips()
    return (Stage(name="basic", method="watched", config=config, clips=clips, schedule=schedule),)


SPEC = MethodSpec(
    name="watched",
    summary="RDN's basic stage, leaving a line for all it does",
    paper="none",
    config=WatchedConfig,
    presets={"paper": {}, "tiny": {**BASIC_TINY, "warm_start": "none", "freeze_detector": False}},
    build=_build,
    stages=_stages,
    latency_frames=BASIC.latency_frames,
)
METHODS = {"watched": "vodbench_watched:SPEC"}
