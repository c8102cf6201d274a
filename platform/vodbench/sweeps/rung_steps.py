"""What the platform knows of a training on its way: may it be given up, and how good is it so far?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache

from vodbench.checkpoints import checkpoint_url
from vodbench.detections import read_detections
from vodbench.evaluation import evaluate, truth_set
from vodbench.knobs import MethodConfig
from vodbench.records import TrialRecord
from vodbench.registry import method_spec
from vodbench.storage import join
from vodbench.studies import Study, grid_points, method_spaces, parse_study
from vodbench.sweeps.rungs import given_up_at
from vodbench.sweeps.steps import OnProgress, TrialContext, TrialJob
from vodbench.timing import working


def pause_after(job: TrialJob, share: float) -> int:
    """Iterations of the last stage that are this share of it; at least one."""
    return _paused_at(share, _last_iterations(job.method, job.config))


def iterations_saved(records: Sequence[TrialRecord], folder: str) -> tuple[int, int]:
    """(iterations that were not trained because trainings were given up, iterations in all), of last stages."""
    trainings = {r.checkpoint: r for r in records if r.checkpoint is not None}
    saved, total = 0, 0
    for training, record in trainings.items():
        config = method_spec(record.method).config.from_mapping(record.config)
        iterations = _last_iterations(record.method, config)
        share = given_up_at(folder, training) if record.status == "stopped" else None
        saved += 0 if share is None else iterations - _paused_at(share, iterations)
        total += iterations
    return saved, total


def _paused_at(share: float, iterations: int) -> int:
    return max(1, round(share * iterations))


def _last_iterations(method: str, config: MethodConfig) -> int:
    return method_spec(method).stages(config)[-1].schedule.iterations


def may_stop(job: TrialJob, context: TrialContext, training: str) -> bool:
    """See ``Steps.may_stop``."""
    from vodbench.training.keeper import Folder

    study = json.dumps(context.study.to_mapping(), sort_keys=True)
    built_on = _built_on(study, context.data_fingerprint, job.seed)
    return training not in built_on and not Folder(context.folder, training).finished


@lru_cache(maxsize=8)
def _built_on(study_json: str, data_fingerprint: str, seed: int) -> frozenset[str]:
    """Stages that a later stage of some point begins with; of a search, of the first point of each of its entries."""
    from vodbench.training import plan_stages

    study = parse_study(json.loads(study_json), "study")
    points = grid_points(study) if study.search.sampler == "grid" else [s.first() for s in method_spaces(study)]
    chains = [plan_stages(p.method, p.config, data_fingerprint, seed, study.data.train) for p in points]
    return frozenset(stage.fingerprint for chain in chains for stage in chain[:-1])


def score_paused(job: TrialJob, share: float, context: TrialContext, training: str, on_progress: OnProgress) -> float:
    """See ``Steps.score``."""
    from vodbench.streaming import detect_configs
    from vodbench.training.keeper import Folder

    study, folder = context.study, Folder(context.folder, training)
    assert study.search.early_stopping is not None
    # A stage of few iterations may have ended at its rung.
    weights = (
        checkpoint_url(context.folder, training) if folder.finished else folder.paused_url(pause_after(job, share))
    )
    dataset = context.source.open()
    listed = [info.id for info in dataset.snippets(study.data.val)]
    count = min(study.search.early_stopping.snippets, len(listed))
    snippets = [listed[i * len(listed) // count] for i in range(count)]
    found = join(context.folder, "rungs", training, f"{share:g}-{count}.parquet")
    detect_configs(
        weights,
        [(judged_as(job, study), found)],
        context.source,
        study.data.val,
        workers=study.workers.evaluation,
        snippets=snippets,
        on_progress=lambda done, total: on_progress(f"judging {job.method} at {share:.0%}", done, total),
        device=study.runtime.device,
    )
    with working():
        truth = truth_set(dataset, study.data.val, snippets)
        return evaluate(truth, read_detections(found), study.accuracy.protocol, 0).map


def judged_as(job: TrialJob, study: Study) -> MethodConfig:
    """The trial's training settings with the inference settings of the study's preset and common settings."""
    config = method_spec(job.method).config
    common = {name: value for name, value in study.settings.items() if name in config.knobs()}
    usual = config.from_mapping({**method_spec(job.method).presets[study.preset], **common})
    return job.config.replace(**usual.inference_settings())
