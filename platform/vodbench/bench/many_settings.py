"""What many settings of one checkpoint cost beside one: the tables of the RDN paper that sweep inference knobs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

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

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Processor seconds: of one setting evaluated by itself, of all at once, and of all one by one through a cache."""

    num_settings: int
    one: float
    together: float
    one_by_one: float

    def figures(self) -> dict[str, float]:
        return {
            "settings": self.num_settings,
            "evaluation_cpu_seconds": self.one,
            "sweep_cpu_seconds": self.together,
            "sweep_one_by_one_cpu_seconds": self.one_by_one,
            "cost_in_evaluations": self.together / self.one,
            "cost_in_evaluations_one_by_one": self.one_by_one / self.one,
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
    preset: str, size: int, num_frames: int, device: torch.device, on_progress: Callable[[str], None]
) -> Costs:
    """Detection and scoring of a made-up snippet. ``RuntimeError`` where sharing work changed a detection.

    Processor time, so that a busy machine changes no ratio.
    """
    configs = table_settings(preset)
    base = _base(preset)
    torch.manual_seed(0)
    method = method_spec(METHOD).build(base, NUM_CLASSES)
    assert isinstance(method, torch.nn.Module)
    method.eval().to(device)
    bench = _Bench(method, size, num_frames, device)
    bench.detected([base], bench.images[:2])  # first calls are slow
    on_progress("one setting by itself")
    one, (alone,) = _timed(lambda: bench.evaluated([base]))
    on_progress(f"{len(configs)} settings at once")
    together, results = _timed(lambda: bench.evaluated(configs))
    with tempfile.TemporaryDirectory(prefix="vodbench-bench-") as folder:
        kept = bench.kept(folder)
        on_progress(f"{len(configs)} settings one by one")
        one_by_one, again = _timed(lambda: [bench.evaluated([config], kept)[0] for config in configs])
    _assert_same([alone], [result for result, config in zip(results, configs, strict=True) if config == base])
    _assert_same(results, again)
    return Costs(num_settings=len(configs), one=one, together=together, one_by_one=one_by_one)


class _Bench:
    """One snippet with its truth, and the method to be run on it."""

    def __init__(self, method: Method, size: int, num_frames: int, device: torch.device) -> None:
        sample = MadeUpFrames(1, num_frames, size)
        self.method, self.device = method, device
        self.images: list[Image] = list(sample.images(sample.snippets[0]))
        self._truth, _ = synthetic(num_snippets=1, num_frames=num_frames, num_detections=1, num_classes=NUM_CLASSES)

    @property
    def truth(self) -> TruthSet:
        return self._truth

    def detected(
        self, configs: Sequence[MethodConfig], images: Iterable[Image], kept: KeptFeatures | None = None
    ) -> list[SnippetResult]:
        return detect_snippet(self.method, configs, images, self.device, kept=kept)

    def evaluated(self, configs: Sequence[MethodConfig], kept: KeptFeatures | None = None) -> list[SnippetResult]:
        """What a trial does between training and runtime."""
        results = self.detected(configs, self.images, kept)
        for result in results:
            builder = DetectionBuilder()
            for frame, found in enumerate(result.detections):
                builder.add(self.truth.snippet_ids[0], frame, found)
            evaluate(self.truth, builder.build(), "ilsvrc", RESAMPLES)
        return results

    def kept(self, folder: str) -> KeptFeatures:
        snippet = SnippetInfo(self.truth.snippet_ids[0], len(self.images))
        kept = kept_features(CacheSettings(url=folder), self.method, snippet, self.device, {"data": "made up"})
        assert kept is not None
        return kept


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def _assert_same(got: Sequence[SnippetResult], wanted: Sequence[SnippetResult]) -> None:
    for a, b in zip(got, wanted, strict=False):
        for x, y in zip(a.detections, b.detections, strict=True):
            if not (np.array_equal(x.boxes, y.boxes) and np.array_equal(x.scores, y.scores)):
                raise RuntimeError("settings that share work found something else; the speed of that means nothing")
