"""Files under a budget of bytes, the least recently used evicted first, shared by any number of processes."""

from __future__ import annotations

from functools import lru_cache

from fsspec.implementations.local import LocalFileSystem

from vodbench.features.budget import FeatureStore
from vodbench.features.local_store import LocalStore
from vodbench.features.remote_store import RemoteStore
from vodbench.features.settings import CacheSettings
from vodbench.storage import filesystem


@lru_cache(maxsize=8)
def open_store(settings: CacheSettings) -> FeatureStore:
    """The store as one pass sees it."""
    fs, _ = filesystem(settings.url)
    return LocalStore(settings) if isinstance(fs, LocalFileSystem) else RemoteStore(settings)
