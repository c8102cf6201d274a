"""The list files of ILSVRC trees: plain snippet ids and the published forms.

=======================  ====================================================  =======================================
file                     line                                                  means
=======================  ====================================================  =======================================
train.txt, val.txt       ``snippet``                                           a snippet, all of it
train.txt, val.txt       ``snippet/000007 8`` (frame, running number)          one frame of a snippet
VID_train_15frames.txt   ``train/snippet 1 10 300`` (-, frame, length)         a frame to train on
VID_val_frames.txt       ``val/snippet/000007 8 7 464`` (frame, running        one frame of a snippet
                         number, frame, length)
VID_val_videos.txt       ``val/snippet 1 0 464`` (running number, 0, length)   a snippet, all of it
DET_train_30classes.txt  ``train/ILSVRC2013_train/n02691156/image 1``          a still image
=======================  ====================================================  =======================================
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field

from vodbench.errors import UserError

_SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Listed:
    """A snippet as its list file gives it."""

    id: str  # path below the split's folder
    split: str  # the split's folder in the tree; differs from the list's own split only if a line says so
    num_frames: int | None = None  # None: the list does not tell, count the files
    frames: tuple[int, ...] | None = None  # the frames to train on, where the list makes a choice
    still: bool = False


@dataclass(slots=True)
class _Lines:
    """What the lines about one snippet said."""

    lengths: set[int] = field(default_factory=set)
    frames: list[int] = field(default_factory=list)
    whole: int = 0  # lines that named no frame


def parse_videos(text: str, split: str, where: str) -> list[Listed]:
    """Snippets of a VID list, in order of first mention; ``UserError`` naming ``where`` for a line of another form."""
    found: dict[tuple[str, str], _Lines] = {}
    for place, columns in _rows(text, where):
        path, frame, length = _line(columns, place)
        lines = found.setdefault(_locate(path, split, place), _Lines())
        if frame is None:
            lines.whole += 1
        else:
            lines.frames.append(frame)
        if length is not None:
            lines.lengths.add(length)
    if not found:
        raise UserError(f"list '{where}' is empty; give one snippet a line")
    return [_listed(key, lines, where) for key, lines in found.items()]


def parse_stills(text: str, split: str, where: str) -> list[Listed]:
    """Still images of a DET list (``path`` or ``path number``), in order."""
    found: dict[tuple[str, str], Listed] = {}
    for place, columns in _rows(text, where):
        if len(columns) > 2:
            raise UserError(f"{place}: {' '.join(columns)!r} is not 'image' or 'image number'; correct the line")
        key = _locate(columns[0], split, place)
        if key in found:
            raise UserError(f"{place}: image '{columns[0]}' is listed twice; remove one line")
        found[key] = Listed(id=key[1], split=key[0], num_frames=1, still=True)
    if not found:
        raise UserError(f"list '{where}' is empty; give one image a line")
    return list(found.values())


def _rows(text: str, where: str) -> Iterator[tuple[str, list[str]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield f"list '{where}' line {number}", line.split()


def _line(columns: list[str], place: str) -> tuple[str, int | None, int | None]:
    """(snippet path, frame, snippet length) of a line; None for what it does not tell."""
    path, *rest = columns
    try:
        numbers = [int(text) for text in rest]
    except ValueError:
        numbers = [-1] * 2
    folder, _, name = path.rpartition("/")
    names_frame = bool(folder) and folder not in _SPLITS and name.isdecimal()
    if len(numbers) < 2 and min(numbers, default=0) >= 0:
        return (folder, int(name), None) if names_frame and numbers else (path, None, None)
    if len(numbers) == 3 and 0 <= numbers[1] < numbers[2]:
        return folder if names_frame and int(name) == numbers[1] else path, numbers[1], numbers[2]
    raise UserError(
        f"{place}: {' '.join(columns)!r} is neither a snippet id, 'snippet/frame number' nor "
        "'snippet number frame length' with 0 <= frame < length; correct the line"
    )


def _locate(path: str, split: str, place: str) -> tuple[str, str]:
    """(split folder, id) of a listed path; published lists start lines with the split's folder."""
    if path.startswith("/") or ".." in path.split("/"):
        raise UserError(f"{place}: '{path}' leaves the data root; give a path below the split's folder")
    head, _, rest = posixpath.normpath(path).partition("/")
    return (head, rest) if rest and head in _SPLITS else (split, posixpath.normpath(path))


def _listed(key: tuple[str, str], lines: _Lines, where: str) -> Listed:
    split, id = key
    frames = sorted(set(lines.frames))
    if len(lines.lengths) > 1:
        raise UserError(f"list '{where}' gives snippet '{id}' the lengths {sorted(lines.lengths)}; correct the lines")
    if lines.whole > 1 or len(frames) < len(lines.frames) or (lines.whole and frames):
        raise UserError(f"list '{where}' names snippet '{id}' or one of its frames twice; remove the extra lines")
    length = next(iter(lines.lengths), None)
    if frames == list(range(len(frames))):  # all frames, or VID_val_videos' single line: no choice was made
        length = length or len(frames) or None
        if length == len(frames) or len(frames) == 1:
            frames = []
    return Listed(id=id, split=split, num_frames=length, frames=tuple(frames) or None)
