"""A snippet's kept features, seen from a pass: which of them are there, and how new ones get there.

An encoding belongs to the weights (their content, whatever they are called), the encoder's settings, the code, the
kind of device, the data, the split and the snippet. Anything else that a configuration says has no influence on it:
that is what ``FrameEncoder`` promises.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch

from vodbench.features.budget import FeatureStore
from vodbench.features.entry import Entry, EntryWriter, StageTimes
from vodbench.features.records import UnfitError, record_kind, rounded
from vodbench.features.settings import CacheSettings
from vodbench.features.store import open_store
from vodbench.fingerprint import fingerprint
from vodbench.knobs import MethodConfig
from vodbench.spec import EncodedStream, FrameEncoder, Method, SnippetInfo

SCHEMA = 1  # raised when entries of earlier versions must not be used


@dataclass(frozen=True, slots=True)
class KeptFeatures:
    """The features of one snippet that one method makes; ``kind`` is the record that it encodes a frame as."""

    store: FeatureStore
    half: bool
    method: Method
    kind: type
    about: Mapping[str, str]  # what an entry belongs to, its encoding settings aside
    snippet: SnippetInfo
    device: torch.device

    def has(self, config: MethodConfig) -> bool:
        """Whether all that this configuration needs of the frames seems to be there (``recorded`` looks closer)."""
        return shares_frames(self.method, config) and self.store.has(self._name(self._about(config)))

    @contextmanager
    def recorded(self, config: MethodConfig) -> Iterator[RecordedFrames | None]:
        """The encoded frames; None when they are not there, damaged, or not of every frame."""
        about = self._about(config)
        with self.store.fetched(self._name(about)) as path:
            entry = None if path is None else Entry.open(path, about)
            if entry is None:
                yield None
                return
            try:
                frames = RecordedFrames(entry, self.kind, self.device)
                yield frames if len(entry) == self.snippet.num_frames and frames.fit() else None
            finally:
                entry.close()

    @contextmanager
    def recording(self, config: MethodConfig) -> Iterator[Recorder]:
        """Takes the encoded frames; keeps them when the block ends well and every frame of the snippet came."""
        about = self._about(config)
        name = self._name(about)
        with self.store.spool(name) as spool:
            writer = EntryWriter(spool.write, about, half=self.half)
            yield Recorder(writer, self.kind, self.device, self.half)
            if len(writer) == self.snippet.num_frames:
                writer.finish()
                self.store.commit(name, spool)

    def _about(self, config: MethodConfig) -> dict[str, str]:
        assert isinstance(self.method, FrameEncoder)
        settings = fingerprint(dict(self.method.encoding_settings(config)))
        return {**self.about, "settings": settings, "snippet": self.snippet.id}

    def _name(self, about: Mapping[str, str]) -> str:
        folder = fingerprint({name: value for name, value in about.items() if name != "snippet"})
        return f"{folder}/{fingerprint(about['snippet'])}"


@dataclass(frozen=True, slots=True)
class Recorder:
    """Encoded frames on their way to where they are kept."""

    writer: EntryWriter
    kind: type
    device: torch.device
    half: bool

    def add(self, encoded: Any, stage_ms: StageTimes) -> Any:
        """Keep one frame; what later passes will be given in its place, which this pass must be given, too."""
        self.writer.add(encoded, stage_ms)
        return rounded(encoded, self.kind, self.device) if self.half else encoded


@dataclass(frozen=True, slots=True)
class RecordedFrames:
    """Encoded frames that were kept."""

    entry: Entry
    kind: type
    device: torch.device

    def __len__(self) -> int:
        return len(self.entry)

    def frame(self, number: int) -> tuple[Any, StageTimes]:
        return self.entry.frame(number, self.kind, self.device)

    def fit(self) -> bool:
        """Whether they are records of the kind wanted; all frames are written alike, so the first speaks for them."""
        try:
            self.frame(0)
        except (UnfitError, ValueError, TypeError, KeyError):
            return False
        return True


def kept_features(
    settings: CacheSettings, method: Method, snippet: SnippetInfo, device: torch.device, origin: Mapping[str, str]
) -> KeptFeatures | None:
    """The cache for one snippet and method; None where the method's frames cannot be kept.

    ``origin``: what the frames are, e.g. the fingerprint of the data and the split.
    """
    kind = record_kind(type(method).encode) if isinstance(method, FrameEncoder) else None
    if kind is None:
        return None
    about = {
        "schema": str(SCHEMA),
        "code": code_fingerprint(type(method)),
        "weights": weights_fingerprint(method),
        "method": fingerprint(method.config.training_settings()),
        "device": device.type,
        "precision": settings.precision,
        **origin,
    }
    return KeptFeatures(open_store(settings), settings.precision == "fp16", method, kind, about, snippet, device)


def shares_frames(method: Method, config: MethodConfig) -> bool:
    """Whether this configuration's stream takes frames that were encoded for another.

    A method that inherits an encoder may have streams of another kind, which see images only, or annotations too.
    """
    if config.guided:
        return False
    return isinstance(method, FrameEncoder) and isinstance(method.stream(config), EncodedStream)


# ---- what an encoding belongs to ----------------------------------------------------------------------------

_weights: WeakKeyDictionary[torch.nn.Module, str] = WeakKeyDictionary()


def weights_fingerprint(method: Method) -> str:
    """16 hex digits of the SHA-256 of a method's weights: what they are, not what they were called when trained."""
    assert isinstance(method, torch.nn.Module)
    if method not in _weights:
        digest = hashlib.sha256()
        for name, tensor in sorted(method.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        _weights[method] = digest.hexdigest()[:16]
    return _weights[method]


@cache
def code_fingerprint(kind: type) -> str:
    """Changes when code changes that an encoding may run through: vodbench, the method's own package, and torch."""
    modules = {cls.__module__ for cls in kind.__mro__ if cls.__module__.partition(".")[0] not in _FOREIGN}
    files = {path for module in (*modules, "vodbench") for path in _sources(module)}
    digest = hashlib.sha256(torch.__version__.encode())
    for path in sorted(files):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


_FOREIGN = ("torch", "builtins", "typing", "abc")  # where the bases of methods come from


def _sources(module: str) -> list[Path]:
    """The Python files of a module's top-level package, or the module's own where it is in none."""
    package = getattr(sys.modules.get(module.partition(".")[0]), "__file__", None)
    if package is not None and Path(package).name == "__init__.py":
        return list(Path(package).parent.rglob("*.py"))
    own = getattr(sys.modules.get(module), "__file__", None)
    return [Path(own)] if own is not None else []
