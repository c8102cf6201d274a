"""One snippet's detections as a unit of work, in this process or in a worker."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from vodbench.checkpoints import FILE_NAME, Checkpoint, load_checkpoint
from vodbench.data_source import DataSource
from vodbench.detections import DetectionBuilder, write_detections
from vodbench.device import pick_device
from vodbench.knobs import MethodConfig
from vodbench.reading import DecodedFrame, decoded_frames, prefetched
from vodbench.spec import Dataset, Detections, Image, Method, SnippetInfo
from vodbench.storage import exists, filesystem, join
from vodbench.streaming.snippet import SnippetError, detect_snippet
from vodbench.timing.clock import StageClock
from vodbench.timing.gate import working

BAD_FRAMES = "bad_frames"  # provenance of a part: JSON list of [snippet, frame, reason] that did not decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One snippet to detect: all that a worker needs, picklable."""

    checkpoint_url: str
    config: MethodConfig
    source: DataSource
    split: str
    snippet: SnippetInfo
    part_url: str  # where the result goes
    provenance: Mapping[str, str]  # kept with it
    device: str


def run_job(job: Job) -> None:
    """Detect one snippet and keep the result as a part. Holds the gate, so that no runtime is measured meanwhile.

    A frame that does not decode raises ``UserError``; with the source's option ``skip_bad`` it is no input of the
    method, has no detections, and is listed in the part's ``bad_frames``.
    """
    device = pick_device(job.device)
    method = cached_method(job.checkpoint_url, str(device))
    dataset = _cached_dataset(job.source, job.provenance.get("data", ""))
    good: list[int] = []
    bad: list[DecodedFrame] = []

    def images() -> Iterator[Image]:
        for frame in prefetched(lambda: decoded_frames(dataset, job.split, job.snippet)):
            if frame.image is None and job.source.options.get("skip_bad"):
                bad.append(frame)
                continue
            good.append(frame.index)
            yield frame.pixels()

    with working():
        try:
            found, times = detect_snippet(method, job.config, images(), StageClock(device))
        except SnippetError as error:
            raise SnippetError(
                f"{job.provenance.get('method', 'method')}, snippet '{job.snippet.id}', {error}"
            ) from error

    rows = {index: (detections, stage_ms) for index, detections, stage_ms in zip(good, found, times, strict=True)}
    builder = DetectionBuilder()
    for index in sorted([*good, *(frame.index for frame in bad)]):
        builder.add(job.snippet.id, index, *rows.get(index, (Detections.empty(), {})))
    listed = [[job.snippet.id, frame.index, str(frame.error)] for frame in bad]
    provenance = {**job.provenance, **({BAD_FRAMES: json.dumps(listed)} if bad else {})}
    write_detections(job.part_url, builder.build(provenance))


# ---- kept between jobs: a sweep asks for the same weights and data again and again ---------------------------


def cached_checkpoint(url: str) -> Checkpoint:
    """``load_checkpoint``, kept while the file does not change."""
    return _checkpoint(url, _identity(url))


def cached_method(url: str, device: str) -> Method:
    """The checkpoint's method on that device, kept while the file does not change. Streams of it are independent."""
    return _method(url, _identity(url), device)


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


def _cached_dataset(source: DataSource, data_fingerprint: str) -> Dataset:
    return _dataset(source.kind, source.root, json.dumps(dict(source.options), sort_keys=True), data_fingerprint)


@lru_cache(maxsize=2)
def _dataset(kind: str, root: str, options: str, data_fingerprint: str) -> Dataset:
    return DataSource(root=root, kind=kind, options=json.loads(options)).open()
