"""A detector's stream with linking behind it, and what its stream has to offer for that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast, get_args

from vodbench.spec import Clock, Detections, Image
from vodbench_methods.linking.chains import seq_nms
from vodbench_methods.linking.records import FrameBoxes, accepted
from vodbench_methods.linking.tubes import Unlinked, blr, tube

LINKINGS = ("none", "seq-nms", "tube", "blr")


class BoxStream(Protocol):
    """One video going through a detector that keeps what linking needs; otherwise a ``Stream``.

    Per frame, in frame order and with whatever lag the detector has, boxes in pixels of the original frame:

    - where ``wants_candidates(linking)``: all (proposal, class) above the score threshold, *before* NMS and without a
      cap on their number (``FrameBoxes.from_class_scores``); else the detections after NMS;
    - where ``wants_relations(linking)``: ``proposal`` of every box, and ``relation`` for every frame but the last.
    """

    def push(self, image: Image) -> list[FrameBoxes]: ...

    def close(self) -> list[FrameBoxes]: ...


class EncodedBoxStream(BoxStream, Protocol):
    """One that takes encoded frames as well (``vodbench.spec.EncodedStream``)."""

    def push_encoded(self, encoded: Any) -> list[FrameBoxes]: ...


def wants_candidates(linking: str) -> bool:
    """Does this linking take the boxes before NMS? ``UserError`` for an unknown one."""
    return _known(linking) == "seq-nms"


def wants_relations(linking: str) -> bool:
    """Does this linking take relation weights? ``UserError`` for an unknown one."""
    return _known(linking) == "blr"


def link(
    frames: Sequence[FrameBoxes], linking: str, *, limit: int | None = None, unlinked: str = "keep"
) -> list[Detections]:
    """Final detections of one snippet, frame by frame, scores in [0, 1].

    Args:
        linking: one of ``LINKINGS``; ``UserError`` otherwise. ``none`` sorts and nothing else.
        limit: at most so many a frame, the best ones (None: all).
        unlinked: whether tubes keep or drop the boxes that none of them takes.

    A detector's boxes must come out free of duplicates, so Seq-NMS suppresses what its published code leaves
    (``leftovers="suppress"``). Tube scores are sums of two scores; all of the snippet, and of every other snippet, are
    halved, which keeps their order.
    """
    if _known(linking) == "seq-nms":
        linked, scale = seq_nms(frames, leftovers="suppress"), 1.0
    elif linking == "none":
        linked, scale = [frame.unlinked() for frame in frames], 1.0
    else:
        choice = cast(Unlinked, accepted("unlinked", unlinked, get_args(Unlinked)))
        linked, scale = (blr if linking == "blr" else tube)(frames, unlinked=choice), 0.5
    return [found.detections(frame, scale=scale, limit=limit) for found, frame in zip(linked, frames, strict=True)]


class LinkedStream:
    """A ``Stream`` that keeps every frame's boxes, and links and returns them all when the video ends.

    ``limit``: detections a frame. The work of ``close`` is the stage "linking" of ``clock``.
    """

    def __init__(
        self, stream: BoxStream, linking: str, *, clock: Clock, limit: int | None = None, unlinked: str = "keep"
    ) -> None:
        self._stream, self._linking, self._clock = stream, _known(linking), clock
        self._limit, self._unlinked = limit, unlinked
        self._frames: list[FrameBoxes] = []

    def push(self, image: Image) -> list[Detections]:
        """Nothing is final before the end."""
        self._frames += self._stream.push(image)
        return []

    def close(self) -> list[Detections]:
        frames, self._frames = self._frames + self._stream.close(), []
        with self._clock.stage("linking"):
            return link(frames, self._linking, limit=self._limit, unlinked=self._unlinked)


class LinkedEncodedStream(LinkedStream):
    """The same behind a stream that takes encoded frames, so that a sweep encodes each frame once."""

    _stream: EncodedBoxStream

    def push_encoded(self, encoded: Any) -> list[Detections]:
        self._frames += self._stream.push_encoded(encoded)
        return []


def linked_stream(
    stream: BoxStream, linking: str, *, clock: Clock, limit: int | None = None, unlinked: str = "keep"
) -> LinkedStream:
    """``stream`` with linking behind it; takes encoded frames where ``stream`` does."""
    kind = LinkedEncodedStream if hasattr(stream, "push_encoded") else LinkedStream
    return kind(stream, linking, clock=clock, limit=limit, unlinked=unlinked)


def _known(linking: str) -> str:
    return accepted("linking", linking, LINKINGS)
