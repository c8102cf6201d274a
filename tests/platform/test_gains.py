"""Paired differences over seeds and snippets."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vodbench.detections import DetectionSet, write_detections
from vodbench.errors import UserError
from vodbench.evaluation.scoring import compare, evaluate
from vodbench.evaluation.synthetic import synthetic
from vodbench.evaluation.truth import TruthSet
from vodbench.gains import study_gains
from vodbench.gains.judge import kinds_of_frames
from vodbench.gains.pairs import _published_difference
from vodbench.records import Accuracy, Runtime, TrialRecord
from vodbench.studies import Study, load_study, parse_study, published_points

METHODS: list[dict[str, Any]] = [{"method": "a", "knobs": {"T": [1, 2, 4]}}, {"method": "b"}]


def study(*comparisons: dict[str, Any], seeds: tuple[int, ...] = (0, 1)) -> Study:
    values = {
        "name": "s",
        "title": "t",
        "methods": METHODS,
        "seeds": list(seeds),
        "accuracy": {"bootstrap": 50},
        "comparisons": list(comparisons),
    }
    return parse_study(values, "s")


def record(method: str, seed: int, status: str = "complete", **config: Any) -> TrialRecord:
    name = f"{method}-{seed}-{config.get('T', 0)}"
    return TrialRecord(
        fingerprint=name, study="s", method=method, paper="", config=config, knobs={}, seed=seed, status=status,
        reason="planted" if status == "failed" else None, detections=f"{name}.parquet",
    )  # fmt: skip


def worse(found: DetectionSet, share: float, seed: int) -> DetectionSet:
    """The same with a share of the detections moved away."""
    boxes = found.boxes.copy()
    boxes[np.random.default_rng(seed).random(len(boxes)) < share] += 500
    return dataclasses.replace(found, boxes=boxes)


@pytest.fixture(scope="module")
def data() -> tuple[TruthSet, DetectionSet]:
    return synthetic(num_snippets=12, num_frames=6, num_detections=10, num_classes=4, seed=1)


@pytest.fixture
def trials(data: tuple[TruthSet, DetectionSet], tmp_path: Path) -> list[TrialRecord]:
    """Of a, better the larger T is; of b, between them."""
    _, found = data
    shares = {("a", 1): 0.5, ("a", 2): 0.3, ("a", 4): 0.1, ("b", 0): 0.4}
    records = []
    for (method, T), share in shares.items():
        for seed in (0, 1):
            made = record(method, seed, **({"T": T} if T else {}))
            write_detections(str(tmp_path / str(made.detections)), worse(found, share, seed))
            records.append(made)
    return records


def gains_of(asked: Study, trials: list[TrialRecord], data: tuple[TruthSet, DetectionSet], tmp_path: Path) -> Any:
    return study_gains(asked, trials, data[0], lambda r: str(tmp_path / str(r.detections)))


def test_one_seed_is_the_paired_comparison_of_two_methods(
    trials: list[TrialRecord], data: tuple[TruthSet, DetectionSet], tmp_path: Path
) -> None:
    asked = study({"name": "a - b", "a": {"method": "a", "knobs": {"T": 4}}, "b": {"method": "b"}}, seeds=(1,))
    (gain,) = gains_of(asked, trials, data, tmp_path)
    truth, found = data
    expected = compare(truth, worse(found, 0.1, 1), worse(found, 0.4, 1), bootstrap=50)
    assert gain.every_frame.mean == pytest.approx(expected.mean, abs=1e-12)
    assert (gain.every_frame.low, gain.every_frame.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert gain.a_map == pytest.approx(evaluate(truth, worse(found, 0.1, 1), bootstrap=0).map, abs=1e-12)
    assert gain.every_frame.certain
    assert gain.deteriorated is None  # nothing is recorded of this data
    assert gain.paper is None


def test_seeds_are_averaged_resample_by_resample(
    trials: list[TrialRecord], data: tuple[TruthSet, DetectionSet], tmp_path: Path
) -> None:
    comparison = {"name": "a - b", "a": {"method": "a", "knobs": {"T": 2}}, "b": {"method": "b"}}
    (both,) = gains_of(study(comparison), trials, data, tmp_path)
    single = [gains_of(study(comparison, seeds=(seed,)), trials, data, tmp_path)[0] for seed in (0, 1)]
    assert both.every_frame.by_seed == tuple(gain.every_frame.mean for gain in single)
    assert both.every_frame.mean == pytest.approx(np.mean(both.every_frame.by_seed))
    widths = [gain.every_frame.high - gain.every_frame.low for gain in single]
    assert both.every_frame.high - both.every_frame.low < max(widths)


def test_a_knob_is_compared_with_its_first_value(
    trials: list[TrialRecord], data: tuple[TruthSet, DetectionSet], tmp_path: Path
) -> None:
    found = gains_of(study({"name": "a", "a": {"method": "a"}, "along": "T"}), trials, data, tmp_path)
    assert [gain.name for gain in found] == ["a: T = 2 - T = 1", "a: T = 4 - T = 1"]
    assert 0 < found[0].every_frame.mean < found[1].every_frame.mean
    assert found[0].figures()["every_frame"]["by_seed"] == list(found[0].every_frame.by_seed)


@pytest.mark.parametrize(
    ("comparison", "said"),
    [
        ({"a": {"method": "a"}, "b": {"method": "b"}}, "has 3 such trials; name more of its knobs"),
        ({"a": {"method": "a", "knobs": {"T": 9}}, "b": {"method": "b"}}, "is missing; run the sweep"),
        ({"a": {"method": "b"}, "along": "T"}, "no entry of b lists values of it"),
    ],
)
def test_what_cannot_be_compared_is_said(
    trials: list[TrialRecord], data: tuple[TruthSet, DetectionSet], tmp_path: Path, comparison: Any, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        gains_of(study({"name": "x", **comparison}), trials, data, tmp_path)


def test_a_failed_trial_is_named_with_its_reason(
    trials: list[TrialRecord], data: tuple[TruthSet, DetectionSet], tmp_path: Path
) -> None:
    broken = [record("b", r.seed, status="failed") if r.method == "b" else r for r in trials]
    asked = study({"name": "x", "a": {"method": "a", "knobs": {"T": 4}}, "b": {"method": "b"}})
    with pytest.raises(UserError, match=r"comparison of b: its trial of seed 0 failed \(planted\)"):
        gains_of(asked, broken, data, tmp_path)


@pytest.mark.parametrize("given", [{}, {"b": {"method": "b"}, "along": "T"}])
def test_a_comparison_asks_one_question(given: Any) -> None:
    with pytest.raises(UserError, match="needs either 'b' or 'along'"):
        study({"name": "x", "a": {"method": "a"}, **given})


def test_the_papers_difference_stands_beside(
    trials: list[TrialRecord], data: tuple[TruthSet, DetectionSet], tmp_path: Path
) -> None:
    values = study({"name": "x", "a": {"method": "rdn"}, "b": {"method": "rdn-basic"}}).to_mapping()
    asked = parse_study({**values, "published": [{"table": "rdn.table3_relation"}]}, "s")
    renamed = {"a": "rdn", "b": "rdn-basic"}
    chosen = [dataclasses.replace(r, method=renamed[r.method]) for r in trials if r.config.get("T") in (None, 4)]
    (gain,) = gains_of(asked, chosen, data, tmp_path)
    assert gain.paper == pytest.approx(0.009)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (("rdn-basic", {"N_b": 2}), ("rdn-basic", {"N_b": 1}), 0.015),  # not the row that leaves N_b open, twice
        (("rdn-basic", {"N_b": 1}), ("faster-rcnn", {}), 0.040),  # Table 5, although Table 3 has both methods
        (("rdn-basic", {"N_b": 2}), ("relation-network", {}), 0.024),  # Table 3
        (("rdn", {"linking": "tube"}), ("rdn", {"linking": "none"}), 0.016),  # two tables of one paper
        (("hvrnet", {"inter_modules": 0}), ("faster-rcnn", {}), 0.074),  # the other paper's own baseline
        (("rdn", {"linking": "none", "T": 6}), ("rdn", {"linking": "none", "T": 2}), None),
        (("selsa", {}), ("faster-rcnn", {}), None),
    ],
)
def test_the_papers_difference_is_of_the_rows_that_say_most(a: Any, b: Any, expected: float | None) -> None:
    published = published_points(load_study("gains-relation"))
    trials = [record(method, 0, **config) for method, config in (a, b)]
    found = _published_difference(*trials, published)
    assert found == (None if expected is None else pytest.approx(expected))


def timed(record: TrialRecord, mean_ms: float, *, contended: bool = False) -> TrialRecord:
    runtime = Runtime(
        median_ms=1.0, p95_ms=1.0, p99_ms=1.0, mean_ms=mean_ms, low_ms=1.0, high_ms=1.0, fps=1.0, stage_ms={},
        decode_ms=0.0, gflops=2 * mean_ms, peak_memory_mb=0.0, latency_frames=0, num_frames=1, device="cpu", threads=1,
        contended=contended,
    )  # fmt: skip
    return dataclasses.replace(record, runtime=runtime)


@pytest.mark.parametrize("busy", [False, True])
def test_speed_is_the_ratio_of_mean_times_over_the_seeds(
    trials: list[TrialRecord], data: tuple[TruthSet, DetectionSet], tmp_path: Path, busy: bool
) -> None:
    milliseconds = {("a", 0): 2.0, ("a", 1): 4.0, ("b", 0): 6.0, ("b", 1): 48.0}  # 3 and 12 times as fast
    known = [timed(r, milliseconds[r.method, r.seed], contended=busy and r.method == "b") for r in trials]
    comparison = {"name": "a - b", "a": {"method": "a", "knobs": {"T": 2}}, "b": {"method": "b"}}
    (gain,) = gains_of(study(comparison), known, data, tmp_path)
    assert gain.speed == pytest.approx(6.0)
    assert gain.operations == pytest.approx(1 / 6.0)
    assert gain.contended is busy
    (unknown,) = gains_of(study(comparison), trials, data, tmp_path)
    assert unknown.speed is None
    assert unknown.operations is None
    assert not unknown.contended


def test_key_frames_are_the_mean_share_over_the_seeds(
    trials: list[TrialRecord], data: tuple[TruthSet, DetectionSet], tmp_path: Path
) -> None:
    def told(record: TrialRecord) -> TrialRecord:
        share = {"a": 0.1 + 0.2 * record.seed, "b": 1.0}[record.method]
        accuracy = Accuracy(protocol="ilsvrc", map=0.5, low=0.5, high=0.5, stage_share={"backbone": share, "post": 1.0})
        return dataclasses.replace(record, accuracy=accuracy)

    comparison = {"name": "a - b", "a": {"method": "a", "knobs": {"T": 2}}, "b": {"method": "b"}}
    (gain,) = gains_of(study(comparison), [told(r) for r in trials], data, tmp_path)
    assert gain.a_keys == pytest.approx(0.2)
    assert gain.b_keys == 1.0
    (unknown,) = gains_of(study(comparison), trials, data, tmp_path)
    assert unknown.a_keys is None


def test_frames_by_motion_are_those_of_such_objects_alone(data: tuple[TruthSet, DetectionSet]) -> None:
    rng = np.random.default_rng(3)
    truth = dataclasses.replace(data[0], motion_iou=rng.choice([0.5, 0.8, 0.95], len(data[0].boxes), p=[0.6, 0.2, 0.2]))
    kinds = kinds_of_frames(truth)
    assert truth.motion_iou is not None
    for name, low, high in (("slow", 0.9, 1.0), ("medium", 0.7, 0.9), ("fast", 0.0, 0.7)):
        expected = [
            (of_frame := truth.motion_iou[truth.offsets[f] : truth.offsets[f + 1]]).size > 0
            and bool(((of_frame > low) & (of_frame < high)).all())
            for f in range(len(truth))
        ]
        assert kinds.get(name, np.zeros(len(truth), bool)).tolist() == expected
    assert kinds["fast"].any()
    assert "deteriorated" not in kinds


def test_motion_that_no_frame_shows_by_itself_is_left_out(data: tuple[TruthSet, DetectionSet]) -> None:
    truth = dataclasses.replace(data[0], motion_iou=np.full(len(data[0].boxes), 0.5))
    assert set(kinds_of_frames(truth)) == {"every_frame", "fast"}
