"""Content hashes of rows and snippets: what makes a flipped byte findable, and nameable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from vodbench.spec import Frame
from vodbench_datasets.shards.layout import DIGEST_BYTES


def image_digest(frame: Frame) -> bytes:
    """16 bytes over the encoded image."""
    return hashlib.blake2b(frame.encoded, digest_size=DIGEST_BYTES).digest()


def truth_digest(frame: Frame) -> bytes:
    """16 bytes over everything else: snippet, index, every annotated value bit by bit, deteriorations, motion."""
    truth = frame.truth
    head = json.dumps([frame.snippet, frame.index, len(truth.labels), sorted(frame.deteriorations.items())])
    digest = hashlib.blake2b(head.encode(), digest_size=DIGEST_BYTES)
    digest.update(truth.boxes.astype("<f4").tobytes())
    for values in (truth.labels, truth.track_ids):
        digest.update(values.astype("<i8").tobytes())
    for flags in (truth.occluded, truth.generated):
        digest.update(flags.astype("?").tobytes())
    digest.update(frame.motion)
    return digest.digest()


def snippet_fingerprint(rows: Iterable[tuple[bytes, bytes]]) -> str:
    """32 hex digits over the (image, truth) digests of a snippet's frames, in order."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for image, truth in rows:
        digest.update(image + truth)
    return digest.hexdigest()
