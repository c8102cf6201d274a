"""What a sweep spent its time on, part by part, beside what the trials' records say: ``vodbench plan`` learns from it.

::

    OUT/times/<what>-<id>.json    one file a Ray Train run ("train"), accuracy pass ("detect") and run of the sweep
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from vodbench.errors import UserError
from vodbench.storage import filesystem, join, read_text, write_text

TRAIN, DETECT, SWEEP = "train", "detect", "sweep"
_FACTS = {
    TRAIN: ("stages",),
    DETECT: ("trials", "frames", "workers"),
    SWEEP: ("trials", "ready_s", "ended_s", "at_once", "pressure"),
}


def note_time(folder: str, what: str, seconds: float, **facts: Any) -> None:
    """Keep how long something took. In a file of its own: several processes may write at once."""
    values = {"seconds": round(seconds, 3), **facts}
    write_text(join(folder, "times", f"{what}-{uuid.uuid4().hex[:16]}.json"), json.dumps(values, indent=1))


def noted_times(folder: str, what: str) -> Iterator[Mapping[str, Any]]:
    """What was kept of that kind, in no order. ``UserError`` for a damaged file."""
    fs, path = filesystem(join(folder, "times"))
    for file in sorted(fs.glob(f"{path}/{what}-*.json")):
        url = str(fs.unstrip_protocol(file))
        try:
            values = json.loads(read_text(url))
            float(values["seconds"])
            values = {name: values[name] for name in ("seconds", *_FACTS[what])}
        except (ValueError, TypeError, KeyError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"'{url}' is damaged ({error!r}); delete it") from error
        yield values
