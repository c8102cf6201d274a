"""Decoding and encoding of image files."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import pytest

from vodbench.errors import UserError
from vodbench.images import decode, encode_jpeg


def gradient(height: int = 40, width: int = 56) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=-1).astype(np.uint8)


def test_png_decodes_to_the_same_rgb_pixels() -> None:
    image = gradient()
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, "PNG")
    np.testing.assert_array_equal(decode(file.getvalue(), "a.png"), image)


def test_jpeg_agrees_with_pillow_and_keeps_channel_order() -> None:
    encoded = encode_jpeg(gradient(), quality=95)
    decoded = decode(encoded, "a.jpg")
    oracle = np.asarray(PIL.Image.open(io.BytesIO(encoded)).convert("RGB"))
    # Two JPEG decoders may differ by rounding in the colour conversion and upsampling, not by a channel swap.
    assert np.abs(decoded.astype(int) - oracle).max() <= 3
    assert decoded.dtype == np.uint8


def test_grey_files_become_rgb() -> None:
    file = io.BytesIO()
    PIL.Image.fromarray(gradient()[..., 0]).save(file, "PNG")
    decoded = decode(file.getvalue(), "grey.png")
    np.testing.assert_array_equal(decoded, np.repeat(gradient()[..., :1], 3, axis=2))


def test_exif_orientation_is_not_applied_since_boxes_are_in_stored_pixels() -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees to display"
    file = io.BytesIO()
    PIL.Image.fromarray(gradient()).save(file, "JPEG", exif=exif)
    assert decode(file.getvalue(), "rotated.jpg").shape == (40, 56, 3)


@pytest.mark.parametrize("encoded", [b"", b"not an image", b"\xff\xd8\xff\xd9"])
def test_what_is_no_image_names_the_file(encoded: bytes) -> None:
    with pytest.raises(UserError, match=r"snippet_7/000003\.JPEG"):
        decode(encoded, "snippet_7/000003.JPEG")


def test_a_truncated_jpeg_is_an_error_not_half_a_grey_picture() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    encoded = encode_jpeg(noise)
    for share in (0.5, 0.9, 0.999):
        with pytest.raises(UserError, match=r"half\.jpg.*truncated"):
            decode(encoded[: int(len(encoded) * share)], "half.jpg")
    decode(encoded + b"\0" * 16, "padded.jpg")
