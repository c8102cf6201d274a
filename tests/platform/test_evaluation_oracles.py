"""The evaluation against pycocotools, plain loops, and resampling done by copying videos."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from vodbench.bench.evaluate import pycocotools_ap
from vodbench.detections import DetectionSet
from vodbench.errors import UserError
from vodbench.evaluation import TruthSet, bootstrap, compare, evaluate
from vodbench.evaluation.alignment import ranking
from vodbench.evaluation.bootstrap import bootstrap_map, multiplicities
from vodbench.evaluation.matching import match
from vodbench.evaluation.motion import RANGES, motion_ap
from vodbench.evaluation.overlap import motion_iou
from vodbench.evaluation.precision import average_precision, mean_ap
from vodbench.evaluation.protocols import PROTOCOLS
from vodbench.evaluation.synthetic import synthetic
from vodbench.spec import ClassInfo


def small(
    seed: int, *, rounded: bool = False, num_detections: int = 12, num_snippets: int = 5
) -> tuple[TruthSet, DetectionSet]:
    """A few hundred detections; ``rounded``: whole pixels and scores of one decimal, so that everything ties."""
    truth, found = synthetic(
        num_snippets=num_snippets,
        num_frames=6,
        num_detections=num_detections,
        num_classes=3,
        max_objects=5,
        seed=seed,
    )
    if rounded:
        truth = dataclasses.replace(truth, boxes=np.round(truth.boxes))
        boxes = np.round(found.boxes)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        found = dataclasses.replace(found, boxes=boxes, scores=np.round(found.scores, 1))
    return truth, found


# ---- pycocotools --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("crowded", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_coco_equals_pycocotools_with_ties_and_crowds(seed: int, crowded: bool, rounded: bool) -> None:
    truth, found = small(seed, rounded=rounded)
    if crowded:
        truth = dataclasses.replace(truth, crowd=np.random.default_rng(seed).random(len(truth.boxes)) < 0.3)
    theirs, _ = pycocotools_ap(truth, found)
    np.testing.assert_allclose(average_precision(match(truth, found, PROTOCOLS["coco"])), theirs, atol=1e-12)


def test_coco_drops_what_exceeds_a_hundred_detections_as_pycocotools_does() -> None:
    truth, found = small(0, num_detections=400, rounded=True)
    protocol = PROTOCOLS["coco"]
    ours = average_precision(match(truth, found, protocol))
    np.testing.assert_allclose(ours, pycocotools_ap(truth, found)[0], atol=1e-12)
    unlimited = average_precision(match(truth, found, dataclasses.replace(protocol, max_detections=None)))
    assert np.abs(ours - unlimited).max() > 1e-4  # the limit does something here


# ---- plain loops --------------------------------------------------------------------------------------------


def slow_iou(a: np.ndarray, b: np.ndarray) -> float:
    """IoU of inclusive pixel boxes."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]) + 1, min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(x[2] - x[0] + 1) * (x[3] - x[1] + 1) for x in (a, b)]
    return width * height / (sum(areas) - width * height)


