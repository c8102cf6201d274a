"""What each part of a sweep takes, as measured: a table that is written down, read again, and asked by stage and trial.

Trainings and frames cost *process-seconds*: of one worker process (a GPU, or a CPU worker); n processes take an n-th.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import pydantic
import yaml
from pydantic import Field

from vodbench.errors import UserError
from vodbench.knobs import MethodConfig
from vodbench.storage import read_text, write_text
from vodbench.studies import parse_mapping
from vodbench.studies.strict import Strict
from vodbench.training.fingerprints import PlannedStage

HOW = "give --from with a sweep that has run it, --rates with a file that names it, or --probe to measure it here"


class StageRate(Strict):
    """A training stage. ``settings``: those it was measured with; of several, the most similar one is taken.

    ``clip_s``: process-seconds a clip, ``clip_gflop``: operations a clip (2 x multiply-adds, forwards and backwards).
    One of them is needed; the operations only help where a throughput is given with them. ``start_s``: once, however
    many clips there are, until they come as fast as they are used.
    """

    method: str
    stage: str
    settings: dict[str, Any] = Field(default_factory=dict)
    clip_s: float | None = Field(default=None, gt=0)
    clip_gflop: float | None = Field(default=None, gt=0)
    start_s: float = Field(default=0, ge=0)
    model_bytes: float = Field(default=0, ge=0)
    source: str = ""


class FrameRate(Strict):
    """A frame of an accuracy pass: ``encode_ms`` of it can be shared by trials, ``own_ms`` is a trial's own.

    ``encode_gflop``, ``own_gflop``: the same as operations. ``runtime_ms``: of a frame where runtime is measured, alone
    on the device (the sum of the two when left out). ``feature_bytes``: of an encoded frame that is kept.
    """

    method: str
    settings: dict[str, Any] = Field(default_factory=dict)
    encode_ms: float | None = Field(default=None, ge=0)
    own_ms: float | None = Field(default=None, ge=0)
    encode_gflop: float | None = Field(default=None, ge=0)
    own_gflop: float | None = Field(default=None, ge=0)
    runtime_ms: float | None = Field(default=None, gt=0)
    feature_bytes: float | None = Field(default=None, ge=0)
    source: str = ""


class Rates(Strict):
    """Measured times. Seconds that are not a frame's or a clip's are paid each time.

    ``start_s``: before the first trial and after the last. ``train_start_s``: a Ray Train run. ``pass_start_s``: an
    accuracy pass, ``first_pass_s``: more for the first, whose workers start. ``part_s``: process-seconds a frame and
    trial beside the method's own (decoding, writing). ``score_s``: of mAP and its intervals, a frame.
    ``measure_start_s``, ``measure_passes``: a runtime measurement that nothing disturbs is so many times the sampled
    frames. ``trial_s``: of the driver, a trial; no two at once. ``detection_bytes``: of a frame's detections.
    """

    device: str
    source: str = ""
    stages: tuple[StageRate, ...] = ()
    frames: tuple[FrameRate, ...] = ()
    start_s: float = Field(default=0, ge=0)
    train_start_s: float = Field(default=0, ge=0)
    pass_start_s: float = Field(default=0, ge=0)
    first_pass_s: float = Field(default=0, ge=0)
    part_s: float = Field(default=0, ge=0)
    score_s: float = Field(default=0, ge=0)
    measure_start_s: float = Field(default=0, ge=0)
    measure_passes: float = Field(default=3, gt=0)
    trial_s: float = Field(default=0, ge=0)
    detection_bytes: float = Field(default=0, ge=0)
    frame_bytes: float | None = Field(default=None, gt=0)

    def stage(self, planned: PlannedStage) -> StageRate:
        """The rate of the most similar stage; ``UserError`` where none of that method and name was measured."""
        stage = planned.stage
        known = [rate for rate in self.stages if (rate.method, rate.stage) == (stage.method, stage.name)]
        if not known:
            raise UserError(
                f"no rate of stage '{stage.name}' of {stage.method} is known ({self._named()} "
                f"{_listed(f'{rate.method} {rate.stage}' for rate in self.stages)}); {HOW}"
            )
        return most_similar(known, stage.config, lambda rate: rate.settings)

    def frame(self, method: str, config: MethodConfig) -> FrameRate:
        """The rate of the most similar trial; ``UserError`` where no frame of that method was measured."""
        known = [rate for rate in self.frames if rate.method == method]
        if not known:
            raise UserError(
                f"no rate of a frame of {method} is known ({self._named()} "
                f"{_listed(rate.method for rate in self.frames)}); {HOW}"
            )
        return most_similar(known, config, lambda rate: rate.settings)

    def at(self, tflops: float) -> Rates:
        """The same with the times that counted operations take at a sustained throughput, where those are known."""
        return self.model_copy(
            update={
                "device": f"{tflops:g} TFLOP/s sustained",
                "source": f"{self.source}; operations at {tflops:g} TFLOP/s",
                "stages": tuple(_stage_at(rate, tflops) for rate in self.stages),
                "frames": tuple(_frame_at(rate, tflops) for rate in self.frames),
            }
        )

    def _named(self) -> str:
        return f"those of '{self.device}' have"


_R = TypeVar("_R", StageRate, FrameRate)


def most_similar(rates: Iterable[_R], config: MethodConfig, settings: Callable[[_R], Mapping[str, Any]]) -> _R:
    """The rate with the fewest settings that differ from the configuration's; of those, the one nearest in numbers."""
    wanted = config.to_mapping()

    def distance(rate: _R) -> tuple[int, float]:
        other = {name: value for name, value in settings(rate).items() if wanted.get(name) != value}
        return len(other), sum(_relative(wanted.get(name), value) for name, value in other.items())

    return min(rates, key=distance)


def load_rates(file: str) -> Rates:
    """The rates in a YAML or JSON file. ``UserError`` naming the first mistake."""
    try:
        return Rates.model_validate(parse_mapping(read_text(file), f"'{file}'"))
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise UserError(f"rates '{file}': {place}: {problem['msg']} (given: {problem.get('input')!r})") from error


def save_rates(rates: Rates, file: str) -> None:
    """As ``load_rates`` reads them."""
    write_text(file, yaml.safe_dump(rates.model_dump(mode="json", exclude_defaults=True), sort_keys=False, width=110))


def _stage_at(rate: StageRate, tflops: float) -> StageRate:
    if rate.clip_gflop is None:
        raise UserError(f"the operations of stage '{rate.stage}' of {rate.method} were not counted; leave --tflops out")
    return rate.model_copy(update={"clip_s": rate.clip_gflop / tflops / 1e3})


def _frame_at(rate: FrameRate, tflops: float) -> FrameRate:
    if rate.encode_gflop is None or rate.own_gflop is None:
        raise UserError(f"the operations of a frame of {rate.method} were not counted; leave --tflops out")
    # GFLOP / (TFLOP/s) is milliseconds.
    encode, own = rate.encode_gflop / tflops, rate.own_gflop / tflops
    return rate.model_copy(update={"encode_ms": encode, "own_ms": own, "runtime_ms": max(encode + own, 1e-9)})


def _relative(wanted: Any, given: Any) -> float:
    """How far two numbers are apart, in [0, 1]; 1 for what is no number."""
    if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (wanted, given)):
        return 1.0
    return abs(wanted - given) / max(abs(wanted), abs(given), 1e-12) if wanted != given else 0.0


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names))) or "none"
