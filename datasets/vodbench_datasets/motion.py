"""Exact motion of generated video, a record a frame, and the flow between any two frames of a snippet.

Such a frame is made of layers, each placed by an affine map. Its record holds those maps and which layer each pixel
shows. What a pixel of frame a shows has moved by ``A_b A_a^-1`` of its layer when frame b is taken, so the flow of any
pair is exact and need not be stored: a record is some 0.5 KB at 128 pixels, a field of flow is 128 KB.

A record's bytes: ``vbm1``, then height and width (uint16) and the number of layers L (uint8), L x 2 x 3 float32, all
little-endian, then the layer map (uint8, row by row) as a zlib stream.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vodbench.errors import UserError
from vodbench.spec import Floats

UNKNOWN = 255  # in a layer map: something whose motion nobody knows (what is in front of all layers)

_HEADER = struct.Struct("<4sHHB")
_MAGIC = b"vbm1"
_FLOATS_A_LAYER = 6
_COMPRESSION = 1  # of zlib: 0.05 ms a frame; PNG takes 0.2 to 2 ms and is no smaller


@dataclass(frozen=True, slots=True)
class Motion:
    """Which layer each pixel of a frame shows, and where the layers lie; layer k is the same thing in every frame."""

    layers: npt.NDArray[np.uint8]  # (H, W) 0..L - 1, or UNKNOWN
    placements: Floats  # (L, 2, 3) from a layer's own coordinates to the frame's pixels, x before y

    def __post_init__(self) -> None:
        assert self.layers.ndim == 2, self.layers.shape
        assert self.placements.shape == (len(self.placements), 2, 3), self.placements.shape
        assert len(self.placements) <= UNKNOWN, len(self.placements)

    def encode(self) -> bytes:
        """The record, as the module describes it."""
        header = _HEADER.pack(_MAGIC, *self.layers.shape, len(self.placements))
        return header + self.placements.astype("<f4").tobytes() + zlib.compress(self.layers.tobytes(), _COMPRESSION)

    @staticmethod
    def decode(record: bytes, where: str) -> Motion:
        """The inverse of ``encode``.

        Raises:
            UserError: the bytes are no such record; ``where`` names them.
        """
        if len(record) < _HEADER.size or not record.startswith(_MAGIC):
            raise _damaged(where, f"its {len(record)} bytes do not begin as one")
        _, height, width, count = _HEADER.unpack_from(record)
        start = _HEADER.size + 4 * _FLOATS_A_LAYER * count
        if len(record) < start:
            raise _damaged(where, f"it ends within its {count} layers")
        placements = np.frombuffer(record, "<f4", _FLOATS_A_LAYER * count, _HEADER.size).reshape(count, 2, 3)
        if not np.isfinite(placements).all() or not np.linalg.det(placements[:, :, :2].astype(np.float64)).all():
            raise _damaged(where, "a layer has no place")
        layers = _inflated(record[start:], height * width, where)
        return Motion(layers.reshape(height, width), placements.astype(np.float32))


def flow_between(reference: Motion, other: Motion) -> Floats:
    """(H, W, 2) float32: how far, x and y in pixels, each pixel of ``reference`` is moved in ``other``.

    NaN where that is unknown: the pixel's layer is, or what it shows is not seen in ``other``, because the pixel on
    which it falls there lies outside or shows another layer. Up to the rounding of that pixel occlusion is exact.
    """
    height, width = reference.layers.shape
    coefficients = _steps(reference, other)[reference.layers]  # (H, W, 2, 3)
    y, x = np.mgrid[:height, :width]
    flow: npt.NDArray[np.float64] = np.einsum("hwij,jhw->hwi", coefficients, np.stack([x, y, np.ones_like(x)]))
    flow[~_seen(reference.layers, other.layers, x + flow[..., 0], y + flow[..., 1])] = np.nan
    return np.asarray(flow, np.float32)


def _steps(reference: Motion, other: Motion) -> npt.NDArray[np.float64]:
    """(256, 2, 3) by value of a layer map: the affine map from a pixel to its displacement; NaN where unknown."""
    count = min(len(reference.placements), len(other.placements))
    moved = _square(other.placements[:count]) @ np.linalg.inv(_square(reference.placements[:count]))
    steps = np.full((256, 2, 3), np.nan)
    steps[:count] = (moved - np.eye(3))[:, :2]
    return steps


def _seen(
    layers: npt.NDArray[np.uint8],
    other: npt.NDArray[np.uint8],
    x: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64],
) -> npt.NDArray[np.bool_]:
    """Whether the pixel at (x, y) of ``other`` shows the same layer; all but ``other`` (H, W) in the reference."""
    height, width = other.shape
    known = np.isfinite(x)
    column = np.rint(np.where(known, x, -1)).astype(np.int64)
    row = np.rint(np.where(known, y, -1)).astype(np.int64)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    seen: npt.NDArray[np.bool_] = inside.copy()
    seen[inside] = other[row[inside], column[inside]] == layers[inside]
    return seen


def _square(placements: Floats) -> npt.NDArray[np.float64]:
    """(L, 3, 3) of (L, 2, 3)."""
    square = np.tile(np.eye(3), (len(placements), 1, 1))
    square[:, :2] = placements
    return square


def _inflated(stream: bytes, size: int, where: str) -> npt.NDArray[np.uint8]:
    try:
        content = zlib.decompressobj().decompress(stream, size + 1)  # no more, whatever a damaged stream claims
    except zlib.error as error:
        raise _damaged(where, str(error)) from error
    if len(content) != size:
        raise _damaged(where, f"its layer map does not have {size} pixels")
    return np.frombuffer(content, np.uint8)


def _damaged(where: str, reason: str) -> UserError:
    return UserError(f"'{where}' is no record of motion ({reason}); restore it, or generate the video again")
