"""Frames to rows of a shard and back, and what is said of a shard that cannot be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vodbench.errors import UserError
from vodbench.interruption import from_outside
from vodbench.spec import Frame
from vodbench.storage import out_of_reach
from vodbench_datasets.frames import MOTION, from_columns, to_columns
from vodbench_datasets.shards.digests import image_digest, truth_digest
from vodbench_datasets.shards.layout import IMAGE_DIGEST, TRUTH_DIGEST

# What pyarrow raises for a damaged file: ValueError for names that are not UTF-8, LookupError for columns or row groups
# that the damaged footer no longer lists.
UNREADABLE = (pa.ArrowException, OSError, ValueError, LookupError)


def to_table(frames: Sequence[Frame], schema: pa.Schema) -> pa.Table:
    """One row a frame, with its digests; ``schema`` is ``ROWS`` or ``ROWS_WITH_MOTION``."""
    return pa.table(
        {
            "snippet": [frame.snippet for frame in frames],
            **to_columns(frames),
            IMAGE_DIGEST: [image_digest(frame) for frame in frames],
            TRUTH_DIGEST: [truth_digest(frame) for frame in frames],
        },
        schema=schema,
    )


def to_frames(table: pa.Table, *, with_images: bool = True) -> list[Frame]:
    """The frames of rows read back, with what columns there are of ``encoded`` (or without images) and ``motion``."""
    if not table.num_rows:
        return []
    (batch,) = table.combine_chunks().to_batches()
    snippets = batch.column("snippet").to_pylist()
    with_motion = MOTION.name in batch.schema.names
    return from_columns(batch.column, snippets, with_images=with_images, with_motion=with_motion)


def parquet_writer(sink: Any, schema: pa.Schema) -> pq.ParquetWriter:
    """Nothing is compressed: JPEG does not shrink, the rest is small. Pages carry checksums; the images' smallest and
    largest values, which Parquet would repeat in its footer, are left out."""
    return pq.ParquetWriter(
        sink,
        schema,
        compression="none",
        use_dictionary=False,
        write_statistics=["index"],
        write_page_checksum=True,
    )


@contextmanager
def reading_shard(url: str) -> Iterator[None]:
    """``UserError`` for a shard that is missing or damaged, ``OutOfReachError`` for one whose store is away."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"shard '{url}' is missing; 'vodbench data verify' lists what else is") from error
    except Exception as error:
        if from_outside(error):
            raise out_of_reach(url, error) from error
        if isinstance(error, UNREADABLE) and not isinstance(error, UserError):
            raise damaged(url, error) from error
        raise


def damaged(url: str, error: Exception | str) -> UserError:
    why = " ".join(str(error).split())
    return UserError(f"shard '{url}' cannot be read ({why}); run 'vodbench data verify' and write the shards again")