def slow_ap(truth: TruthSet, found: DetectionSet, label: int, relaxed: bool) -> float:
    """AP of one class, following the words of the devkit: greedy per frame, the area under the monotone envelope."""
    events, positives = [], 0
    for f in range(len(truth)):
        boxes = truth.boxes[truth.offsets[f] : truth.offsets[f + 1]].astype(float)
        boxes = boxes[truth.labels[truth.offsets[f] : truth.offsets[f + 1]] == label]
        positives += len(boxes)
        rows = [i for i in range(found.offsets[f], found.offsets[f + 1]) if found.labels[i] == label]
        free = set(range(len(boxes)))
        for row in sorted(rows, key=lambda i: (-found.scores[i], i)):
            best = None
            for k in sorted(free):
                side = boxes[k, 2:] - boxes[k, :2] + 1
                least = min(0.5, side.prod() / (side + 10).prod()) if relaxed else 0.5
                overlap = slow_iou(found.boxes[row].astype(float), boxes[k])
                if overlap >= least and (best is None or overlap > best[0]):
                    best = (overlap, k)
            if best:
                free.discard(best[1])
            events.append((-found.scores[row], f, row, best is not None))
    hits, points = 0, []
    for n, event in enumerate(sorted(events)):
        hits += event[3]
        points.append((hits / positives, hits / (n + 1)))
    area, reached = 0.0, 0.0
    for i, (recall, _) in enumerate(points):
        area += (recall - reached) * max(p for _, p in points[i:])
        reached = recall
    return area


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("protocol", ["ilsvrc", "voc"])
def test_average_precision_equals_plain_loops(protocol: str, rounded: bool) -> None:
    for seed in range(5):
        truth, found = small(seed, rounded=rounded)
        truth = dataclasses.replace(truth, boxes=truth.boxes / 8)  # small boxes: the thresholds differ
        found = dataclasses.replace(found, boxes=found.boxes / 8)
        ours = average_precision(match(truth, found, PROTOCOLS[protocol]))[0]
        slow = [slow_ap(truth, found, label, protocol == "ilsvrc") for label in (1, 2, 3)]
        np.testing.assert_allclose(ours, slow, atol=1e-12)


def test_the_order_is_by_class_score_and_position_for_any_score() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(1, 4, 500).astype(np.int32)
    scores = rng.choice(np.array([-1e30, -2.5, -0.0, 0.0, 1e-45, 0.3, 0.3000001, 7.0], np.float32), 500)
    expected = sorted(range(500), key=lambda i: (labels[i], -scores[i], i))
    assert ranking(scores, labels, 3).tolist() == expected
    assert ranking(scores.astype(np.float64), labels, 3).tolist() == expected


def test_detections_in_another_frame_order_score_the_same() -> None:
    truth, found = small(1)
    shuffled = np.random.default_rng(0).permutation(len(truth))
    take = np.concatenate([np.arange(found.offsets[f], found.offsets[f + 1]) for f in shuffled])
    renamed = np.array([4, 3, 2, 1, 0])
    other = DetectionSet(
        snippet_ids=tuple(found.snippet_ids[i] for i in renamed),
        snippet=renamed[found.snippet[shuffled]].astype(np.int32),
        frame=found.frame[shuffled],
        offsets=np.concatenate([[0], np.cumsum(np.diff(found.offsets)[shuffled])]),
        boxes=found.boxes[take],
        scores=found.scores[take],
        labels=found.labels[take],
    )
    assert evaluate(truth, other, bootstrap=50) == evaluate(truth, found, bootstrap=50)


# ---- motion -------------------------------------------------------------------------------------------------


def test_motion_iou_looks_ten_frames_both_ways_and_not_further() -> None:
    box = np.array([0.0, 0.0, 9.0, 9.0])
    frames = np.array([0, 1, 10, 11, 40])
    boxes = box + np.array([0, 5, 0, 0, 0])[:, None] * [1, 0, 1, 0]
    ours = motion_iou(boxes, np.zeros(5, int), frames, np.zeros(5, int))
    third = 50 / 150  # shifted by half its width
    # 0 sees 1, 10; 1 sees 0, 10, 11; 10 sees 0, 1, 11; 11 sees 1, 10; 40 sees nobody and counts as fast.
    np.testing.assert_allclose(ours, [(third + 1) / 2, third, (1 + third + 1) / 3, (third + 1) / 2, 0.0])


def test_motion_iou_keeps_tracks_and_snippets_apart() -> None:
    boxes = np.array([[0, 0, 9, 9.0], [100, 0, 109, 9], [0, 0, 9, 9], [100, 0, 109, 9], [50, 0, 59, 9]])
    snippet, frame, track = np.array([0, 0, 0, 0, 1]), np.array([0, 0, 1, 1, 1]), np.array([7, 8, 7, 8, 7])
    np.testing.assert_allclose(motion_iou(boxes, snippet, frame, track), [1, 1, 1, 1, 0])
    assert motion_iou(boxes, np.arange(5), frame, track) is None  # no track is seen twice: no motion


