"""Records of exact motion, kept beside the annotations of generated video.

``Motion/VID/<split>/<snippet>/<frame>.motion`` is the record of one frame; see ``vodbench_datasets.motion``. A tree has
them for all frames of a split or for none.
"""

from __future__ import annotations

FOLDER = "Motion"


def motion_path(folder: str, name: str) -> str:
    """Path below the root for a frame of a snippet's folder (``VID/val/snippet``)."""
    return f"{FOLDER}/{folder}/{name}.motion"
