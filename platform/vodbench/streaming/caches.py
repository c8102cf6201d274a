"""Weights and data sets kept between snippets: a sweep asks a process for the same ones again and again."""

from __future__ import annotations

import json
from functools import lru_cache

from vodbench.checkpoints import FILE_NAME, Checkpoint, load_checkpoint
from vodbench.data_source import DataSource
from vodbench.spec import Dataset, Method
from vodbench.storage import exists, filesystem, join


def cached_checkpoint(url: str) -> Checkpoint:
    """``load_checkpoint``, kept while the file does not change."""
    return _checkpoint(url, _identity(url))


def cached_method(url: str, device: str) -> Method:
    """The checkpoint's method on that device, kept while the file does not change. Streams of it are independent."""
    return _method(url, _identity(url), device)


def cached_dataset(source: DataSource, data_fingerprint: str) -> Dataset:
    """The opened data set, kept as long as callers expect the same fingerprint of it."""
    return _dataset(source.kind, source.root, json.dumps(dict(source.options), sort_keys=True), data_fingerprint)


def _identity(url: str) -> str:
    """Changes when the file does (size and date, or the object's tag)."""
    inside = join(url, FILE_NAME)
    fs, path = filesystem(inside if exists(inside) else url)
    return str(fs.ukey(path)) if fs.exists(path) else ""


@lru_cache(maxsize=2)
def _checkpoint(url: str, identity: str) -> Checkpoint:
    return load_checkpoint(url)


@lru_cache(maxsize=2)
def _method(url: str, identity: str, device: str) -> Method:
    return _checkpoint(url, identity).build(device)


@lru_cache(maxsize=2)
def _dataset(kind: str, root: str, options: str, data_fingerprint: str) -> Dataset:
    return DataSource(root=root, kind=kind, options=json.loads(options)).open()
