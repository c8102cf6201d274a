"""Video in and out: plain video files, folders of images, snippets of a data set."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np

from vodbench.data_source import DataSource
from vodbench.errors import UserError, unknown
from vodbench.images import decode
from vodbench.reading import decoded_frames
from vodbench.spec import Image
from vodbench.storage import make_folder

DEFAULT_FPS = Fraction(25)  # of images, which say nothing about time
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".avi")

# Preferred encoder first; which are there depends on how PyAV was built.
ENCODERS = ("libx264", "libopenh264", "mpeg4")


@dataclass(frozen=True, slots=True)
class FrameSource:
    """Frames to be detected, in order."""

    name: str
    fps: Fraction
    num_frames: int | None  # where known beforehand
    images: Callable[[], Iterator[Image]]
    has_audio: bool = False


# ---- in -----------------------------------------------------------------------------------------------------


def open_frames(path: str, fps: float | None = None) -> FrameSource:
    """A video file or a folder of images. ``UserError`` when it is missing, empty, or neither."""
    if not os.path.exists(path):
        raise UserError(f"'{path}' does not exist; give a video file, or a folder of images")
    return _image_folder(path, fps) if os.path.isdir(path) else _video_file(path, fps)


def open_snippet(source: DataSource, snippet: str, fps: float | None = None) -> FrameSource:
    """A snippet of any split of a data set."""
    dataset = source.open()
    known: list[str] = []
    for split in dataset.splits:
        for info in dataset.snippets(split):
            if info.id == snippet and info.num_frames:

                def images(split: str = split, info: Any = info) -> Iterator[Image]:
                    return (frame.pixels() for frame in decoded_frames(dataset, split, info))

                return FrameSource(f"snippet {snippet}", _rate(fps), info.num_frames, images)
            known.append(info.id)
    raise unknown("snippet", snippet, known[:20])


def _video_file(path: str, fps: float | None) -> FrameSource:
    try:
        with av.open(path) as container:
            if not container.streams.video:
                raise UserError(f"'{path}' has no video stream; give a video file")
            stream = container.streams.video[0]
            if next(container.decode(stream), None) is None:
                raise UserError(f"'{path}' has no frames; give a video with at least one")
            rate = Fraction(stream.average_rate or stream.guessed_rate or DEFAULT_FPS)
            number, audio = stream.frames or None, bool(container.streams.audio)
    except av.error.FFmpegError as error:
        raise UserError(f"'{path}' is not a video that can be read ({error.strerror}); give a video file") from error
    return FrameSource(path, _rate(fps) if fps else rate, number, lambda: _decoded_video(path), audio)


def _decoded_video(path: str) -> Iterator[Image]:
    number = 0
    try:
        with av.open(path) as container:
            container.streams.video[0].thread_type = "AUTO"
            for frame in container.decode(video=0):
                # Phones record upright video lying down and say by how much to turn it.
                turned = np.rot90(frame.to_ndarray(format="rgb24"), k=round(frame.rotation / 90) % 4)
                yield np.ascontiguousarray(turned)
                number += 1
    except av.error.FFmpegError as error:
        raise UserError(f"'{path}' is damaged at frame {number} ({error.strerror}); repair or cut it") from error


def _image_folder(path: str, fps: float | None) -> FrameSource:
    files = sorted((f for f in Path(path).iterdir() if f.suffix.lower() in IMAGE_SUFFIXES), key=_natural)
    if not files:
        raise UserError(f"folder '{path}' has no images; accepted: {', '.join(IMAGE_SUFFIXES)}")
    return FrameSource(path, _rate(fps), len(files), lambda: (decode(f.read_bytes(), str(f)) for f in files))


def _natural(file: Path) -> list[tuple[int, str]]:
    """Sorts frame_2 before frame_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", file.name)]


def _rate(fps: float | None) -> Fraction:
    if fps is None:
        return DEFAULT_FPS
    if not 0.01 <= fps <= 1000:
        raise UserError(f"fps = {fps:g} is not accepted: a number in [0.01, 1000]")
    return Fraction(fps).limit_denominator(1001)


# ---- out ----------------------------------------------------------------------------------------------------


def check_output(out: str, *inputs: str) -> None:
    """``UserError`` when no video can be written to ``out``; writes nothing."""
    path = Path(out)
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise UserError(f"output '{out}' is not a video file name; accepted: {', '.join(VIDEO_SUFFIXES)}")
    if not path.parent.is_dir():
        raise UserError(f"the folder of output '{out}' does not exist; make it first")
    make_folder(str(path.parent))  # is there; can it be written to?
    if path.is_dir():
        raise UserError(f"output '{out}' is a folder; give a file name, for example annotated.mp4")
    for given in inputs:
        if path.exists() and os.path.exists(given) and path.samefile(given):
            raise UserError(f"output '{out}' is the input; give another name")


def pick_encoder() -> str:
    """The first of ``ENCODERS`` that this PyAV has."""
    for name in ENCODERS:
        try:
            return str(av.codec.Codec(name, "w").name)
        except av.codec.codec.UnknownCodecError:
            continue
    raise UserError(f"this PyAV has no video encoder ({', '.join(ENCODERS)}); install PyAV's own wheel")


class VideoWriter:
    """Writes RGB frames of one size; the file appears under its name when it is complete.

    Common players want sides that are even: an odd one gets its last row or column twice.
    """

    def __init__(self, path: str, fps: Fraction) -> None:
        self._path = Path(path)
        self._temporary = self._path.with_name(f".{self._path.stem}.{uuid.uuid4().hex}{self._path.suffix}")
        self._fps = fps
        self._container: Any = None
        self._stream: Any = None
        self._shape: tuple[int, ...] = ()

    def __enter__(self) -> VideoWriter:
        self._container = av.open(str(self._temporary), "w")
        return self

    def write(self, image: Image) -> None:
        """Append a (H, W, 3) uint8 RGB frame; ``UserError`` when its size is not that of the first."""
        if self._stream is None:
            self._open_stream(image)
        if image.shape != self._shape:
            raise UserError(
                f"a frame is {_size(image.shape)}, the first was {_size(self._shape)}; give frames of one size"
            )
        height, width = image.shape[:2]
        even = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))

    def _open_stream(self, image: Image) -> None:
        self._shape = image.shape
        height, width = (side + side % 2 for side in image.shape[:2])
        encoder = pick_encoder()
        self._stream = self._container.add_stream(encoder, rate=self._fps)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        if encoder == "libx264":
            self._stream.options = {"crf": "18", "preset": "veryfast"}  # looks lossless; thin lines stay sharp
        else:
            self._stream.bit_rate = int(0.25 * width * height * self._fps)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None and self._stream is not None:
                self._container.mux(self._stream.encode())
            self._container.close()
            if kind is None:
                os.replace(self._temporary, self._path)
        finally:
            self._temporary.unlink(missing_ok=True)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"
