"""Linking against golden numbers, box-by-box readings, brute force, and its own laws."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from vodbench.errors import UserError
from vodbench_methods.linking import FrameBoxes, Linked, blr, chains, seq_nms, tube
from vodbench_methods.linking.reference import plain_blr, plain_seq_nms, plain_tube
from vodbench_methods.linking.synthetic import synthetic_snippet

Link = Callable[..., list[Linked]]


def frame(rows: Sequence[Sequence[float]], **more: Any) -> FrameBoxes:
    """From rows x1, y1, x2, y2, score, label."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    return FrameBoxes(table[:, :4], table[:, 4], table[:, 5].astype(np.int64), **more)


def random_frames(
    seed: int, *, coarse: bool, num_frames: int = 8, most: int = 12, classes: int = 3
) -> list[FrameBoxes]:
    """Crowded boxes, some frames empty; ``coarse``: corners and scores on a grid, so that boxes repeat and sums tie."""
    rng = np.random.default_rng([seed, coarse])
    frames = []
    for _ in range(num_frames):
        count = int(rng.integers(0, most)) * int(rng.random() > 0.15)
        corner, size, scores = rng.uniform(0, 12, (count, 2)), rng.uniform(3, 14, (count, 2)), rng.random(count)
        if coarse:
            corner, size, scores = (corner / 3).round() * 3, (size / 4).round() * 4, (scores * 4).round() / 4
        scores = scores * rng.choice([1.0, 1.0, 0.005])  # whole frames below the least sum
        relation = rng.random((15, rng.integers(0, 15))) if rng.random() > 0.2 else None
        boxes, labels = np.concatenate([corner, corner + size], axis=1), rng.integers(1, classes + 1, count)
        frames.append(FrameBoxes(boxes, scores, labels, rng.integers(0, 15, count), relation))
    return frames


def assert_same(linked: list[Linked], expected: list[Linked], tolerance: float = 0.0) -> None:
    """The same boxes, scores, and paths up to their numbers."""
    for ours, theirs in zip(linked, expected, strict=True):
        assert ours.rows.tolist() == theirs.rows.tolist()
        np.testing.assert_allclose(ours.scores, theirs.scores, rtol=0, atol=tolerance)
    paths = ((a.path.tolist(), b.path.tolist()) for a, b in zip(linked, expected, strict=True))
    pairs = {pair for ours, theirs in paths for pair in zip(ours, theirs, strict=True)}
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    assert all((a == -1) == (b == -1) for a, b in pairs)


def golden_rows(frames: list[FrameBoxes], linked: list[Linked], t: int, label: int) -> list[list[float]]:
    rows = linked[t].rows
    own = frames[t].labels[rows] == label
    return sorted(np.column_stack([frames[t].boxes[rows[own]], linked[t].scores[own]]).tolist())


@pytest.fixture(scope="module")
def published(golden: Path) -> tuple[list[FrameBoxes], dict[str, list[list[list[float]]]]]:
    """FGFA's input, its classes mixed in every frame, and its output."""
    kept = json.loads((golden / "seq_nms.json").read_text())
    frames = [
        frame([[*row, int(label)] for label, own in kept["input"].items() for row in own[t]])
        for t in range(len(kept["input"]["1"]))
    ]
    return frames, kept["output"]


# ---- Seq-NMS


@pytest.mark.parametrize("link", [seq_nms, plain_seq_nms])
def test_seq_nms_equals_the_published_code(link: Link, published: Any) -> None:
    """To the last bit. The golden file lists a frame's boxes in the order of Python's sets, hence sorted here."""
    frames, output = published
    linked = link(frames)
    for label, own in output.items():
        for t, rows in enumerate(own):
            assert golden_rows(frames, linked, t, int(label)) == sorted(rows)


