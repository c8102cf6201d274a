from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from vodbench.checkpoints import Checkpoint, save_checkpoint
from vodbench.data_source import DataSource
from vodbench.detections import DetectionSet, read_detections
from vodbench.errors import UserError
from vodbench.images import decode
from vodbench.streaming import SnippetError, detect_configs, detect_snippet, detect_split


def source(**options: Any) -> DataSource:
    return DataSource(root="nowhere", kind="plain", options=options)


@pytest.fixture
def weights(plain: ModuleType, tmp_path: Path) -> str:
    return written(plain, tmp_path / "model.pt", seed=0)


def written(plain: ModuleType, path: Path, seed: int) -> str:
    torch.manual_seed(seed)
    method = plain.PlainMethod(plain.PlainConfig())
    checkpoint = Checkpoint(
        method="plain",
        config=method.config,
        classes=plain.PlainData.classes,
        weights=method.state_dict(),
        fingerprint=f"weights-{seed}",
        stage="only",
        data_fingerprint="none",
        seed=seed,
        revision="test",
    )
    save_checkpoint(str(path), checkpoint)
    return str(path)


def assert_right(plain: ModuleType, found: DetectionSet, data: Any, without: tuple[tuple[str, int], ...] = ()) -> None:
    """Every frame once, in order, with what the method must say about its pixels."""
    wanted = [(s.id, i) for s in data.snippets("val") for i in range(s.num_frames)]
    ids = [found.snippet_ids[n] for n in found.snippet]
    assert list(zip(ids, found.frame.tolist(), strict=True)) == wanted
    for row, (snippet, index) in enumerate(wanted):
        if (snippet, index) in without:
            assert len(found.detections(row).scores) == 0
            continue
        truth = plain.expected(decode(data.encoded(snippet, index), "test"))
        assert np.array_equal(found.detections(row).scores, truth.scores), (snippet, index)
        assert np.array_equal(found.detections(row).boxes, truth.boxes)


@pytest.mark.parametrize("T", [0, 2, 50])
def test_every_frame_gets_its_own_detections_whatever_the_lag(
    plain: ModuleType, weights: str, tmp_path: Path, T: int
) -> None:
    out = str(tmp_path / "found.parquet")
    found = detect_split(weights, plain.PlainConfig(T=T), source(), "val", out)
    assert_right(plain, found, plain.PlainData("nowhere"))
    stored = read_detections(out)
    assert stored.provenance == found.provenance
    assert np.array_equal(stored.scores, found.scores)
    assert {"method", "weights", "config", "data", "split"} <= stored.provenance.keys()
    assert list(tmp_path.glob("*.parts")) == []


def test_stage_times_are_kept_a_frame(plain: ModuleType, weights: str, tmp_path: Path) -> None:
    config = plain.PlainConfig(T=2, backbone_ms=2, relation_ms=1)
    found = detect_split(weights, config, source(snippets=1), "val", str(tmp_path / "f.parquet"))
    assert (found.stage_ms["backbone"] >= 2).all()
    assert found.stage_ms["relation"].sum() >= len(found) * 1
    assert (found.stage_ms["relation"] >= 1).all()  # what close() took is shared among those that were owed


def test_a_finished_pass_is_not_repeated(plain: ModuleType, weights: str, tmp_path: Path) -> None:
    config = plain.PlainConfig(trace=str(tmp_path / "trace"))
    out = str(tmp_path / "found.parquet")
    first = detect_split(weights, config, source(), "val", out)
    calls: list[tuple[int, int]] = []
    again = detect_split(weights, config, source(), "val", out, on_progress=lambda *done: calls.append(done))
    assert (tmp_path / "trace").read_text().count("stream") == 3
    assert calls == [(18, 18)]
    assert np.array_equal(first.scores, again.scores)


def test_an_interrupted_pass_continues_after_its_finished_snippets(
    plain: ModuleType, weights: str, tmp_path: Path
) -> None:
    out, trace = str(tmp_path / "found.parquet"), tmp_path / "trace"
    config = plain.PlainConfig(trace=str(trace))

    def interrupt(done: int, total: int) -> None:
        if done == 5 + 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        detect_split(weights, config, source(), "val", out, on_progress=interrupt)
    assert not Path(out).exists()
    calls: list[tuple[int, int]] = []
    found = detect_split(weights, config, source(), "val", out, on_progress=lambda *done: calls.append(done))
    assert trace.read_text().count("stream") == 3  # two before, one after
    assert calls == [(11, 18), (18, 18)]
    assert_right(plain, found, plain.PlainData("nowhere"))


