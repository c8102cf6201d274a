"""One snippet's detections as a unit of work, in this process or in a worker."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from vodbench.data_source import DataSource
from vodbench.detections import DetectionBuilder, write_detections
from vodbench.device import pick_device
from vodbench.features import CacheSettings
from vodbench.features.sharing import KeptFeatures, kept_features
from vodbench.knobs import MethodConfig
from vodbench.prefetch import prefetch
from vodbench.reading import FRAMES_AHEAD, DecodedFrame, decoded, decoded_frames, read_frames
from vodbench.spec import Dataset, Detections, Frame, Image, SnippetInfo, Truth
from vodbench.streaming.caches import cached_dataset, cached_method
from vodbench.streaming.parts import BAD_FRAMES, finished, part_url
from vodbench.streaming.passes import SnippetResult
from vodbench.streaming.snippet import SnippetError, detect_snippet
from vodbench.timing.gate import working

FrameReader = Callable[[Dataset, str, Sequence[SnippetInfo]], Iterator[Frame]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One configuration of a pass, and where its detections go."""

    config: MethodConfig
    out_url: str
    provenance: Mapping[str, str]  # kept with the detections


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One snippet to detect with one or more settings: all that a worker needs, picklable."""

    checkpoint_url: str
    settings: tuple[Setting, ...]
    source: DataSource
    split: str
    snippet: SnippetInfo
    device: str
    cache: CacheSettings | None = None

    @property
    def configs(self) -> list[MethodConfig]:
        return [setting.config for setting in self.settings]

    @property
    def frames(self) -> int:
        """Frames to detect; one counts once for each setting."""
        return self.snippet.num_frames * len(self.settings)

    def missing(self) -> Job | None:
        """The same with the settings whose part is not there yet; None when all are."""
        left = tuple(
            s
            for s in self.settings
            if finished(part_url(s.out_url, self.snippet.id), s.provenance, [self.snippet]) is None
        )
        return replace(self, settings=left) if left else None


def run_jobs(jobs: Sequence[Job], read: FrameReader = read_frames) -> Iterator[Job]:
    """Detect the snippets of ``jobs`` (of one data set and split) one after the other and keep the results as parts.

    Yields each job when its parts are written. Parts that are there already are kept. Each snippet holds the gate, so
    that no runtime is measured meanwhile.

    Args:
        read: gives the encoded frames of whole snippets, in order.

    Raises:
        UserError: a frame does not decode. With the source's option ``skip_bad`` it is no input of the method, has no
            detections, and is listed in the part's ``bad_frames``.
        SnippetError: the method failed.
    """
    missing = [job.missing() for job in jobs]
    wanted = [job for job in missing if job is not None]
    if not wanted:
        yield from jobs
        return
    first = wanted[0]
    dataset = cached_dataset(first.source, first.settings[0].provenance.get("data", ""))
    recorded = {job.snippet.id for job in wanted if _is_recorded(job)}
    snippets = [job.snippet for job in wanted if job.snippet.id not in recorded]

    def frames() -> Iterator[DecodedFrame]:
        return decoded(read(dataset, first.split, snippets), dataset.root)

    # One thread reads and decodes for all of them: the next snippet's frames are ready when this one ends.
    with closing(prefetch(frames, FRAMES_AHEAD)) as ready:
        for job, left in zip(jobs, missing, strict=True):
            if left is not None:
                if job.snippet.id in recorded:
                    _run_recorded(left, dataset)
                else:
                    _run(left, ready)
            yield job


def _is_recorded(job: Job) -> bool:
    """Whether the job seems to need no frames, because their encodings are kept for each of its settings."""
    kept = _kept(job)
    return kept is not None and all(kept.has(config) for config in job.configs)


def _kept(job: Job) -> KeptFeatures | None:
    """The job's feature cache, if it has one that its method can use."""
    if job.cache is None:
        return None
    device = pick_device(job.device)
    origin = {"data": job.settings[0].provenance["data"], "split": job.split}
    return kept_features(job.cache, cached_method(job.checkpoint_url, str(device)), job.snippet, device, origin)


def _run_recorded(job: Job, dataset: Dataset) -> None:
    """Run a job that seems to need no frames; they are read only where that turns out to be wrong."""
    _detect(job, _Taken(job, decoded_frames(dataset, job.split, job.snippet)))


def _run(job: Job, ready: Iterator[DecodedFrame]) -> None:
    taken = _Taken(job, ready)
    _detect(job, taken)
    taken.pass_over()  # what seemed to be missing may have been kept by another process meanwhile


def _detect(job: Job, taken: _Taken) -> None:
    device = pick_device(job.device)
    method = cached_method(job.checkpoint_url, str(device))
    with working():
        try:
            results = detect_snippet(method, job.configs, taken.images(), device, taken.truth, _kept(job))
        except SnippetError as error:
            name = job.settings[0].provenance.get("method", "method")
            raise SnippetError(f"{name}, snippet '{job.snippet.id}', {error}") from error
    for setting, result in zip(job.settings, results, strict=True):
        _keep(job.snippet, setting, result, taken)


class _Taken:
    """The frames of one snippet as they are taken from the stream of all: those that decode, and the others."""

    def __init__(self, job: Job, ready: Iterator[DecodedFrame]) -> None:
        self._job, self._ready = job, ready
        self._truth = Truth.empty()
        self._good: list[int] | None = None  # None while nobody has asked for images
        self.bad: list[DecodedFrame] = []

    @property
    def detected(self) -> Sequence[int]:
        """The frames with detections: all that decoded, or all there are where no image was asked for."""
        return range(self._job.snippet.num_frames) if self._good is None else self._good

    def images(self) -> Iterator[Image]:
        self._good = []
        for frame in self._frames():
            if frame.image is None and self._job.source.options.get("skip_bad"):
                self.bad.append(frame)
                continue
            self._good.append(frame.index)
            self._truth = frame.truth
            yield frame.pixels()

    def pass_over(self) -> None:
        """Take the frames that nobody asked for, so that the next snippet's come next."""
        if self._good is None:
            deque(self._frames(), maxlen=0)

    def _frames(self) -> Iterator[DecodedFrame]:
        snippet = self._job.snippet
        for index in range(snippet.num_frames):
            frame = next(self._ready)
            assert (frame.snippet, frame.index) == (snippet.id, index), (
                f"asked for {snippet.id}/{index}, got {frame.snippet}/{frame.index}"
            )
            yield frame

    def truth(self) -> Truth:
        """The annotation of the image that was drawn last."""
        return self._truth


def _keep(snippet: SnippetInfo, setting: Setting, result: SnippetResult, taken: _Taken) -> None:
    """Write one setting's part; frames that did not decode have no detections."""
    rows = dict(zip(taken.detected, zip(result.detections, result.stage_ms, strict=True), strict=True))
    builder = DetectionBuilder()
    for index in range(snippet.num_frames):
        builder.add(snippet.id, index, *rows.get(index, (Detections.empty(), {})))
    listed = [[snippet.id, frame.index, str(frame.error)] for frame in taken.bad]
    provenance = {**setting.provenance, **({BAD_FRAMES: json.dumps(listed)} if taken.bad else {})}
    write_detections(part_url(setting.out_url, snippet.id), builder.build(provenance))