def one_class(
    boxes: list[list[list[float]]], motion: list[float], found: list[list[list[float]]]
) -> tuple[TruthSet, DetectionSet]:
    """Frames with boxes, and detections [x1, y1, x2, y2, score], of one class."""
    frame = np.arange(len(boxes), dtype=np.int32)
    where = {"snippet_ids": ("s",), "snippet": np.zeros_like(frame), "frame": frame}
    rows = np.array([d for f in found for d in f], np.float32).reshape(-1, 5)
    truth = TruthSet(
        classes=(ClassInfo("a", "a"),),
        offsets=np.concatenate([[0], np.cumsum([len(b) for b in boxes])]),
        boxes=np.array([b for f in boxes for b in f], np.float32).reshape(-1, 4),
        labels=np.ones(len(motion), np.int32),
        crowd=np.zeros(len(motion), bool),
        motion_iou=np.array(motion),
        **where,
    )
    detections = DetectionSet(
        offsets=np.concatenate([[0], np.cumsum([len(d) for d in found])]),
        boxes=rows[:, :4],
        scores=rows[:, 4],
        labels=np.ones(len(rows), np.int32),
        **where,
    )
    return truth, detections


def test_motion_weighs_unmatched_detections_by_what_they_are_near() -> None:
    slow_box, fast_box = [0, 0, 99, 99], [500, 0, 599, 99]
    near_slow, near_fast, nowhere = [60, 0, 159, 99, 0.9], [560, 0, 659, 99, 0.8], [900, 900, 999, 999, 0.7]
    truth, found = one_class(
        [[slow_box, fast_box, fast_box], []],
        [0.95, 0.5, 0.6],
        [[near_slow, near_fast, nowhere, [*slow_box, 0.6], [*fast_box, 0.5]], [[0, 0, 9, 9, 0.65]]],
    )
    ours = {name: ap[0, 0] for name, ap in motion_ap(match(truth, found, PROTOCOLS["ilsvrc"])).items()}
    # Above the slow hit: near_slow 1, near_fast 0, nowhere the out-of-range share 2/3, and in the empty frame the slow
    # share of all stored motion values: 1 of (3 objects + 1 entry of the empty frame).
    assert ours["slow"] == pytest.approx(1 / (1 + 1 + 0 + 2 / 3 + 1 / 4))
    # Above the fast hit: 0, 1, 1/3, 3/4 (the empty frame counts as a fast entry); one of two objects is found.
    assert ours["fast"] == pytest.approx(0.5 / (1 + 0 + 1 + 1 / 3 + 3 / 4))
    assert np.isnan(ours["medium"])


def test_motion_splits_all_objects() -> None:
    truth, found = small(3)
    assert truth.motion_iou is not None
    members = evaluate(truth, found, bootstrap=0).motion
    assert set(members) == set(RANGES)
    still = dataclasses.replace(truth, motion_iou=np.full(len(truth.boxes), 0.95))
    all_slow = evaluate(still, found, bootstrap=0)
    assert all_slow.motion == {"slow": pytest.approx(all_slow.map), "medium": None, "fast": None}


# ---- bootstrap ----------------------------------------------------------------------------------------------


