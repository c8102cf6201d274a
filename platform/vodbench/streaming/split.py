"""A split's snippets through a method, resumable snippet by snippet.

A snippet's detections are kept as a part as soon as it is finished, below ``OUT.parts/``; a pass that was interrupted
takes those up again if they came from the same data, weights and configuration. The parts go when the whole is written.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches

import numpy as np

from vodbench.checkpoints import Checkpoint
from vodbench.data_source import DataSource
from vodbench.detections import DetectionSet, concatenate, read_detections, write_detections
from vodbench.device import pick_device
from vodbench.errors import UserError, unknown
from vodbench.fingerprint import fingerprint
from vodbench.knobs import MethodConfig
from vodbench.spec import Dataset, SnippetInfo
from vodbench.storage import exists, filesystem, join
from vodbench.streaming.jobs import BAD_FRAMES, Job, cached_checkpoint, run_job

Progress = Callable[[int, int], None]  # (frames done, frames in all)


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
) -> DetectionSet:
    """Detections of a split's snippets, in listed order, written to ``out_url`` (Parquet, atomically).

    Called again with the same arguments it continues an interrupted pass; a finished one is read back. Holds the gate
    (``vodbench.timing.working``) while it computes: callers must not, or their workers would wait for them.

    Args:
        checkpoint_url: weights, see ``load_checkpoint``.
        config: may differ from the checkpoint's in inference knobs.
        workers: above 1, Ray tasks do the work, one torch thread each (an embedded Ray is started when none runs).
        snippets: ids to do; None for all of the split.
        on_progress: called with (frames done, frames in all) whenever a snippet is finished.
        device: see ``pick_device``.

    Raises:
        UserError: anything given that cannot be used; a frame that does not decode (with the source's option
            ``skip_bad`` it has no detections instead and is listed in ``provenance["bad_frames"]``).
        SnippetError: the method failed; the message names snippet and frame.
    """
    if workers < 1:
        raise UserError(f"workers = {workers} is not accepted: an integer in [1, inf)")
    pick_device(device)
    checkpoint = cached_checkpoint(checkpoint_url)
    _check_config(checkpoint, config)
    dataset = source.open()
    infos = _selected(dataset, split, snippets)
    provenance = _provenance(checkpoint, config, dataset, split)
    total = sum(info.num_frames for info in infos)
    report = on_progress or (lambda done, of: None)
    if (whole := _finished(out_url, provenance, infos)) is not None:
        report(total, total)
        return whole

    parts_url = out_url + ".parts"
    jobs = [
        Job(
            checkpoint_url=checkpoint_url,
            config=config,
            source=source,
            split=split,
            snippet=info,
            part_url=join(parts_url, fingerprint(info.id) + ".parquet"),
            provenance=provenance,
            device=device,
        )
        for info in infos
    ]
    _run_missing(jobs, workers, lambda done: report(done, total))
    whole = _assembled(jobs, provenance)
    write_detections(out_url, whole)
    fs, path = filesystem(parts_url)
    fs.rm(path, recursive=True)
    return whole


def _run_missing(jobs: Sequence[Job], workers: int, report: Callable[[int], None]) -> None:
    """Run the jobs whose part is not there yet, telling how many frames are done."""
    missing = [job for job in jobs if _finished(job.part_url, job.provenance, [job.snippet]) is None]
    done = sum(job.snippet.num_frames for job in jobs) - sum(job.snippet.num_frames for job in missing)
    report(done)

    def finished(job: Job) -> None:
        nonlocal done
        done += job.snippet.num_frames
        report(done)

    if workers > 1 and len(missing) > 1:
        # Ray takes seconds to import: only where it is used.
        from vodbench.streaming.workers import run_jobs

        run_jobs(missing, workers, finished)
        return
    for job in missing:
        run_job(job)
        finished(job)


def _assembled(jobs: Sequence[Job], provenance: Mapping[str, str]) -> DetectionSet:
    """All parts as one set, with the list of all frames that did not decode."""
    parts = [read_detections(job.part_url) for job in jobs]
    bad = [entry for part in parts for entry in json.loads(part.provenance.get(BAD_FRAMES, "[]"))]
    extra = {BAD_FRAMES: json.dumps(bad)} if bad else {}
    return dataclasses.replace(concatenate(parts), provenance={**provenance, **extra})


def _finished(url: str, provenance: Mapping[str, str], infos: Sequence[SnippetInfo]) -> DetectionSet | None:
    """What is stored at ``url``, if it is complete and of the same origin; None is to be made (again)."""
    if not exists(url):
        return None
    try:
        stored = read_detections(url)
    except UserError:  # damaged, or of another version: made again, which replaces it
        return None
    same = all(stored.provenance.get(name) == value for name, value in provenance.items())
    wanted = [info.num_frames for info in infos]
    if not same or stored.snippet_ids != tuple(info.id for info in infos):
        return None
    return stored if np.bincount(stored.snippet, minlength=len(infos)).tolist() == wanted else None


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


def _provenance(checkpoint: Checkpoint, config: MethodConfig, dataset: Dataset, split: str) -> dict[str, str]:
    """Everything that detections depend on (not the protocol: that is of their evaluation)."""
    return {
        "method": checkpoint.method,
        "weights": checkpoint.fingerprint,
        "config": fingerprint(config.to_mapping()),
        "data": dataset.fingerprint,
        "split": split,
    }
