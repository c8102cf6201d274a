"""What many settings of one checkpoint cost beside one: the tables of the RDN paper that sweep inference knobs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vodbench.bench.runtime import MadeUpFrames
from vodbench.detections import DetectionBuilder
from vodbench.evaluation import evaluate
from vodbench.evaluation.synthetic import synthetic
from vodbench.evaluation.truth import TruthSet
from vodbench.features import CacheSettings
from vodbench.features.sharing import KeptFeatures, kept_features
from vodbench.knobs import MethodConfig
from vodbench.registry import method_spec
from vodbench.spec import Image, Method, SnippetInfo
from vodbench.streaming import SnippetResult, detect_snippet
from vodbench.studies import load_study

TABLES = ("rdn-table4", "rdn-table6", "rdn-table7")  # T, K and r
METHOD = "rdn"
NUM_CLASSES = 30
RESAMPLES = 1000


PARTS = ("relation", "post")  # stages of the method after the encoding


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Processor seconds of a pass and their parts. Stages after the encoding are told apart by their wall time."""

    total: float
    encoding: float
    scoring: float
    stage_ms: Mapping[str, float]  # of the stages after the encoding

    def shares(self) -> dict[str, float]:
        """Part -> its share of the processor time."""
        rest = self.total - self.encoding - self.scoring
        known = sum(self.stage_ms.values())
        seconds = {name: rest * ms / known for name, ms in self.stage_ms.items()}
        return {
            name: value / self.total
            for name, value in {"encoding": self.encoding, **seconds, "scoring": self.scoring}.items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Of one setting evaluated by itself, of all at once, and of all one by one through a cache (None: not asked)."""

    num_settings: int
    one: Spent
    together: Spent
    one_by_one: Spent | None

    def figures(self) -> dict[str, float]:
        apart = (
            {}
            if self.one_by_one is None
            else {
                "sweep_one_by_one_cpu_seconds": self.one_by_one.total,
                "cost_in_evaluations_one_by_one": self.one_by_one.total / self.one.total,
            }
        )
        return {
            "settings": self.num_settings,
            "evaluation_cpu_seconds": self.one.total,
            "sweep_cpu_seconds": self.together.total,
            "cost_in_evaluations": self.together.total / self.one.total,
            **apart,
            **{f"evaluation_share_{name}": share for name, share in self.one.shares().items()},
            **{f"sweep_share_{name}": share for name, share in self.together.shares().items()},
        }


def table_settings(preset: str) -> list[MethodConfig]:
    """The settings of the tables for one checkpoint of RDN: the paper's values with its preset, else small ones."""
    base = _base(preset)
    studies = [load_study(name, scale=None if preset == "paper" else "small") for name in TABLES]
    swept = [(knob, values) for study in studies for entry in study.methods for knob, values in entry.knobs.items()]
    return [base.replace(**{knob: type(getattr(base, knob))(value)}) for knob, values in swept for value in values]


def _base(preset: str) -> MethodConfig:
    spec = method_spec(METHOD)
    return spec.config.from_mapping(spec.presets[preset])


def measure_settings(
    preset: str,
    size: int,
    num_frames: int,
    device: torch.device,
    on_progress: Callable[[str], None],
    *,
    distinct: int | None = None,
    one_by_one: bool = True,
) -> Costs:
    """Detection and scoring of a made-up snippet. ``RuntimeError`` where sharing work changed a detection.

    Processor time, so that a busy machine changes no ratio. Of the frames, ``distinct`` differ (None: all): what one
    that comes again took to encode counts each time, but is not done again.
    """
    configs = table_settings(preset)
    base = _base(preset)
    torch.manual_seed(0)
    method = method_spec(METHOD).build(base, NUM_CLASSES)
    assert isinstance(method, torch.nn.Module)
    method.eval().to(device)
    bench = _Bench(method, size, num_frames, device, distinct or num_frames)
    _give_features_unit_scale(method, bench.images[0], base)
    bench.detected([base], bench.images[:2])  # first calls are slow
    on_progress("one setting by itself")
    one, (alone,) = bench.evaluated([base])
    on_progress(f"{len(configs)} settings at once")
    together, results = bench.evaluated(configs)
    _assert_same([alone], [result for result, config in zip(results, configs, strict=True) if config == base][:1])
    apart = None
    if one_by_one:
        with tempfile.TemporaryDirectory(prefix="vodbench-bench-") as folder:
            kept = bench.kept(folder)
            on_progress(f"{len(configs)} settings one by one")
            passes = [bench.evaluated([config], kept) for config in configs]
        _assert_same(results, [result for _, (result,) in passes])
        apart = _sum([spent for spent, _ in passes])
    return Costs(num_settings=len(configs), one=one, together=together, one_by_one=apart)


@torch.inference_mode()
def _give_features_unit_scale(method: Any, image: Image, config: MethodConfig) -> None:
    """Untrained weights give proposals features of 10^5, and logits that no trained network has: attention then is to
    one key alone, and takes the ways that are for such numbers."""
    scale = float(method.encode(image, config).features.square().mean().sqrt())
    method.fcs[0].weight.div_(scale)
    method.fcs[0].bias.div_(scale)


class _Bench:
    """One snippet with its truth, and the method to be run on it."""

    def __init__(self, method: Method, size: int, num_frames: int, device: torch.device, distinct: int) -> None:
        sample = MadeUpFrames(1, min(distinct, num_frames), size)
        images = list(sample.images(sample.snippets[0]))
        self.method, self.device = method, device
        self.images: list[Image] = [images[n % len(images)] for n in range(num_frames)]
        self._encodings = _Encodings(method)
        self._truth, _ = synthetic(num_snippets=1, num_frames=num_frames, num_detections=1, num_classes=NUM_CLASSES)

    @property
    def truth(self) -> TruthSet:
        return self._truth

    def detected(
        self, configs: Sequence[MethodConfig], images: Iterable[Image], kept: KeptFeatures | None = None
    ) -> list[SnippetResult]:
        return detect_snippet(self.method, configs, images, self.device, kept=kept)

    def evaluated(
        self, configs: Sequence[MethodConfig], kept: KeptFeatures | None = None
    ) -> tuple[Spent, list[SnippetResult]]:
        """What a trial does between training and runtime."""
        self._encodings.begin()
        began = time.process_time()
        results = self.detected(configs, self.images, kept)
        detected = time.process_time()
        for result in results:
            builder = DetectionBuilder()
            for frame, found in enumerate(result.detections):
                builder.add(self.truth.snippet_ids[0], frame, found)
            evaluate(self.truth, builder.build(), "ilsvrc", RESAMPLES)
        ended = time.process_time()
        spent = Spent(
            total=ended - began + self._encodings.repeated,
            encoding=self._encodings.spent + self._encodings.repeated,
            scoring=ended - detected,
            stage_ms=_stages(results),
        )
        return spent, results

    def kept(self, folder: str) -> KeptFeatures:
        snippet = SnippetInfo(self.truth.snippet_ids[0], len(self.images))
        kept = kept_features(CacheSettings(url=folder), self.method, snippet, self.device, {"data": "made up"})
        assert kept is not None
        return kept


class _Encodings:
    """Stands before a method's ``encode``: a frame that comes again in a pass is not encoded again, but counted.

    ``spent`` and ``repeated``: processor seconds of the encodings that were done, and of those that were not.
    """

    def __init__(self, method: Any) -> None:
        self._encode = method.encode
        method.encode = self
        self.begin()

    def begin(self) -> None:
        """Forget what another pass encoded."""
        self.spent = self.repeated = 0.0
        self._made: dict[int, tuple[Any, float]] = {}

    def __call__(self, image: Image, *args: Any, **kwargs: Any) -> Any:
        if id(image) in self._made:
            encoded, seconds = self._made[id(image)]
            self.repeated += seconds
            return encoded
        began = time.process_time()
        encoded = self._encode(image, *args, **kwargs)
        seconds = time.process_time() - began
        self.spent += seconds
        self._made[id(image)] = encoded, seconds
        return encoded


def _stages(results: Sequence[SnippetResult]) -> dict[str, float]:
    """Milliseconds of the stages after the encoding, over all settings; equal ones were run once."""
    total: dict[str, float] = {}
    for result in {id(result): result for result in results}.values():
        for stages in result.stage_ms:
            for name, ms in stages.items():
                if name in PARTS:
                    total[name] = total.get(name, 0.0) + ms
    return total


def _sum(passes: Sequence[Spent]) -> Spent:
    return Spent(
        total=sum(p.total for p in passes),
        encoding=sum(p.encoding for p in passes),
        scoring=sum(p.scoring for p in passes),
        stage_ms={name: sum(p.stage_ms[name] for p in passes) for name in passes[0].stage_ms},
    )


def _assert_same(got: Sequence[SnippetResult], wanted: Sequence[SnippetResult]) -> None:
    for a, b in zip(got, wanted, strict=True):
        for x, y in zip(a.detections, b.detections, strict=True):
            if not all(np.array_equal(getattr(x, name), getattr(y, name)) for name in ("boxes", "scores", "labels")):
                raise RuntimeError("settings that share work found something else; the speed of that means nothing")