def with_copies(truth: TruthSet, found: DetectionSet, times: np.ndarray) -> tuple[TruthSet, DetectionSet]:
    """Every snippet physically there as often as drawn, copies next to each other."""
    rows, names, snippet = [], [], []
    for s, number in enumerate(times.astype(int)):
        for copy in range(number):
            own = np.flatnonzero(truth.snippet == s)
            rows.append(own)
            snippet.append(np.full(len(own), len(names)))
            names.append(f"{s} copy {copy}")
    frames = np.concatenate(rows)

    def taken(offsets: np.ndarray) -> np.ndarray:
        return np.concatenate([np.arange(offsets[f], offsets[f + 1]) for f in frames])

    def counted(offsets: np.ndarray) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(np.diff(offsets)[frames])])

    where = {
        "snippet_ids": tuple(names),
        "snippet": np.concatenate(snippet).astype(np.int32),
        "frame": truth.frame[frames],
    }
    own, theirs = taken(truth.offsets), taken(found.offsets)
    copied = dataclasses.replace(
        truth,
        **where,
        offsets=counted(truth.offsets),
        boxes=truth.boxes[own],
        labels=truth.labels[own],
        crowd=truth.crowd[own],
        motion_iou=None,
    )
    boxes, scores, labels = found.boxes[theirs], found.scores[theirs], found.labels[theirs]
    return copied, DetectionSet(**where, offsets=counted(found.offsets), boxes=boxes, scores=scores, labels=labels)


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
def test_reweighting_equals_copying_videos(protocol: str) -> None:
    truth, found = small(7, num_snippets=4)
    truth = dataclasses.replace(truth, crowd=np.random.default_rng(0).random(len(truth.boxes)) < 0.1)
    resamples, settings = 25, PROTOCOLS[protocol]
    ours = bootstrap_map(match(truth, found, settings), resamples, seed=3)
    drawn = multiplicities(4, resamples, seed=3)
    assert (drawn.sum(axis=0) == 4).all()
    assert (drawn == 0).any()
    slow = [mean_ap(average_precision(match(*with_copies(truth, found, times), settings))) for times in drawn.T]
    np.testing.assert_allclose(ours, slow, atol=1e-6)  # counts are exact; precisions are single


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
def test_many_small_blocks_and_double_precision_change_nothing(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, found = small(7, num_snippets=4)
    resamples, matching = 25, match(truth, found, PROTOCOLS[protocol])
    monkeypatch.setattr(bootstrap, "_EXACT_IN_SINGLE", 0)
    drawn = multiplicities(4, resamples, seed=3)
    slow = [
        mean_ap(average_precision(match(*with_copies(truth, found, times), PROTOCOLS[protocol]))) for times in drawn.T
    ]
    for size in (1, 3, 10_000):
        monkeypatch.setattr(bootstrap, "_STEPS_AT_ONCE", size)
        np.testing.assert_allclose(bootstrap_map(matching, resamples, seed=3), slow, atol=1e-12)


def test_a_class_that_a_resample_does_not_draw_leaves_its_mean() -> None:
    truth, found = small(2, num_snippets=3)
    labels = truth.labels.copy()
    labels[truth.snippet[truth.frame_of_box] == 0] = 3  # class 3 lives in the first snippet alone
    labels[(truth.snippet[truth.frame_of_box] > 0) & (labels == 3)] = 2
    truth = dataclasses.replace(truth, labels=labels)
    drawn = multiplicities(3, 40, seed=0)
    without = np.flatnonzero(drawn[0] == 0)
    assert len(without)
    ours = bootstrap_map(match(truth, found, PROTOCOLS["voc"]), 40, seed=0)
    ap = average_precision(match(*with_copies(truth, found, drawn[:, without[0]]), PROTOCOLS["voc"]))
    assert np.isnan(ap[0, 2])
    assert ours[without[0]] == pytest.approx(np.nanmean(ap), abs=1e-6)


def test_the_interval_holds_the_map_and_repeats_for_a_seed() -> None:
    truth, found = small(5, num_snippets=30)
    first, again = evaluate(truth, found, seed=1), evaluate(truth, found, seed=1)
    assert first == again
    assert first.low < first.map < first.high
    assert evaluate(truth, found, seed=2).low != first.low


def test_a_paired_difference_is_narrower_than_two_intervals_and_zero_with_itself() -> None:
    truth, found = small(6, num_snippets=30)
    same = compare(truth, found, found)
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    assert not same.certain
    worse = dataclasses.replace(
        found, scores=found.scores * (np.arange(len(found.scores)) % 12 != 0).astype(np.float32)
    )
    paired = compare(truth, found, worse)
    a, b = evaluate(truth, found), evaluate(truth, worse)
    assert paired.mean == pytest.approx(a.map - b.map)
    assert paired.low < paired.mean < paired.high
    assert paired.certain
    assert paired.high - paired.low < np.hypot(a.high - a.low, b.high - b.low)


def test_a_comparison_on_chosen_frames_equals_one_on_those_frames_alone() -> None:
    truth, found = small(8, num_snippets=6)
    worse = dataclasses.replace(found, scores=found.scores[::-1].copy())
    chosen = np.isin(truth.snippet, [1, 2, 4])
    times = np.array([0, 1, 1, 0, 1, 0])
    alone, of_a = with_copies(truth, found, times)
    _, of_b = with_copies(truth, worse, times)
    ours, direct = compare(truth, found, worse, frames=chosen, seed=4), compare(alone, of_a, of_b, seed=4)
    assert (ours.mean, ours.low, ours.high) == pytest.approx((direct.mean, direct.low, direct.high), abs=1e-9)


# ---- deteriorations -----------------------------------------------------------------------------------------


def test_deteriorations_are_scored_on_the_frames_that_have_them() -> None:
    truth, found = small(9)
    blurred = np.isin(truth.snippet, [0, 3])
    occluded = np.isin(truth.snippet, [3])
    strengths = {
        "blur": blurred * np.float32(0.5),
        "occlusion": occluded * np.float32(1),
        "defocus": blurred * np.float32(0),
    }
    truth = dataclasses.replace(truth, deteriorations=strengths)
    table = evaluate(truth, found, bootstrap=0).deteriorations
    assert list(table) == ["any", "none", "blur", "occlusion", "defocus"]
    for name, times in {"any": [1, 0, 0, 1, 0], "none": [0, 1, 1, 0, 1], "occlusion": [0, 0, 0, 1, 0]}.items():
        alone = match(*with_copies(truth, found, np.array(times)), PROTOCOLS["ilsvrc"])
        assert table[name] == pytest.approx(mean_ap(average_precision(alone)), abs=1e-12), name
    assert table["blur"] == table["any"]
    assert table["defocus"] is None


# ---- what does not fit --------------------------------------------------------------------------------------


def test_detections_that_do_not_belong_to_the_truth_are_refused() -> None:
    truth, found = small(0)
    truth = dataclasses.replace(truth, fingerprint="data A")
    with pytest.raises(UserError, match="made on data data B, the ground truth is data data A"):
        evaluate(truth, dataclasses.replace(found, provenance={"data": "data B"}))
    renamed = dataclasses.replace(found, snippet_ids=("x", *found.snippet_ids[1:]))
    with pytest.raises(UserError, match="lack 6 of 30 frames, the first is frame 0 of snippet 'snippet 0000'"):
        evaluate(truth, renamed)
    fewer = with_copies(truth, found, np.array([1, 1, 0, 0, 0]))[0]
    part = dataclasses.replace(fewer, snippet_ids=found.snippet_ids[:2], fingerprint="")
    with pytest.raises(UserError, match="18 frames of the detections are not in the ground truth"):
        evaluate(part, found)
    with pytest.raises(UserError, match="label 3, the data has 2 classes"):
        evaluate(dataclasses.replace(truth, classes=truth.classes[:2]), found)
    with pytest.raises(UserError, match="unknown protocol 'ilsvrcc': did you mean 'ilsvrc'"):
        evaluate(truth, found, "ilsvrcc")
    with pytest.raises(UserError, match="none of the chosen frames has an object"):
        compare(truth, found, found, frames=np.zeros(len(truth), bool))
    empty = dataclasses.replace(truth, crowd=np.ones(len(truth.boxes), bool))
    with pytest.raises(UserError, match="not one object"):
        evaluate(empty, found)


def test_no_detections_at_all_score_zero() -> None:
    truth, found = small(0)
    none = dataclasses.replace(
        found,
        offsets=np.zeros_like(found.offsets),
        boxes=found.boxes[:0],
        scores=found.scores[:0],
        labels=found.labels[:0],
    )
    for protocol in PROTOCOLS:
        accuracy = evaluate(truth, none, protocol, bootstrap=20)
        assert (accuracy.map, accuracy.low, accuracy.high) == (0, 0, 0)
