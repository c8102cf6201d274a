"""The record of what spoils each frame of a snippet, kept beside the annotations of generated video.

``Deteriorations/VID/<split>/<snippet>.json`` holds, by frame name, the strength in (0, 1] of each deterioration that
touches the frame: ``{"000007": {"motion_blur": 0.8}}``. Frames that nothing touches are left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypeAlias

from vodbench.errors import UserError

FOLDER = "Deteriorations"

Record: TypeAlias = Mapping[str, Mapping[str, float]]


def record_path(folder: str) -> str:
    """Path below the root for a snippet's folder (``VID/val/snippet``)."""
    return f"{FOLDER}/{folder}.json"


def parse_record(text: str, where: str) -> Record:
    """The record of one snippet; ``UserError`` naming ``where`` when it has another form."""
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"'{where}' is not valid JSON ({error}); restore it or remove it") from error
    if not isinstance(record, dict) or not all(_is_frame(frame) for frame in record.values()):
        raise UserError(
            f"'{where}' is not a record of deteriorations; give {{frame name: {{deterioration: strength in (0, 1]}}}}"
        )
    return record


def _is_frame(frame: object) -> bool:
    return isinstance(frame, dict) and all(
        isinstance(strength, int | float) and not isinstance(strength, bool) and 0 < strength <= 1
        for strength in frame.values()
    )
