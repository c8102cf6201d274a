"""Frames of located snippets: annotation, image bytes, record of deteriorations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from vodbench.errors import UserError
from vodbench.images import decode
from vodbench.spec import Frame, Truth
from vodbench_datasets.ilsvrc.annotations import parse_annotation, to_truth
from vodbench_datasets.ilsvrc.deteriorations import FOLDER, Record, parse_record, record_path
from vodbench_datasets.ilsvrc.index import Snippet
from vodbench_datasets.ilsvrc.motion import motion_path
from vodbench_datasets.ilsvrc.tree import Tree


class FrameLoader:
    """Reads frames of a tree; ``labels`` maps class ids to 1..C.

    In DET images objects of classes without a label are ignored (the tree annotates 200 classes, the protocol uses 30
    of them); in videos such an object is an error, for it would silently count as background.
    """

    def __init__(self, tree: Tree, labels: Mapping[str, int]) -> None:
        self._tree = tree
        self._labels = labels
        self._has_records = tree.exists(FOLDER)
        self._records: dict[str, Record] = {}

    def truth(self, snippet: Snippet, index: int) -> Truth:
        path = snippet.annotation(index)
        where = self._tree.url(path)
        objects = parse_annotation(self._tree.read(path), where)
        return to_truth(objects, self._labels, where, ignore_others=snippet.info.still)

    def frames(self, snippet: Snippet, indices: Sequence[int], *, with_images: bool) -> list[Frame]:
        """In the order asked for; without images their files are not touched."""
        record = self._record(snippet)

        def load(index: int) -> Frame:
            encoded = self._tree.read(snippet.image(index)) if with_images else b""
            spoilt = record.get(snippet.name(index), {})
            return Frame(snippet.info.id, index, encoded, self.truth(snippet, index), spoilt)

        return self._tree.in_parallel(load, indices)

    def motion(self, snippet: Snippet, indices: Sequence[int]) -> list[bytes]:
        """The records of motion, in the order asked for; ``UserError`` naming one that is missing."""
        paths = [motion_path(snippet.folder, snippet.name(index)) for index in indices]
        return self._tree.in_parallel(self._tree.read, paths)

    def readable(self, snippet: Snippet) -> tuple[Snippet, dict[str, str]]:
        """The snippet without the frames that cannot be used, and these: file -> why. Every image is decoded."""
        reasons = {index: self._reason(snippet, index) for index in range(snippet.info.num_frames)}
        bad = {snippet.image(index): reason for index, reason in reasons.items() if reason}
        if not bad:
            return snippet, {}
        names = tuple(snippet.name(index) for index, reason in reasons.items() if not reason)
        return replace(snippet, info=replace(snippet.info, num_frames=len(names)), names=names), bad

    def _reason(self, snippet: Snippet, index: int) -> str:
        path = snippet.image(index)
        try:
            self.truth(snippet, index)
            decode(self._tree.read(path), self._tree.url(path))
        except UserError as error:
            return str(error)
        return ""

    def _record(self, snippet: Snippet) -> Record:
        if not self._has_records:
            return {}
        if snippet.folder not in self._records:
            path = record_path(snippet.folder)
            found = self._tree.exists(path)
            self._records[snippet.folder] = (
                parse_record(self._tree.read_text(path), self._tree.url(path)) if found else {}
            )
        return self._records[snippet.folder]
