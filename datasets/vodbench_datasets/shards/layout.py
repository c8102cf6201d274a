"""What a folder of shards looks like, and its index.

    ROOT/index.json            written last: its presence means that the shards are whole
    ROOT/incomplete.json       there while shards are being written: whose they are
    ROOT/train-00000.parquet   rows are frames in order; a row group holds up to 4 frames of one snippet

Splits of generated video have one column more, ``motion``: the records that exact flow is computed from. It is the
only difference to shards written before there were such records, so either are read.

Row groups of 4 frames: the three frames of a clip, which lie within some 20, then cost a read of half as many bytes as
with groups of 16, and reading in order stays as fast. Smaller ones save less than they add to the footer, which grows
with their number: 0.35 MB and 3 MB in memory for a shard of 256 MB. Shards written before held 16 frames a group, and
are read; the index says which. A snippet never continues in another shard.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vodbench.errors import UserError
from vodbench.fingerprint import fingerprint
from vodbench.storage import exists, join, read_bytes
from vodbench_datasets.frames import FIELDS, MOTION

SCHEMA_NAME = "vodbench-shards"
SCHEMA_VERSION = 1
INDEX = "index.json"
INCOMPLETE = "incomplete.json"
GROUP_FRAMES = 4
_GROUP_FRAMES_BEFORE = 16  # of an index that does not say
JOB_KEY, SNIPPETS_KEY = "vodbench.job", "vodbench.snippets"  # in a shard's own Parquet metadata

DIGEST_BYTES = 16
IMAGE_DIGEST, TRUTH_DIGEST = "image_digest", "truth_digest"
ROWS = pa.schema(
    [
        pa.field("snippet", pa.string(), nullable=False),
        *FIELDS,
        pa.field(IMAGE_DIGEST, pa.binary(DIGEST_BYTES), nullable=False),
        pa.field(TRUTH_DIGEST, pa.binary(DIGEST_BYTES), nullable=False),
    ]
)
ROWS_WITH_MOTION = ROWS.append(MOTION)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClassRecord(_Record):
    id: str
    name: str


class ShardRecord(_Record):
    file: str = Field(pattern=r"^[^/\\]+\.parquet$")  # in the same folder: an index does not lead out of it
    bytes: int
    sha256: str
    rows: int


class SnippetRecord(_Record):
    """Where a snippet is: row groups ``row_group``, ``row_group + 1``, ... of ``Index.shards[shard]``."""

    id: str
    frames: int
    boxes: int
    still: bool
    shard: int
    row_group: int
    fingerprint: str  # over the digests of its rows, in order

    def num_groups(self, group_frames: int) -> int:
        return -(-self.frames // group_frames)


class Counts(_Record):
    snippets: int
    frames: int
    boxes: int


class Index(_Record):
    """``index.json``. ``digest`` covers everything else in it."""

    # "schema" is pydantic's own word, so the field is called kind in Python
    kind: str = SCHEMA_NAME
    version: int = SCHEMA_VERSION
    job: str  # the source, splits and settings these shards were made from
    fingerprint: str  # of the data; see ``data_fingerprint``
    classes: tuple[ClassRecord, ...]
    provenance: dict[str, str]
    group_frames: int = Field(default=_GROUP_FRAMES_BEFORE, ge=1)  # the most frames of a row group
    counts: dict[str, Counts]
    shards: tuple[ShardRecord, ...]
    snippets: dict[str, tuple[SnippetRecord, ...]]
    training_frames: dict[str, tuple[tuple[str, tuple[int, ...]], ...]]  # runs of one snippet, in the source's order
    digest: str = ""

    def sealed(self) -> Index:
        return self.model_copy(update={"digest": self._computed_digest()})

    @property
    def is_as_written(self) -> bool:
        return self.digest == self._computed_digest()

    def _computed_digest(self) -> str:
        return fingerprint({key: value for key, value in self._record().items() if key != "digest"})

    def to_json(self) -> str:
        return json.dumps(self._record(), separators=(",", ":")) + "\n"

    def _record(self) -> dict[str, Any]:
        """An index written before row groups were of another size stays what it is, byte for byte."""
        unsaid = {"group_frames"} if self.group_frames == _GROUP_FRAMES_BEFORE else set[str]()
        return self.model_dump(mode="json", exclude=unsaid)


def load_index(root: str) -> Index:
    """``UserError`` when there is no index, an unfinished one, one of another kind or version, or an altered one."""
    index = read_index(root)
    if not index.is_as_written:
        raise UserError(f"'{join(root, INDEX)}' was altered since it was written; write the shards again")
    return index


def read_index(root: str) -> Index:
    """``load_index`` for those who report alterations themselves: what it says may not hold."""
    url = join(root, INDEX)
    if not exists(url):
        if exists(join(root, INCOMPLETE)):
            raise UserError(f"the shards in '{root}' are incomplete; run the same 'vodbench data shard' again")
        raise UserError(f"'{root}' holds no shards ({INDEX} is missing); write them with 'vodbench data shard SRC DST'")
    try:
        record = json.loads(read_bytes(url))
    except ValueError as error:
        raise UserError(f"'{url}' is not valid JSON ({error}); write the shards again") from error
    if not is_ours(record):
        raise UserError(f"'{url}' is not the index of vodbench shards; give the folder that 'data shard' wrote")
    if record.get("version") != SCHEMA_VERSION:
        raise UserError(
            f"'{url}' has schema version {record.get('version')}, this vodbench reads {SCHEMA_VERSION}; "
            "write the shards again"
        )
    try:
        return Index.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"'{url}' is damaged at '{where}': {first['msg']}; write the shards again") from error


def is_ours(record: Any) -> bool:
    return isinstance(record, dict) and record.get("kind") == SCHEMA_NAME


def accepts(root: str) -> bool:
    """Whether the folder holds shards, finished or not. Reads no more than a file's first bytes."""
    heads = (_head(join(root, name)) for name in (INDEX, INCOMPLETE))
    return any(f'"kind":"{SCHEMA_NAME}"' in head for head in heads)


def _head(url: str) -> str:
    return read_bytes(url)[:100].decode(errors="replace") if exists(url) else ""


def data_fingerprint(
    source: str, splits: tuple[str, ...], source_splits: tuple[str, ...], sampled: bool, content: list[list[str]]
) -> str:
    """The data set's own fingerprint: what was trained on a tree is valid for its shards, and the other way round.

    Fewer splits are other data. A source so large that its fingerprint is of a sample of its annotations gets one over
    every row (``content``: the snippets' fingerprints) instead.
    """
    whole = set(splits) == set(source_splits)
    return source if whole and not sampled else fingerprint("shards", source, splits, content)
