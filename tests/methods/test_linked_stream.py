"""Linking behind a detector's stream: everything at the end, as one call on the whole snippet."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import pytest

from vodbench.errors import UserError
from vodbench.spec import Image
from vodbench_methods.linking import FrameBoxes, LinkedStream, link, wants_candidates, wants_relations
from vodbench_methods.linking.synthetic import synthetic_snippet

IMAGE = np.zeros((4, 4, 3), np.uint8)


class LaggingStream:
    """A detector that is ``lag`` frames late."""

    def __init__(self, frames: list[FrameBoxes], lag: int) -> None:
        self._frames, self._lag, self._pushed = frames, lag, 0

    def push(self, image: Image) -> list[FrameBoxes]:
        self._pushed += 1
        due = self._pushed - 1 - self._lag
        return self._frames[due : due + 1] if due >= 0 else []

    def close(self) -> list[FrameBoxes]:
        return self._frames[max(0, len(self._frames) - self._lag) :]


class StageNames:
    def __init__(self) -> None:
        self.names: list[str] = []

    def stage(self, name: str) -> AbstractContextManager[None]:
        self.names.append(name)
        return nullcontext()


@pytest.mark.parametrize("lag", [0, 3])
@pytest.mark.parametrize("linking", ["none", "seq-nms", "tube", "blr"])
def test_a_linked_stream_gives_the_linked_snippet_at_its_end(linking: str, lag: int) -> None:
    frames = synthetic_snippet(num_frames=7, num_boxes=30, num_classes=2)
    clock = StageNames()
    stream = LinkedStream(LaggingStream(frames, lag), linking, clock=clock)
    assert [stream.push(IMAGE) for _ in frames] == [[]] * len(frames)
    found, expected = stream.close(), link(frames, linking)
    assert clock.names == ["linking"]
    assert len(found) == len(frames)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.boxes.dtype, ours.scores.dtype, ours.labels.dtype) == (np.float32, np.float32, np.int64)
        for a, b in ((ours.boxes, theirs.boxes), (ours.scores, theirs.scores), (ours.labels, theirs.labels)):
            np.testing.assert_array_equal(a, b)
        assert (np.diff(ours.scores) <= 0).all()
        assert ours.scores.min() >= 0
        assert ours.scores.max() <= 1


def test_a_stream_without_frames_closes_to_nothing() -> None:
    assert LinkedStream(LaggingStream([], 2), "tube", clock=StageNames()).close() == []


def test_halved_tube_scores_keep_boxes_and_order() -> None:
    frames = synthetic_snippet(num_frames=5, num_boxes=20, num_classes=2)
    for before, after in zip(link(frames, "none"), link(frames, "tube"), strict=True):
        own = {tuple(box): score for box, score in zip(before.boxes.tolist(), before.scores.tolist(), strict=True)}
        assert {tuple(box) for box in after.boxes.tolist()} == set(own)
        for box, score in zip(after.boxes.tolist(), after.scores.tolist(), strict=True):
            assert score >= own[tuple(box)] / 2


def test_a_still_image_comes_out_of_seq_nms_without_duplicates() -> None:
    """Its published code would leave all candidates, as there is nothing to link."""
    boxes = np.array([[0.0, 0, 9, 9], [0, 0, 9, 8], [50, 50, 59, 59], [0, 0, 9, 9]])
    still = FrameBoxes(boxes, np.array([0.7, 0.9, 0.004, 0.8]), np.array([1, 1, 1, 2]))
    (found,) = link([still], "seq-nms")
    assert found.boxes.tolist() == boxes[[1, 3, 2]].tolist()
    assert found.labels.tolist() == [1, 2, 1]


def test_the_limit_keeps_the_best() -> None:
    frames = synthetic_snippet(num_frames=4, num_boxes=20, num_classes=2)
    for few, all_ in zip(link(frames, "tube", limit=6), link(frames, "tube"), strict=True):
        assert few.scores.tolist() == all_.scores.tolist()[:6]
        assert few.boxes.tolist() == all_.boxes.tolist()[:6]


def test_what_each_linking_wants() -> None:
    assert [wants_candidates(name) for name in ("none", "seq-nms", "tube", "blr")] == [False, True, False, False]
    assert [wants_relations(name) for name in ("none", "seq-nms", "tube", "blr")] == [False, False, False, True]
    with pytest.raises(UserError, match=r"unknown linking 'seqnms': did you mean 'seq-nms'"):
        LinkedStream(LaggingStream([], 0), "seqnms", clock=StageNames())


def test_candidates_before_nms_from_class_scores() -> None:
    scores = np.array([[0.9, 0.0], [0.2, 0.6]])
    shared = np.array([[0.0, 0, 1, 1], [2, 2, 3, 3]])
    found = FrameBoxes.from_class_scores(shared, scores, threshold=0.1)
    assert (found.labels.tolist(), found.scores.tolist()) == ([1, 1, 2], [0.9, 0.2, 0.6])
    assert found.boxes.tolist() == shared[[0, 1, 1]].tolist()
    assert found.proposal is not None
    assert found.proposal.tolist() == [0, 1, 1]
    own = np.stack([shared, shared + 10], axis=1)  # one box a class
    per_class = FrameBoxes.from_class_scores(own, scores, threshold=0.1)
    assert per_class.boxes.tolist() == [own[0, 0].tolist(), own[1, 0].tolist(), own[1, 1].tolist()]


def test_records_that_contradict_themselves_are_our_mistake() -> None:
    boxes, scores, labels = np.zeros((2, 4)), np.zeros(2), np.ones(2, int)
    with pytest.raises(AssertionError, match="boxes of shape"):
        FrameBoxes(boxes[:1], scores, labels)
    with pytest.raises(AssertionError, match="finite"):
        FrameBoxes(boxes, np.array([0.1, np.nan]), labels)
    with pytest.raises(AssertionError, match="cover 1 proposals only"):
        FrameBoxes(boxes, scores, labels, np.array([0, 1]), np.zeros((1, 3)))