@pytest.mark.parametrize("change", [{"leftovers": "suppress"}, {"rescore": "max"}, {"extent": 0.0}, {"link_iou": 0.6}])
def test_the_golden_numbers_notice_every_option(change: dict[str, Any], published: Any) -> None:
    frames, output = published
    linked = seq_nms(frames, **change)
    same = [
        golden_rows(frames, linked, t, int(label)) == sorted(rows)
        for label, own in output.items()
        for t, rows in enumerate(own)
    ]
    assert not all(same)


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("leftovers", ["keep", "suppress"])
@pytest.mark.parametrize("rescore", ["mean", "max"])
def test_seq_nms_equals_its_plain_reading(rescore: str, leftovers: str, coarse: bool) -> None:
    for seed in range(60):
        frames = random_frames(seed, coarse=coarse, num_frames=seed % 9, classes=1 + seed % 3)
        options: dict[str, Any] = {"rescore": rescore, "leftovers": leftovers}
        assert_same(seq_nms(frames, **options), plain_seq_nms(frames, **options))


def test_seq_nms_equals_its_plain_reading_on_tracks_and_clutter() -> None:
    frames = synthetic_snippet(num_frames=25, num_boxes=60, num_classes=2, seed=3)
    assert_same(seq_nms(frames), plain_seq_nms(frames))


def test_seq_nms_of_one_frame_is_nms() -> None:
    """With nothing to link: as found, or greedy suppression, class by class (torchvision as the oracle)."""
    (only,) = random_frames(1, coarse=False, num_frames=1, most=200)
    assert len(only) > 50
    (kept,), (suppressed,) = seq_nms([only]), seq_nms([only], leftovers="suppress")
    assert kept.rows.tolist() == list(range(len(only)))
    wide = torch.from_numpy(only.boxes + np.array([0, 0, 1, 1]))
    best = torchvision.ops.batched_nms(wide, torch.from_numpy(only.scores), torch.from_numpy(only.labels), 0.3)
    assert suppressed.rows.tolist() == sorted(best.tolist())
    assert suppressed.scores.tolist() == only.scores[suppressed.rows].tolist()


def test_seq_nms_repairs_instead_of_starting_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made anew grows with what is removed: some ways a box, whatever the number of frames and paths."""
    original, calls = chains._best_way, []
    monkeypatch.setattr(chains, "_best_way", lambda *given: calls.append(None) or original(*given))
    ratios = []
    for num_frames in (20, 200):
        calls.clear()
        frames = synthetic_snippet(num_frames=num_frames, num_boxes=30, num_classes=1)
        linked = seq_nms(frames, leftovers="suppress")
        assert sum(len(found.rows) for found in linked) > 10 * num_frames  # many paths of one box and more
        ratios.append(len(calls) / (30 * num_frames))
    assert ratios[1] < 2 * ratios[0] < 8


# ---- tubes


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("unlinked", ["keep", "drop"])
def test_tubes_equal_their_plain_reading(unlinked: str, coarse: bool) -> None:
    for seed in range(80):
        frames = random_frames(seed, coarse=coarse, num_frames=seed % 9, classes=1 + seed % 3)
        assert_same(tube(frames, unlinked=unlinked), plain_tube(frames, unlinked=unlinked))  # type: ignore[arg-type]
        if any(f.relation is not None for f in frames):
            # np.exp of vectors and of scalars may differ in the last bit.
            assert_same(blr(frames, unlinked=unlinked), plain_blr(frames, unlinked=unlinked), 1e-12)  # type: ignore[arg-type]


@pytest.mark.parametrize("coarse", [False, True])
def test_tubes_of_classes_of_very_different_numbers(coarse: bool) -> None:
    """They are solved in several batches, narrowed as boxes are used up; where sums tie, the order of boxes decides."""
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(5):
        labels = np.repeat([1, 2, 3, 4], [40, 12, 3, 1])
        corner, size, scores = rng.uniform(0, 300, (56, 2)), rng.uniform(20, 90, (56, 2)), rng.random(56)
        if coarse:
            corner, size, scores = (corner / 100).round() * 100, (size / 50).round() * 50, (scores * 2).round() / 2
        boxes = np.concatenate([corner, corner + size], axis=1)
        frames.append(FrameBoxes(boxes, scores, rng.permutation(labels)))
    assert_same(tube(frames), plain_tube(frames))
    assert_same(tube(frames, unlinked="drop"), plain_tube(frames, unlinked="drop"))


def test_the_first_tube_is_the_best_of_all_paths() -> None:
    """Every path through four frames, enumerated."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        counts = rng.integers(1, 5, 4)
        corners = [rng.uniform(0, 20, (n, 2)) for n in counts]
        frames = [FrameBoxes(np.concatenate([c, c + 15], 1), rng.random(len(c)), np.ones(len(c), int)) for c in corners]
        best = max(itertools.product(*map(range, counts)), key=lambda path: path_sum(frames, path))
        first = [linked.path.tolist().index(0) for linked in tube(frames, unlinked="drop")]
        rows = [int(linked.rows[i]) for linked, i in zip(tube(frames, unlinked="drop"), first, strict=True)]
        assert tuple(rows) == best