@pytest.mark.parametrize("change", ["config", "weights", "data", "damage", "split"])
def test_parts_of_another_origin_are_not_used(plain: ModuleType, weights: str, tmp_path: Path, change: str) -> None:
    out, trace = str(tmp_path / "found.parquet"), tmp_path / "trace"
    config = plain.PlainConfig(trace=str(trace))
    with pytest.raises(ZeroDivisionError):
        detect_split(weights, config, source(), "val", out, on_progress=lambda done, _: 1 // (done < 11))
    assert trace.read_text().count("stream") == 2
    data, split, streams = source(), "val", 3
    if change == "config":
        config = config.replace(T=1)
    elif change == "weights":
        written(plain, Path(weights), seed=1)
    elif change == "data":
        data, streams = source(snippets=4), 4
    elif change == "split":
        split = "train"
    else:
        for part in (tmp_path / "found.parquet.parts").iterdir():
            part.write_bytes(part.read_bytes()[:100])
    detect_split(weights, config, data, split, out)
    assert trace.read_text().count("stream") == 2 + streams
    assert list(tmp_path.glob("*.parts")) == []


def test_chosen_snippets_come_in_listed_order(plain: ModuleType, weights: str, tmp_path: Path) -> None:
    out = str(tmp_path / "found.parquet")
    found = detect_split(weights, plain.PlainConfig(), source(), "val", out, snippets=["s2", "s0"])
    assert found.snippet_ids == ("s0", "s2")
    assert len(detect_split(weights, plain.PlainConfig(), source(), "val", out)) == 18  # not taken for the whole


def test_several_configurations_go_through_together(plain: ModuleType, weights: str, tmp_path: Path) -> None:
    """Each gets what it gets alone; what is finished of one is kept when another is added."""
    trace = tmp_path / "trace"
    configs = [plain.PlainConfig(T=T, trace=str(trace)) for T in (0, 2, 50)]
    outs = [str(tmp_path / f"{n}.parquet") for n in range(3)]
    calls: list[tuple[int, int]] = []
    detect_configs(weights, list(zip(configs[:2], outs[:2], strict=True)), source(), "val")
    assert trace.read_text().count("stream") == 2 * 3
    detect_configs(
        weights, list(zip(configs, outs, strict=True)), source(), "val", on_progress=lambda *done: calls.append(done)
    )
    assert trace.read_text().count("stream") == 3 * 3
    assert calls == [(36, 54), (41, 54), (47, 54), (54, 54)]
    for config, out in zip(configs, outs, strict=True):
        alone = detect_split(weights, config, source(), "val", str(tmp_path / "alone.parquet"))
        together = read_detections(out)
        assert together.provenance == alone.provenance
        assert np.array_equal(together.scores, alone.scores)
        assert_right(plain, together, plain.PlainData("nowhere"))
    assert list(tmp_path.glob("*.parts")) == []


def test_tasks_get_smaller_towards_the_end_and_leave_nothing_out() -> None:
    from vodbench.spec import SnippetInfo
    from vodbench.streaming.jobs import Job
    from vodbench.streaming.workers import MIN_FRAMES, take

    lengths = sorted(np.random.default_rng(0).integers(1, 400, 555).tolist())
    jobs = [
        Job(
            checkpoint_url="", settings=(), source=source(), split="val", snippet=SnippetInfo(str(n), frames), device=""
        )
        for n, frames in enumerate(lengths)
    ]
    waiting, tasks = list(jobs), []
    while waiting:
        tasks.append(take(waiting, workers=4))
    assert [job for task in tasks for job in task] == jobs[::-1]
    frames = [sum(job.snippet.num_frames for job in task) for task in tasks]
    assert frames[0] < sum(lengths) / 4  # a slow worker's first task does not decide when all is done
    assert max(frames[-4:]) < 2 * MIN_FRAMES
    assert len(tasks) < 80


def test_a_failure_names_snippet_and_frame(plain: ModuleType, weights: str, tmp_path: Path) -> None:
    out = str(tmp_path / "found.parquet")
    with pytest.raises(SnippetError, match=r"plain, snippet 's0', frame 3: ZeroDivisionError: planted"):
        detect_split(weights, plain.PlainConfig(fail_at=3), source(), "val", out)
    assert not Path(out).exists()


def test_a_stream_that_loses_a_frame_is_named(plain: ModuleType) -> None:
    config = plain.PlainConfig(lose_at=1)
    images = [np.zeros((4, 4, 3), np.uint8)] * 3
    with pytest.raises(AssertionError, match="PlainMethod: its stream took 3 frames and returned detections of 2"):
        detect_snippet(plain.PlainMethod(config), [config], images)


def test_equal_configurations_are_run_once(plain: ModuleType, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    one, other = (plain.PlainConfig(T=T, trace=str(trace)) for T in (0, 1))
    images = [np.full((4, 4, 3), n, np.uint8) for n in range(3)]
    results = detect_snippet(plain.PlainMethod(one), [one, other, one.replace(), other], images)
    assert trace.read_text().count("stream") == 2
    assert results[0] is results[2]
    assert results[1] is results[3]


def test_an_empty_snippet_gives_nothing(plain: ModuleType) -> None:
    config = plain.PlainConfig()
    (nothing,) = detect_snippet(plain.PlainMethod(config), [config], [])
    assert (nothing.detections, nothing.stage_ms) == ([], [])


def test_a_frame_that_does_not_decode_stops_the_pass(plain: ModuleType, weights: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: snippet s1, frame 2' does not decode"):
        detect_split(weights, plain.PlainConfig(), source(bad="s1/2"), "val", str(tmp_path / "f.parquet"))


def test_skipped_frames_are_recorded_and_empty(plain: ModuleType, weights: str, tmp_path: Path) -> None:
    data = source(bad="s1/2", skip_bad=True)
    found = detect_split(weights, plain.PlainConfig(T=1), data, "val", str(tmp_path / "f.parquet"))
    assert_right(plain, found, plain.PlainData("nowhere", bad="s1/2"), without=(("s1", 2),))
    ((snippet, frame, reason),) = json.loads(found.provenance["bad_frames"])
    assert (snippet, frame) == ("s1", 2)
    assert "does not decode" in reason


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"workers": 0}, "workers = 0 is not accepted"),
        ({"snippets": ["s9"]}, "unknown snippet 's9': did you mean 's"),
        ({"snippets": []}, "no snippet with frames was chosen"),
        ({"device": "cuda:99"}, "device 'cuda:99' is not available"),
    ],
)
def test_bad_input(plain: ModuleType, weights: str, tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        detect_split(weights, plain.PlainConfig(), source(), "val", str(tmp_path / "f.parquet"), **given)
    assert list(tmp_path.iterdir()) == [Path(weights)]


def test_weights_of_other_training_settings_are_refused(plain: ModuleType, weights: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"trained with other settings \(width\).*inference knobs: T,"):
        detect_split(weights, plain.PlainConfig(width=4), source(), "val", str(tmp_path / "f.parquet"))


def test_weights_are_loaded_once_until_the_file_changes(plain: ModuleType, weights: str) -> None:
    from vodbench.streaming.caches import cached_method

    first = cached_method(weights, "cpu")
    assert cached_method(weights, "cpu") is first
    written(plain, Path(weights), seed=1)
    assert cached_method(weights, "cpu") is not first


@pytest.mark.slow
def test_workers(plain: ModuleType, weights: str, tmp_path: Path) -> None:
    """Two Ray workers: equal to one process; a killed worker's snippet is run again; a failure comes as itself."""
    import time

    from vodbench.cluster import start_ray, stop_ray

    start_ray()
    try:
        data, config = source(snippets=6), plain.PlainConfig(T=1)
        alone = detect_split(weights, config, data, "val", str(tmp_path / "alone.parquet"))
        warm = detect_split(weights, config, data, "val", str(tmp_path / "two.parquet"), workers=2)
        assert np.array_equal(alone.scores, warm.scores)
        assert alone.snippet_ids == warm.snippet_ids

        marker = tmp_path / "died"
        dying = replace(config, die_once=str(marker))
        found = detect_split(weights, dying, data, "val", str(tmp_path / "died.parquet"), workers=2)
        assert marker.exists()
        assert np.array_equal(alone.scores, found.scores)

        with pytest.raises(SnippetError, match=r"plain, snippet 's\d', frame 2: ZeroDivisionError"):
            detect_split(weights, replace(config, fail_at=2), data, "val", str(tmp_path / "x.parquet"), workers=2)

        detect_split(weights, config, data, "val", str(tmp_path / "warm.parquet"), workers=2)
        start = time.perf_counter()
        detect_split(weights, replace(config, T=2), data, "val", str(tmp_path / "warmer.parquet"), workers=2)
        print(f"a pass on warm workers: {time.perf_counter() - start:.2f} s")
    finally:
        stop_ray()
