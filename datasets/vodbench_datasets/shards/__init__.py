"""Annotated video as Parquet shards: written once, then read at random or in order from any fsspec URL."""

from __future__ import annotations

from vodbench.spec import DatasetSpec
from vodbench_datasets.shards.layout import Index, accepts, load_index
from vodbench_datasets.shards.read import Shards, open_shards
from vodbench_datasets.shards.verify import verify_shards
from vodbench_datasets.shards.write import SHARD_BYTES, write_shards

__all__ = ["SHARD_BYTES", "SPEC", "Index", "Shards", "load_index", "open_shards", "verify_shards", "write_shards"]

SPEC = DatasetSpec(
    name="shards",
    summary="Parquet shards written by 'vodbench data shard', on disk or in a bucket",
    accepts=accepts,
    open=open_shards,
)