def path_sum(frames: Sequence[FrameBoxes], path: Sequence[int]) -> float:
    """Sum of s_i + s_j + IoU, by torchvision."""
    total = 0.0
    for (a, i), (b, j) in itertools.pairwise(zip(frames, path, strict=True)):
        wide = [torch.from_numpy(f.boxes[[r]] + np.array([0, 0, 1, 1])) for f, r in ((a, i), (b, j))]
        total += a.scores[i] + b.scores[j] + float(torchvision.ops.box_iou(*wide))
    return total


def test_every_box_of_a_tube_gains_the_mean_of_its_best_half() -> None:
    here = [0.0, 0.0, 9.0, 9.0]
    frames = [frame([[*here, score, 1]]) for score in (0.9, 0.1, 0.5, 0.3, 0.2)]
    gain = (0.9 + 0.5 + 0.3) / 3  # ceil(5 / 2) of them
    scores = [float(linked.scores[0]) for linked in tube(frames)]
    assert scores == pytest.approx([0.9 + gain, 0.1 + gain, 0.5 + gain, 0.3 + gain, 0.2 + gain], abs=1e-15)


def test_an_empty_frame_divides_and_a_lonely_box_keeps_its_score() -> None:
    here = [0.0, 0.0, 9.0, 9.0]
    frames = [frame([[*here, s, 1]]) if s else frame([]) for s in (0.8, 0.6, 0.0, 0.4, 0.0, 0.2, 0.2)]
    scores = [linked.scores.tolist() for linked in tube(frames)]
    assert scores == [[0.8 + 0.8], [0.6 + 0.8], [], [0.4], [], [0.2 + 0.2], [0.2 + 0.2]]
    jumped = [linked.scores.tolist() for linked in tube(frames, unlinked="drop")]
    gain = (0.8 + 0.6 + 0.4) / 3
    assert jumped == [[0.8 + gain], [0.6 + gain], [], [0.4 + gain], [], [0.2 + gain], [0.2 + gain]]


@pytest.mark.parametrize("link", [tube, blr])
def test_no_detection_is_lost_unless_asked(link: Link) -> None:
    frames = random_frames(5, coarse=False, num_frames=30)
    assert min(len(f) for f in frames) == 0
    linked = link(frames)
    assert [found.rows.tolist() for found in linked] == [list(range(len(f))) for f in frames]
    lonely = [(found.path == -1, found.scores, f.scores) for found, f in zip(linked, frames, strict=True)]
    assert any(alone.any() for alone, _, _ in lonely)
    for alone, scores, before in lonely:
        assert scores[alone].tolist() == before[alone].tolist()
        assert (scores[~alone] > before[~alone]).all()
    assert sum(len(found.rows) for found in link(frames, unlinked="drop")) < sum(len(f) for f in frames)


# ---- relations


def two_ways(weights: list[list[float]] | None, proposals: tuple[int, int] = (0, 1)) -> list[int]:
    """The way of the better box of frame 0 into frame 1, where a like and an unlike box wait; its path's rows."""
    first = frame([[0, 0, 9, 9, 0.9, 1]], proposal=np.array([0]), relation=weights and np.array(weights))
    second = frame([[0, 0, 9, 9, 0.5, 1], [20, 0, 29, 9, 0.5, 1]], proposal=np.array(proposals))
    third = frame([], relation=np.zeros((1, 1)), proposal=np.zeros(0, int))
    linked = blr([first, second, third])
    return np.flatnonzero(linked[1].path == linked[0].path[0]).tolist()


def test_relation_weights_choose_the_path() -> None:
    """(0.9 + 0.5 + 1) against (0.9 + 0.5) exp(w): w > log(2.4 / 1.4) = 0.539 turns the path."""
    assert two_ways(None) == [0]
    assert two_ways([[0.0, 0.53]]) == [0]
    assert two_ways([[0.0, 0.55]]) == [1]
    assert two_ways([[0.55, 0.0]], proposals=(1, 0)) == [1]  # through the map from detections to proposals
    assert two_ways([[0.0, 0.55]], proposals=(0, 2)) == [0]  # proposal 2 is not lent


