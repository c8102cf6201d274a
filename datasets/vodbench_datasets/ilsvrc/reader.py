"""ILSVRC trees (VID, and DET beside it) read where they are, through any fsspec URL.

Nothing is opened before it is needed: listing a split reads its list files and a few folders, never an annotation.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np

from vodbench.errors import UserError, unknown
from vodbench.fingerprint import fingerprint
from vodbench.spec import ClassInfo, Frame, SnippetInfo, Truth
from vodbench_datasets.clips.choice import FRAMES_PER_SNIPPET, evenly_spaced
from vodbench_datasets.clips.pipeline import RayClips
from vodbench_datasets.ilsvrc.classes import VID_CLASSES, parse_classes
from vodbench_datasets.ilsvrc.deteriorations import FOLDER, record_path
from vodbench_datasets.ilsvrc.index import SPLITS, Snippet, find_list, locate
from vodbench_datasets.ilsvrc.lists import parse_stills, parse_videos
from vodbench_datasets.ilsvrc.loading import FrameLoader
from vodbench_datasets.ilsvrc.motion import FOLDER as MOTION_FOLDER
from vodbench_datasets.ilsvrc.options import IlsvrcOptions
from vodbench_datasets.ilsvrc.protocol import capped
from vodbench_datasets.ilsvrc.tree import Tree

CLASSES_FILE = "classes.txt"

# The fingerprint reads every annotation of a tree up to this size (some seconds), and evenly spaced ones of a larger.
_FINGERPRINTED = 20_000


class IlsvrcDataset(RayClips):
    """An annotated tree: ``Annotations/``, ``Data/``, ``ImageSets/`` and perhaps ``classes.txt``.

    Args:
        root: folder or URL of the tree.
        options: see ``IlsvrcOptions``.

    Raises:
        UserError: the root is missing, empty or no such tree; an unknown option; a ``classes.txt`` of another form.

    With ``skip_bad`` every listed frame is read and decoded once, when its split is first used; what is unreadable is
    left out as if it had never been there (later frames move up) and is recorded in ``skipped``.
    """

    name = "ilsvrc"

    def __init__(self, root: str, **options: Any) -> None:
        self.root = root
        self.options = IlsvrcOptions.parse(options)
        self.skipped: dict[str, str] = {}  # file or snippet left out -> why; len() is their number
        self._tree = Tree(root)
        self._check_root()
        self._lists = self._find_lists()
        self._loader = FrameLoader(self._tree, {c.id: label for label, c in enumerate(self.classes, start=1)})
        self._snippets: dict[str, dict[str, Snippet]] = {}
        self._training_frames: dict[str, list[tuple[tuple[str, int], tuple[int, ...]]]] = {}

    @cached_property
    def classes(self) -> tuple[ClassInfo, ...]:
        """Those of ``classes.txt``, or else the 30 of ImageNet VID."""
        if not self._tree.exists(CLASSES_FILE):
            return VID_CLASSES
        return parse_classes(self._tree.read_text(CLASSES_FILE), self._tree.url(CLASSES_FILE))

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have a list."""
        return tuple(self._lists)

    @cached_property
    def fingerprint(self) -> str:
        """Of classes, lists, options and annotations, by content; roots and dates do not enter.

        Trees of more than 20,000 frames are represented by that many evenly spaced annotations: sharding (which reads
        everything once) gives a large tree a complete fingerprint.
        """
        lists = {
            split: [[s.info.id, s.info.num_frames, s.names, s.chosen] for s in self._split(split).values()]
            for split in self.splits
        }
        classes = [[c.id, c.name] for c in self.classes]
        used = [self.options.frames_per_snippet, self.options.det_images_per_class]
        return fingerprint(classes, lists, used, self._annotations_digest())

    @property
    def fingerprint_is_sampled(self) -> bool:
        """Whether the tree is too large for ``fingerprint`` to cover every annotation."""
        everything = (snippet for split in self.splits for snippet in self._split(split).values())
        return sum(snippet.info.num_frames for snippet in everything) > _FINGERPRINTED

    def snippets(self, split: str) -> Sequence[SnippetInfo]:
        """Snippets of a split in listed order: videos, then still images."""
        return [snippet.info for snippet in self._split(split).values()]

    def read(
        self, split: str, snippet: str, indices: Sequence[int] | None = None, *, with_images: bool = True
    ) -> list[Frame]:
        """Frames of one snippet in the order asked for (all, in order, when None)."""
        found = self._snippet(split, snippet)
        asked = range(found.info.num_frames) if indices is None else indices
        _check_indices(found, asked)
        return self._loader.frames(found, asked, with_images=with_images)

    def has_motion(self, split: str) -> bool:
        """Whether all that the split lists, still images included, has records of motion."""
        if split not in self._lists:
            raise unknown("split", split, self.splits)
        return all(self._tree.exists(f"{MOTION_FOLDER}/{kind}/{split}") for kind, _ in self._lists[split])

    def motion(self, split: str, snippet: str, indices: Sequence[int]) -> list[bytes]:
        """Records of motion of these frames, in the order asked for."""
        found = self._snippet(split, snippet)
        _check_indices(found, indices)
        return self._loader.motion(found, indices)

    def training_frames(self, split: str) -> list[tuple[str, int]]:
        """(snippet, index) of the frames that training visits: those of the protocol that have a box.

        Videos give the frames that their list names (VID_train_15frames), or ``frames_per_snippet`` evenly spaced ones;
        still images come after them, at most ``det_images_per_class`` each. An image counts for the class whose folder
        it is in (``ILSVRC2013_train/n02691156/...``), or else for that of its first object.
        """
        return [frame for frame, _ in self._training(split)]

    def training_labels(self, split: str) -> list[tuple[int, ...]]:
        """See ``RayClips.training_labels``: known since ``training_frames`` read every annotation for its boxes."""
        return [labels for _, labels in self._training(split)]

    def _training(self, split: str) -> list[tuple[tuple[str, int], tuple[int, ...]]]:
        """The training frames with the labels that they show; every candidate's annotation is read once."""
        if split not in self._training_frames:
            candidates = [(s, i) for s in self._split(split).values() for i in self._candidates(s)]
            truths = self._tree.in_parallel(lambda candidate: self._loader.truth(*candidate), candidates)
            found = [
                (snippet, ((snippet.info.id, index), tuple(np.unique(truth.labels).tolist())), truth)
                for (snippet, index), truth in zip(candidates, truths, strict=True)
                if len(truth.boxes)
            ]
            stills = ((frame, self._group(s, truth)) for s, frame, truth in found if s.info.still)
            self._training_frames[split] = [frame for s, frame, _ in found if not s.info.still]
            self._training_frames[split] += capped(stills, self.options.det_images_per_class)
        return self._training_frames[split]

    # ---- opening ----

    def _check_root(self) -> None:
        if not self._tree.exists():
            raise UserError(f"data root '{self.root}' does not exist; give the folder or URL of an ILSVRC tree")
        names = self._tree.names()
        missing = [folder for folder in ("Annotations", "Data") if folder not in names]
        if missing:
            state = "no ILSVRC tree" if names else "empty"
            raise UserError(
                f"data root '{self.root}' is {state}: it lacks {' and '.join(missing)}; give the "
                "folder that holds Annotations/, Data/ and ImageSets/"
            )

    def _find_lists(self) -> dict[str, list[tuple[str, str]]]:
        """split -> (kind, path) of its lists; splits without a list are left out."""
        given = {("VID", "train"): self.options.train_list, ("VID", "val"): self.options.val_list}
        given[("DET", "train")] = self.options.det_list
        kinds = ("VID", "DET") if self.options.det_images_per_class else ("VID",)
        found = {
            split: [(k, path) for k in kinds if (path := find_list(self._tree, k, split, given.get((k, split))))]
            for split in SPLITS
        }
        if not any(found.values()):
            raise UserError(
                f"data root '{self.root}' has no list of snippets; give ImageSets/VID/train.txt or val.txt (a snippet "
                "id a line), or one of VID_train_15frames.txt, VID_val_videos.txt, VID_val_frames.txt"
            )
        return {split: lists for split, lists in found.items() if lists}

    # ---- snippets ----

    def _split(self, split: str) -> Mapping[str, Snippet]:
        if split not in self._lists:
            raise unknown("split", split, self.splits)
        if split not in self._snippets:
            located = [snippet for kind, path in self._lists[split] for snippet in self._located(kind, path, split)]
            if self.options.skip_bad:
                located = self._readable(located)
            self._snippets[split] = {snippet.info.id: snippet for snippet in located}
        return self._snippets[split]

    def _located(self, kind: str, path: str, split: str) -> Iterator[Snippet]:
        where = self._tree.url(path)
        parse = parse_videos if kind == "VID" else parse_stills
        listed = parse(self._tree.read_text(path), split, where)
        for entry, found in zip(listed, locate(self._tree, listed, kind, where), strict=True):
            if isinstance(found, Snippet):
                yield found
            elif self.options.skip_bad:
                self.skipped[f"Data/{kind}/{entry.split}/{entry.id}"] = str(found)
            else:
                raise found

    def _readable(self, snippets: Sequence[Snippet]) -> list[Snippet]:
        kept = []
        for snippet, bad in self._tree.in_parallel(self._loader.readable, snippets):
            self.skipped |= bad
            if snippet.info.num_frames:
                kept.append(snippet)
        return kept

    def _snippet(self, split: str, id: str) -> Snippet:
        snippets = self._split(split)
        if id not in snippets:
            raise UserError(f"unknown snippet '{id}': split '{split}' of '{self.root}' has {len(snippets)} others")
        return snippets[id]

    # ---- training frames and fingerprint ----

    def _candidates(self, snippet: Snippet) -> list[int]:
        asked = self.options.frames_per_snippet
        if snippet.chosen is not None and asked is None:
            return snippet.positions(snippet.chosen)
        return evenly_spaced(snippet.info.num_frames, asked or FRAMES_PER_SNIPPET)

    def _group(self, still: Snippet, truth: Truth) -> str:
        ids = [info.id for info in self.classes]
        folder = posixpath.basename(still.folder)
        return folder if folder in ids else ids[int(truth.labels[0]) - 1]

    def _annotations_digest(self) -> str:
        everything = [snippet for split in self.splits for snippet in self._split(split).values()]
        frames = [(snippet, index) for snippet in everything for index in range(snippet.info.num_frames)]
        paths = [s.annotation(i) for s, i in (frames[k] for k in evenly_spaced(len(frames), _FINGERPRINTED))]
        if self._tree.exists(FOLDER):
            records = [record_path(snippet.folder) for snippet in everything]
            paths += [path for path in records if self._tree.exists(path)]
        digest = sha256()
        for path, content in zip(paths, self._tree.in_parallel(self._tree.read, paths), strict=True):
            digest.update(f"{path}\0{len(content)}\0".encode() + content)
        return digest.hexdigest()


def _check_indices(snippet: Snippet, indices: Sequence[int]) -> None:
    for index in indices:
        if not 0 <= index < snippet.info.num_frames:
            raise UserError(
                f"snippet '{snippet.info.id}' has no frame {index}; give 0 to {snippet.info.num_frames - 1}"
            )
