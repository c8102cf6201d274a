"""What a pass has finished so far: a Parquet file a snippet, below ``OUT.parts/``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence

import numpy as np

from vodbench.detections import DetectionSet, concatenate, read_detections
from vodbench.errors import UserError
from vodbench.fingerprint import fingerprint
from vodbench.spec import SnippetInfo
from vodbench.storage import exists, join

FEATURES = "features"  # provenance: how features were rounded before they were used; absent where they were not
BAD_FRAMES = "bad_frames"  # provenance: JSON list of [snippet, frame, reason] that did not decode


def parts_url(out_url: str) -> str:
    """The folder of the parts of ``out_url``."""
    return out_url + ".parts"


def part_url(out_url: str, snippet: str) -> str:
    """Where one snippet's detections go."""
    return join(parts_url(out_url), fingerprint(snippet) + ".parquet")


def finished(url: str, provenance: Mapping[str, str], snippets: Sequence[SnippetInfo]) -> DetectionSet | None:
    """What is stored at ``url``, if it is of the same origin and has every frame; None is to be made (again)."""
    if not exists(url):
        return None
    try:
        stored = read_detections(url)
    except UserError:  # damaged, or of another version: made again, which replaces it
        return None
    same = all(stored.provenance.get(name) == provenance.get(name) for name in (*provenance, FEATURES))
    wanted = [info.num_frames for info in snippets]
    if not same or stored.snippet_ids != tuple(info.id for info in snippets):
        return None
    return stored if np.bincount(stored.snippet, minlength=len(snippets)).tolist() == wanted else None


def assembled(out_url: str, snippets: Sequence[SnippetInfo], provenance: Mapping[str, str]) -> DetectionSet:
    """All parts as one set, with the list of all frames that did not decode."""
    parts = [read_detections(part_url(out_url, info.id)) for info in snippets]
    bad = [entry for part in parts for entry in json.loads(part.provenance.get(BAD_FRAMES, "[]"))]
    extra = {BAD_FRAMES: json.dumps(bad)} if bad else {}
    return dataclasses.replace(concatenate(parts), provenance={**provenance, **extra})
