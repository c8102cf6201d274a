"""Reading shards: any frames of a snippet by row group, without touching the others."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vodbench.errors import UserError, unknown
from vodbench.spec import ClassInfo, Frame, SnippetInfo
from vodbench.storage import join
from vodbench_datasets.clips.pipeline import RayClips
from vodbench_datasets.frames import ENCODED, MOTION
from vodbench_datasets.shards.file import ShardFile
from vodbench_datasets.shards.layout import IMAGE_DIGEST, ROWS, TRUTH_DIGEST, SnippetRecord, load_index
from vodbench_datasets.shards.rows import to_frames

_OPEN_FILES = 64  # of the local disk, each a file descriptor; what is kept of every shard's footer is small
_TRUTH_COLUMNS = [name for name in ROWS.names if name not in (ENCODED, IMAGE_DIGEST, TRUTH_DIGEST)]
_COLUMNS = [*_TRUTH_COLUMNS, ENCODED]


def open_shards(root: str, **options: Any) -> Shards:
    """``UserError`` when ``root`` holds no finished shards, or for any option: those were chosen when sharding."""
    if options:
        raise UserError(f"shards take no option, {', '.join(options)} was given; set it when sharding the source")
    return Shards(root)


class Shards(RayClips):
    """The data set that a folder of shards holds; same classes, truths, order and fingerprint as its source."""

    name = "shards"

    def __init__(self, root: str) -> None:
        self.root = root
        self.index = load_index(root)
        self._files: dict[int, ShardFile] = {}
        self._descriptors: dict[int, ShardFile] = {}
        self._lock = threading.Lock()  # a ShardFile has one read position
        self._training_labels: dict[str, list[tuple[int, ...]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "index": self.index}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _files={}, _descriptors={}, _lock=threading.Lock(), _training_labels={})

    @cached_property
    def classes(self) -> tuple[ClassInfo, ...]:
        return tuple(ClassInfo(record.id, record.name) for record in self.index.classes)

    @property
    def fingerprint(self) -> str:
        return self.index.fingerprint

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.index.snippets)

    def snippets(self, split: str) -> list[SnippetInfo]:
        return [SnippetInfo(record.id, record.frames, record.still) for record in self._records(split).values()]

    def training_frames(self, split: str) -> list[tuple[str, int]]:
        self._records(split)
        runs = self.index.training_frames[split]
        return [(snippet, index) for snippet, indices in runs for index in indices]

    def training_labels(self, split: str) -> list[tuple[int, ...]]:
        """See ``RayClips.training_labels``. Reads two narrow columns of the row groups that hold training frames, one
        request a shard where they lie together: no boxes, no images. Some 50 us of CPU a row group, so about 3 s for
        the 57,834 training frames of ImageNet VID, which lie in as many groups; kept after that."""
        if split not in self._training_labels:
            records, frames = self._records(split), self.training_frames(split)
            wanted: dict[int, dict[int, str]] = {}  # shard -> row group -> its snippet
            for snippet, index in frames:
                record = records[snippet]
                wanted.setdefault(record.shard, {})[record.row_group + index // self.index.group_frames] = snippet
            found = {key: labels for shard, groups in wanted.items() for key, labels in self._labels(shard, groups)}
            self._training_labels[split] = [found[frame] for frame in frames]
        return list(self._training_labels[split])

    def read(
        self, split: str, snippet: str, indices: Sequence[int] | None = None, *, with_images: bool = True
    ) -> list[Frame]:
        """See ``vodbench.spec.Dataset.read``."""
        record = self._record(split, snippet)
        wanted = range(record.frames) if indices is None else indices
        table = self._read_rows(record, wanted, _COLUMNS if with_images else _TRUTH_COLUMNS)
        frames = {frame.index: frame for frame in to_frames(table, with_images=with_images)}
        return [frames[index] for index in wanted]

    def has_motion(self, split: str) -> bool:
        """Whether the split was sharded with records of motion, as its first shard says; all of a split are alike."""
        records = self._records(split)
        if not records:
            return False
        with self._lock:
            return MOTION.name in self._open(next(iter(records.values())).shard).column_names

    def motion(self, split: str, snippet: str, indices: Sequence[int]) -> list[bytes]:
        """Records of motion of these frames, in the order asked for; two columns are read."""
        table = self._read_rows(self._record(split, snippet), indices, ["index", MOTION.name])
        found = dict(zip(table.column("index").to_pylist(), table.column(MOTION.name).to_pylist(), strict=True))
        return [found[index] for index in indices]

    def _record(self, split: str, snippet: str) -> SnippetRecord:
        records = self._records(split)
        if snippet not in records:
            raise UserError(
                f"split '{split}' of '{self.root}' has no snippet '{snippet}'; it has {len(records)} others"
            )
        return records[snippet]

    def _labels(self, shard: int, groups: Mapping[int, str]) -> Iterator[tuple[tuple[str, int], tuple[int, ...]]]:
        """((snippet, frame), its labels) of all rows in these row groups of a shard."""
        order = sorted(groups)
        table = self._read_columns(shard, order, ["index", "labels"])
        rows = zip(table.column("index").to_pylist(), table.column("labels").to_pylist(), strict=True)
        group = iter(order)
        snippet = ""
        for index, labels in rows:
            if index % self.index.group_frames == 0:  # a row group begins
                snippet = groups[next(group)]
            yield (snippet, index), tuple(sorted(set(labels)))

    def _read_rows(self, record: SnippetRecord, wanted: Sequence[int], columns: Sequence[str]) -> pa.Table:
        """These frames' rows, in their own order, each once."""
        outside = [index for index in wanted if not 0 <= index < record.frames]
        if outside:
            raise UserError(f"snippet '{record.id}' has no frame {outside[0]}; give 0 to {record.frames - 1}")
        groups = sorted({record.row_group + index // self.index.group_frames for index in wanted})
        if not groups:
            return pa.table({name: [] for name in columns})
        table = self._read_columns(record.shard, groups, columns)
        if len(wanted) < table.num_rows:  # the rest of the row groups is not worth turning into objects
            table = table.filter(pc.is_in(table.column("index"), pa.array(wanted, pa.int32())))
        return table

    def _read_columns(self, shard: int, groups: Sequence[int], columns: Sequence[str]) -> pa.Table:
        with self._lock:
            return self._open(shard).read(groups, columns)

    def _open(self, shard: int) -> ShardFile:
        if shard not in self._files:
            record = self.index.shards[shard]
            self._files[shard] = ShardFile(join(self.root, record.file), record.bytes)
        file = self._files[shard]
        if not file.is_far:
            self._descriptors.pop(shard, None)
            self._descriptors[shard] = file  # the one used last is the last
            if len(self._descriptors) > _OPEN_FILES:
                self._descriptors.pop(next(iter(self._descriptors))).close()
        return file

    @cached_property
    def _by_split(self) -> dict[str, dict[str, SnippetRecord]]:
        return {split: {record.id: record for record in records} for split, records in self.index.snippets.items()}

    def _records(self, split: str) -> dict[str, SnippetRecord]:
        if split not in self._by_split:
            raise unknown("split", split, self._by_split)
        return self._by_split[split]
