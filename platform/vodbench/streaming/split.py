"""A split's snippets through a method, resumable snippet by snippet.

A snippet's detections are kept as a part as soon as it is finished, below ``OUT.parts/``; a pass that was interrupted
takes those up again if they came from the same data, weights and configuration. The parts go when the whole is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial

from vodbench.checkpoints import Checkpoint
from vodbench.data_source import DataSource
from vodbench.detections import DetectionSet, read_detections, write_detections
from vodbench.device import pick_device
from vodbench.errors import UserError, unknown
from vodbench.features import CacheSettings
from vodbench.fingerprint import fingerprint
from vodbench.knobs import MethodConfig
from vodbench.spec import Dataset, SnippetInfo
from vodbench.storage import filesystem
from vodbench.streaming.caches import cached_checkpoint
from vodbench.streaming.jobs import Job, Setting, run_jobs
from vodbench.streaming.parts import FEATURES, assembled, finished, parts_url

Progress = Callable[[int, int], None]  # (frames done, frames in all), a frame counted once for each configuration

# Streams that go through a video side by side: each keeps its own window of features (RDN at T = 18, K = 75: 0.2 GB).
CONFIGS_A_PASS = 24


def detect_split(
    checkpoint_url: str,
    config: MethodConfig,
    source: DataSource,
    split: str,
    out_url: str,
    *,
    workers: int = 1,
    snippets: Sequence[str] | None = None,
    on_progress: Progress | None = None,
    device: str = "auto",
    cache: CacheSettings | None = None,
) -> DetectionSet:
    """Detections of a split's snippets, in listed order, written to ``out_url``; see ``detect_configs``."""
    detect_configs(
        checkpoint_url,
        [(config, out_url)],
        source,
        split,
        workers=workers,
        snippets=snippets,
        on_progress=on_progress,
        device=device,
        cache=cache,
    )
    return read_detections(out_url)


def detect_configs(
    checkpoint_url: str,
    configs: Sequence[tuple[MethodConfig, str]],
    source: DataSource,
    split: str,
    *,
    workers: int = 1,
    snippets: Sequence[str] | None = None,
    on_progress: Progress | None = None,
    device: str = "auto",
    cache: CacheSettings | None = None,
) -> int:
    """Write the detections of a split's snippets for several configurations of one checkpoint (Parquet, atomically).

    The data is read once for all of them, and what they share of a frame's work is done once (see ``FrameEncoder``):
    each gets exactly what it would get alone. Called again with the same arguments it continues an interrupted pass;
    what is finished is not done again. Holds the gate (``vodbench.timing.working``) while it computes: callers must
    not, or their workers would wait for them.

    Args:
        checkpoint_url: weights, see ``load_checkpoint``.
        configs: (configuration, where its detections go); may differ from the checkpoint's in inference knobs.
        workers: above 1, Ray tasks do the work, one torch thread each, fed by Ray Data (an embedded Ray is started
            when none runs); 1 reads and computes in this process.
        snippets: ids to do; None for all of the split.
        on_progress: called with (frames done, frames in all) whenever a snippet is finished.
        device: see ``pick_device``.
        cache: where encoded frames are kept for later passes and taken from; None: nowhere. With fp32 it changes no
            detection; the provenance says where features were rounded.

    Returns:
        Frames that were computed now, one counted once for each configuration; 0: all was there already.

    Raises:
        UserError: anything given that cannot be used; a frame that does not decode (with the source's option
            ``skip_bad`` it has no detections instead and is listed in ``provenance["bad_frames"]``).
        SnippetError: the method failed; the message names snippet and frame.
    """
    if workers < 1:
        raise UserError(f"workers = {workers} is not accepted: an integer in [1, inf)")
    pick_device(device)
    checkpoint = cached_checkpoint(checkpoint_url)
    for config, _ in configs:
        _check_config(checkpoint, config)
    dataset = source.open()
    infos = _selected(dataset, split, snippets)
    settings = [
        Setting(config=config, out_url=out_url, provenance=_provenance(checkpoint, config, dataset, split, cache))
        for config, out_url in configs
    ]
    left = [s for s in settings if finished(s.out_url, s.provenance, infos) is None]
    frames = sum(info.num_frames for info in infos)
    done = frames * (len(settings) - len(left))
    total = frames * len(settings)
    report = on_progress or (lambda done, of: None)
    computed = 0
    if not left:
        report(total, total)
    for first in range(0, len(left), CONFIGS_A_PASS):
        together = left[first : first + CONFIGS_A_PASS]
        jobs = [
            Job(
                checkpoint_url=checkpoint_url,
                settings=tuple(together),
                source=source,
                split=split,
                snippet=info,
                device=device,
                cache=cache,
            )
            for info in infos
        ]
        computed += _run_missing(jobs, workers, partial(_report, report, done, total))
        done += frames * len(together)
        for setting in together:
            write_detections(setting.out_url, assembled(setting.out_url, infos, setting.provenance))
            fs, path = filesystem(parts_url(setting.out_url))
            fs.rm(path, recursive=True)
    return computed


