"""Encoded image files to pixels and back. One decoder for training, evaluation and prediction."""

from __future__ import annotations

import cv2
import numpy as np

from vodbench.errors import UserError
from vodbench.spec import Image

# Annotations are in stored pixels, so the EXIF orientation is not applied (cv2 applies it unless told otherwise).
_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"


def decode(encoded: bytes, where: str) -> Image:
    """The pixels of a JPEG, PNG or any other file that OpenCV reads.

    Args:
        encoded: the file's bytes.
        where: how to name the file in an error: its path, or snippet and frame.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        UserError: the bytes are no image, or a JPEG that ends early (decoders fill the rest with grey).
    """
    if not encoded:
        raise UserError(f"'{where}' is an empty file, not an image; restore it or leave the frame out")
    if _ends_early(encoded):
        raise UserError(f"'{where}' is a truncated JPEG ({len(encoded)} bytes, no end marker); restore the file")
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), _FLAGS)
    except cv2.error:
        image = None
    if image is None:
        raise UserError(f"'{where}' does not decode as an image ({len(encoded)} bytes); give a JPEG or PNG file")
    return np.asarray(image, np.uint8)


def encode_jpeg(image: Image, quality: int = 90) -> bytes:
    """A (H, W, 3) uint8 RGB image as baseline JPEG bytes; ``quality`` in 1..100."""
    done, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done, f"OpenCV cannot encode an image of shape {image.shape}"
    return bytes(encoded.tobytes())


def _ends_early(encoded: bytes) -> bool:
    """Whether a JPEG lacks the end marker after its last scan. Inside a scan 0xff is stuffed, so the test is exact."""
    return encoded.startswith(_JPEG_START) and encoded.rfind(_JPEG_END) < encoded.rfind(_JPEG_SCAN)