def test_without_weights_relations_change_nothing() -> None:
    frames = random_frames(2, coarse=False, num_frames=12)
    silent = [FrameBoxes(f.boxes, f.scores, f.labels, f.proposal, np.zeros((15, 4))) for f in frames]
    assert_same(blr(silent), tube(frames))


def test_weights_that_are_all_alike_change_nothing() -> None:
    """A factor that all edges share leaves the best path the best, however large it is."""
    frames = synthetic_snippet(num_frames=12, num_boxes=20, num_classes=2, num_lent=20)
    last = len(frames) - 1
    alike = [
        FrameBoxes(f.boxes, f.scores, f.labels, np.arange(20), None if t == last else np.full((20, 20), 2.0))
        for t, f in enumerate(frames)
    ]
    assert_same(blr(alike), tube(frames))


def test_a_tube_that_jumps_over_a_frame_has_no_relation() -> None:
    """``drop`` leaves out frame 1, whose class is another: frame 0's weights on frame 1 say nothing of frame 2."""
    lure = np.array([[0.0, 5.0]])
    frames = [
        frame([[0, 0, 9, 9, 0.9, 1]], proposal=np.array([0]), relation=lure),
        frame([[0, 0, 9, 9, 0.9, 2]], proposal=np.array([0]), relation=lure),
        frame([[0, 0, 9, 9, 0.5, 1], [20, 0, 29, 9, 0.5, 1]], proposal=np.array([0, 1])),
    ]
    linked = blr(frames, unlinked="drop")
    assert linked[2].rows.tolist() == [0]
    assert_same(linked, plain_blr(frames, unlinked="drop"))


# ---- all of them

EVERY = [seq_nms, tube, blr]


@pytest.mark.parametrize("link", EVERY)
def test_nothing_in_nothing_out(link: Link) -> None:
    empty = frame([], proposal=np.zeros(0, int), relation=np.zeros((0, 0)))
    assert link([]) == []
    for count in (1, 3):
        linked = link([empty] * count)
        assert [(found.rows.shape, found.scores.shape) for found in linked] == [((0,), (0,))] * count


@pytest.mark.parametrize("link", EVERY)
def test_classes_do_not_meet(link: Link) -> None:
    """Together as apart; and the input stays as it was."""
    frames = random_frames(7, coarse=True, num_frames=10, classes=3)
    before = [(f.boxes.copy(), f.scores.copy()) for f in frames]
    together = link(frames)
    for boxes, scores, f in [(*b, f) for b, f in zip(before, frames, strict=True)]:
        assert (f.boxes == boxes).all()
        assert (f.scores == scores).all()
    for label in (1, 2, 3):
        own = [np.flatnonzero(f.labels == label) for f in frames]
        apart = link(
            [
                FrameBoxes(f.boxes[r], f.scores[r], f.labels[r], f.proposal[r], f.relation)  # type: ignore[index]
                for f, r in zip(frames, own, strict=True)
            ]
        )
        for whole, part, rows, f in zip(together, apart, own, frames, strict=True):
            chosen = f.labels[whole.rows] == label
            assert whole.rows[chosen].tolist() == rows[part.rows].tolist()
            assert whole.scores[chosen].tolist() == part.scores.tolist()


def test_bad_options_and_missing_relations_are_told() -> None:
    frames = [frame([[0, 0, 9, 9, 0.5, 1]])] * 3
    with pytest.raises(UserError, match=r"link_iou = 0 is not accepted"):
        seq_nms(frames, link_iou=0)
    with pytest.raises(UserError, match=r"unknown rescore 'men': did you mean 'mean'"):
        seq_nms(frames, rescore="men")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"unknown leftovers"):
        seq_nms(frames, leftovers="drop")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"unknown unlinked 'lose': .*accepted: drop, keep"):
        tube(frames, unlinked="lose")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"needs relation weights, and none of the 3 frames has any"):
        blr(frames)
    assert len(blr(frames[:1])) == 1  # a still image has no neighbour