def _report(report: Progress, before: int, total: int, count: int) -> None:
    report(before + count, total)


def _run_missing(jobs: Sequence[Job], workers: int, report: Callable[[int], None]) -> int:
    """Run what is not there yet, telling how many frames are done (one counts once for each setting); how many were."""
    missing = [left for job in jobs if (left := job.missing()) is not None]
    wanted = sum(job.frames for job in missing)
    done = sum(job.frames for job in jobs) - wanted
    report(done)

    def finish(job: Job) -> None:
        nonlocal done
        done += job.frames
        report(done)

    if workers > 1 and len(missing) > 1:
        # Ray takes seconds to import: only where it is used.
        from vodbench.streaming.workers import run_on_ray

        run_on_ray(missing, workers, finish)
        return wanted
    for job in run_jobs(missing):
        finish(job)
    return wanted


def _selected(dataset: Dataset, split: str, snippets: Sequence[str] | None) -> list[SnippetInfo]:
    """The snippets asked for, in listed order; ``UserError`` for an unknown one, or when there is nothing to do."""
    listed = {info.id: info for info in dataset.snippets(split)}
    for snippet in snippets or ():
        if snippet not in listed:  # a data set has hundreds: name a few that look like it
            raise unknown("snippet", snippet, get_close_matches(snippet, listed, n=5, cutoff=0.0))
    wanted = set(listed if snippets is None else snippets)
    chosen = [info for info in listed.values() if info.id in wanted and info.num_frames > 0]
    if not chosen:
        raise UserError(f"split '{split}' of '{dataset.root}': no snippet with frames was chosen; name at least one")
    return chosen


def _check_config(checkpoint: Checkpoint, config: MethodConfig) -> None:
    """``UserError`` when the weights were not trained for this configuration."""
    if type(config) is not type(checkpoint.config):
        raise UserError(
            f"the configuration is a {type(config).__name__}, but the checkpoint holds '{checkpoint.method}', which "
            f"takes a {type(checkpoint.config).__name__}"
        )
    trained = checkpoint.config.training_settings()
    different = [n for n, value in config.training_settings().items() if trained[n] != value]
    if different:
        raise UserError(
            f"the checkpoint was trained with other settings ({', '.join(different)}); train again, or change only "
            f"inference knobs: {', '.join(config.inference_settings()) or 'none'}"
        )


def _provenance(
    checkpoint: Checkpoint, config: MethodConfig, dataset: Dataset, split: str, cache: CacheSettings | None
) -> dict[str, str]:
    """Everything that detections depend on (not the protocol: that is of their evaluation)."""
    rounded = {} if cache is None or cache.precision == "fp32" else {FEATURES: cache.precision}
    return {
        **rounded,
        "method": checkpoint.method,
        "weights": checkpoint.fingerprint,
        "config": fingerprint(config.to_mapping()),
        "data": dataset.fingerprint,
        "split": split,
    }
