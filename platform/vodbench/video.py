"""Detecting in a plain video and drawing what was found."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vodbench.drawing import draw, palette, side_by_side
from vodbench.errors import UserError, unknown
from vodbench.knobs import MethodConfig
from vodbench.prefetch import prefetch
from vodbench.reading import FRAMES_AHEAD
from vodbench.spec import ClassInfo, Detections, IllustratedStream, Image, Method, Stream
from vodbench.video_files import FrameSource, VideoWriter, check_output

MAX_UPSCALE = 16  # what is larger is no video that anybody plays


@dataclass(frozen=True, slots=True)
class Prediction:
    """What was written."""

    num_frames: int
    num_boxes: int  # drawn
    largest_buffer: int  # frames that waited for their detections at once


def predict_video(
    method: Method,
    config: MethodConfig,
    classes: Sequence[ClassInfo],
    source: FrameSource,
    out: str,
    *,
    score: float = 0.3,
    upscale: int = 1,
    show: Sequence[str] = (),
    on_progress: Callable[[int], None] | None = None,
) -> Prediction:
    """Stream ``source`` through ``method`` and write it to ``out`` with boxes, names and scores.

    A frame waits in memory only until its detections are final: a look-ahead method holds T frames, whatever the
    video's length. Frame rate and size are kept (times ``upscale``); sound is not written.

    Args:
        method: in evaluation mode, on its device.
        config: may differ from the method's own in inference knobs.
        score: only detections of at least this score are drawn, in [0, 1].
        show: pictures of the stream (``IllustratedStream``) to put to the right of each frame.
        on_progress: called with the number of frames written.

    Raises:
        UserError: ``out`` cannot be written or is the input, a number is out of range, the method shows no such
            picture, a frame does not decode. Nothing is left half-written.
    """
    if not 0 <= score <= 1:
        raise UserError(f"score = {score:g} is not accepted: a number in [0, 1]")
    if not 1 <= upscale <= MAX_UPSCALE:
        raise UserError(f"upscale = {upscale} is not accepted: an integer in [1, {MAX_UPSCALE}]")
    check_output(out, source.name)
    stream = method.stream(config)
    illustrate = _illustrator(stream, show)
    names = [c.name for c in classes]
    colors = palette(names)
    waiting: deque[tuple[Image, list[Image]]] = deque()
    written = drawn = largest = 0

    with VideoWriter(out, source.fps) as writer, torch.inference_mode():

        def write(final: Sequence[Detections]) -> None:
            nonlocal written, drawn
            for found in final:
                keep = np.flatnonzero(found.scores >= score)
                labels = [names[label - 1] for label in found.labels[keep]]
                image, pictures = waiting.popleft()
                drawn_image = draw(image, found.boxes[keep], labels, found.scores[keep], upscale=upscale, colors=colors)
                writer.write(side_by_side(drawn_image, *pictures))
                written += 1
                drawn += len(keep)
                if on_progress:
                    on_progress(written)

        for image in prefetch(source.images, FRAMES_AHEAD):
            final = stream.push(image)
            waiting.append((image, illustrate()))
            largest = max(largest, len(waiting))
            write(final)
        write(stream.close())
        assert not waiting, f"{type(method).__name__}: its stream kept back the detections of {len(waiting)} frames"
    return Prediction(written, drawn, largest)


def _illustrator(stream: Stream, show: Sequence[str]) -> Callable[[], list[Image]]:
    """Gives the pictures asked for of the frame that was pushed last."""
    if not show:
        return list
    if not isinstance(stream, IllustratedStream):
        raise UserError(
            f"show = {', '.join(show)}: {type(stream).__name__} has no pictures to show; methods that propagate "
            "features from key frames have, without linking"
        )
    for name in show:
        if name not in stream.shows:
            raise unknown("picture", name, stream.shows)

    def pictures() -> list[Image]:
        made = stream.pictures()
        return [made[name] for name in show]

    return pictures
