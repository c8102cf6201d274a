"""From list files to the snippets of a split: which folder, how many frames, under which names."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vodbench.errors import UserError, nearest
from vodbench.spec import SnippetInfo
from vodbench_datasets.ilsvrc.lists import Listed
from vodbench_datasets.ilsvrc.tree import Tree, stems

IMAGE_EXTENSIONS = (".JPEG", ".jpg", ".jpeg", ".png")
SPLITS = ("train", "val")

# Where published trees and tool kits keep lists, and which list stands for a split when there are several: the one of
# the protocol before the plain one, videos before frames (it is shorter and says the same).
_LIST_FOLDERS = ("ImageSets/VID", "ImageSets/DET", "ImageSets", "Lists")
_VIDEO_LISTS: Mapping[str, Sequence[str]] = {
    "train": ("VID_train_15frames.txt", "train.txt"),
    "val": ("VID_val_videos.txt", "VID_val_frames.txt", "val.txt"),
}
_STILL_LISTS: Mapping[str, Sequence[str]] = {"train": ("DET_train_30classes.txt",), "val": ()}


@dataclass(frozen=True, slots=True)
class Snippet:
    """A snippet found in the tree. Frame i is ``Data/{folder}/{names[i]}{extension}``."""

    info: SnippetInfo
    folder: str  # below Data/ and Annotations/, e.g. "VID/val/ILSVRC2015_val_00000000"
    extension: str = IMAGE_EXTENSIONS[0]
    names: tuple[str, ...] | None = None  # stems by frame; None: 000000, 000001, ...
    chosen: tuple[int, ...] | None = None  # frames the list names for training, by number

    def name(self, index: int) -> str:
        return f"{index:06d}" if self.names is None else self.names[index]

    def image(self, index: int) -> str:
        return f"Data/{self.folder}/{self.name(index)}{self.extension}"

    def annotation(self, index: int) -> str:
        return f"Annotations/{self.folder}/{self.name(index)}.xml"

    def positions(self, numbers: Sequence[int]) -> list[int]:
        """Indices of the frames with these numbers; a number without a frame is left out."""
        if self.names is None:
            return [number for number in numbers if number < self.info.num_frames]
        index = {name: position for position, name in enumerate(self.names)}
        return [index[f"{number:06d}"] for number in numbers if f"{number:06d}" in index]


def find_list(tree: Tree, kind: str, split: str, given: str | None) -> str | None:
    """Path of the list of a split, below the root; None when there is none.

    kind: "VID" or "DET"
    given: the file the user named, a path below the root or below ``ImageSets/``

    Raises:
        UserError: the named file does not exist.
    """
    if given is not None:
        for path in (given, posixpath.join("ImageSets", given), posixpath.join("ImageSets", kind, given)):
            if tree.exists(path):
                return path
        raise UserError(
            f"there is no list '{given}' below '{tree.root}' or its ImageSets/; give the path of a list file"
        )
    accepted = (_VIDEO_LISTS if kind == "VID" else _STILL_LISTS)[split]
    other = "ImageSets/DET" if kind == "VID" else ""
    found = {folder: set(tree.names(folder)) for folder in _LIST_FOLDERS if folder != other}
    for name in accepted:
        for folder, names in found.items():
            if name in names:
                return f"{folder}/{name}"
    return None


def locate(tree: Tree, listed: Sequence[Listed], kind: str, where: str) -> list[Snippet | UserError]:
    """The snippets of a list as found in the tree, in order; an error takes the place of one that is not there.

    One listing per folder of snippets, and one per snippet whose length the list does not tell.
    """
    parents = sorted({posixpath.dirname(_folder(entry, kind)) for entry in listed})
    children = dict(zip(parents, tree.in_parallel(lambda p: tree.names(f"Data/{p}"), parents), strict=True))
    present = {parent: set(names) for parent, names in children.items()}
    images = {parent: stems(names, IMAGE_EXTENSIONS) for parent, names in children.items()}

    def find(entry: Listed) -> Snippet | UserError:
        parent, name = posixpath.split(_folder(entry, kind))
        if entry.still and name in images[parent]:
            info = SnippetInfo(entry.id, 1, still=True)
            return Snippet(info, parent, images[parent][name], names=(name,))
        if not entry.still and name in present[parent]:
            return _video(tree, entry, kind)
        what, there = ("image", set(images[parent])) if entry.still else ("snippet", present[parent])
        return UserError(
            f"'{where}' lists the {what} '{entry.id}', which is not in '{tree.url(f'Data/{parent}')}': "
            f"{nearest(name, there) if len(there) <= 20 else f'{len(there)} others are'}; restore it or remove the line"
        )

    return tree.in_parallel(find, listed) if any(e.num_frames is None for e in listed) else [find(e) for e in listed]


def _folder(entry: Listed, kind: str) -> str:
    return f"{kind}/{entry.split}/{entry.id}"


def _video(tree: Tree, entry: Listed, kind: str) -> Snippet | UserError:
    folder = _folder(entry, kind)
    if entry.num_frames is not None:
        return Snippet(SnippetInfo(entry.id, entry.num_frames), folder, chosen=entry.frames)
    files = stems(tree.names(f"Data/{folder}"), IMAGE_EXTENSIONS)
    extensions = sorted(set(files.values()))
    if len(extensions) != 1:
        found = f"images of several kinds ({', '.join(extensions)})" if extensions else "no image"
        return UserError(
            f"'{tree.url(f'Data/{folder}')}' holds {found}; give frames 000000.JPEG, 000001.JPEG, ... of one kind"
        )
    names = tuple(sorted(files))
    standard = names == tuple(f"{index:06d}" for index in range(len(names)))
    info = SnippetInfo(entry.id, len(names))
    return Snippet(info, folder, extensions[0], None if standard else names, entry.frames)
