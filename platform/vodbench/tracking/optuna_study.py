"""A sweep as an Optuna study in a database, for Optuna's dashboard and its plots.

It is written from the records and never read by a sweep: losing it loses nothing. A trial is a record under its knobs'
real values; a record that changed, or a space that did, has the study written anew.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from vodbench.errors import UserError
from vodbench.fingerprint import fingerprint
from vodbench.front.hypervolume import Step
from vodbench.records import TrialRecord
from vodbench.redaction import redact
from vodbench.studies.model import Range, Study
from vodbench.sweeps.folder import StudyFolder
from vodbench.tracking.content import run_name
from vodbench.tracking.reaching import OPTUNA, in_time, parsed, probe

if TYPE_CHECKING:
    import optuna

SCHEMES = ("sqlite", "postgresql", "mysql", "mssql")
METRIC_NAMES = ["mAP", "ms a frame"]
TRIAL, RECORD, SPACE = "trial", "record", "vodbench.space"  # user attributes: fingerprints of what they are named after
TABLES_SECONDS = 120.0  # a new database has its tables made


def study_name(folder: StudyFolder) -> str:
    """``rdn-table4-1a2b3c4d``: two sweeps of one study are two studies in the database."""
    return f"{folder.study().name}-{folder.identity().id[:8]}"


def open_storage(url: str) -> optuna.storages.RDBStorage:
    """The database. ``UserError`` for what is no address of one; in bounded time when it cannot be reached."""
    parts, _ = parsed(url, OPTUNA)
    if parts.scheme.partition("+")[0] not in SCHEMES:
        raise UserError(
            f"Optuna storage '{redact(url)}' is not accepted: give sqlite:///FILE.db or postgresql+psycopg2://HOST/NAME"
        )
    probe(url, OPTUNA)
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return in_time(lambda: optuna.storages.RDBStorage(url), url, patience=TABLES_SECONDS, what=OPTUNA)


class OptunaStudy:
    """One study folder's way into one Optuna storage. Every request may raise what SQLAlchemy raises."""

    def __init__(self, url: str, folder: StudyFolder) -> None:
        self._storage = open_storage(url)
        self._name = study_name(folder)
        self._study = folder.study()
        self._spaces = _spaces(self._study, folder.records().values())
        self._optuna = self._open()
        self._delivered = self._find()

    def deliver(self, records: Iterable[TrialRecord]) -> int:
        """Add the records' trials; how many had none. One that is there may be an earlier record's: ``deliver_all``."""
        missing = [record for record in records if record.fingerprint not in self._delivered]
        for record in missing:
            self._optuna.add_trial(self._trial(record))
            self._delivered[record.fingerprint] = _digest(record)
        return len(missing)

    def deliver_all(self, records: Iterable[TrialRecord]) -> int:
        """Add what is missing, or write all trials anew when one has another record now; how many were added."""
        known = sorted(records, key=lambda r: (r.started, r.fingerprint))
        there = {record.fingerprint: _digest(record) for record in known}
        if any(there.get(name) != digest for name, digest in self._delivered.items()):
            self._begin_anew()
        return self.deliver(known)

    def log_progress(self, steps: Sequence[Step]) -> None:
        """Optuna computes the hypervolume itself."""

    def finish(self, records: Iterable[TrialRecord], *, complete: bool) -> None:
        """Say whether the sweep is complete."""
        self._optuna.set_user_attr("complete", complete)

    def stop(self) -> None:
        """The sweep is not complete."""
        self._optuna.set_user_attr("complete", False)

    def _open(self) -> optuna.Study:
        import optuna

        study = optuna.create_study(
            storage=self._storage, study_name=self._name, directions=["maximize", "minimize"], load_if_exists=True
        )
        space = fingerprint({name: str(distribution) for name, distribution in sorted(self._spaces.items())})
        if study.user_attrs.get(SPACE, space) != space:
            optuna.delete_study(study_name=self._name, storage=self._storage)
            return self._open()
        if SPACE not in study.user_attrs:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.set_metric_names(METRIC_NAMES)
            study.set_user_attr("title", self._study.title)
            study.set_user_attr(SPACE, space)
        return study

    def _begin_anew(self) -> None:
        import optuna

        optuna.delete_study(study_name=self._name, storage=self._storage)
        self._optuna = self._open()
        self._delivered = {}

    def _find(self) -> dict[str, str]:
        """Trial fingerprint -> digest of the record that its trial was made from."""
        found = (trial.user_attrs for trial in self._optuna.get_trials(deepcopy=False))
        return {attributes[TRIAL]: attributes[RECORD] for attributes in found if TRIAL in attributes}

    def _trial(self, record: TrialRecord) -> optuna.trial.FrozenTrial:
        import optuna

        params = {"method": record.method, **_params(record.method, record.knobs)}
        values = _objectives(record)
        state = optuna.trial.TrialState.COMPLETE if values else optuna.trial.TrialState.FAIL
        attributes = {TRIAL: record.fingerprint, RECORD: _digest(record), "name": run_name(record), "seed": record.seed}
        trial = optuna.trial.create_trial(
            state=state,
            values=values,
            params=params,
            distributions={name: self._spaces[name] for name in params},
            user_attrs=attributes | ({"reason": record.reason} if record.reason else {}),
        )
        # Optuna keeps local times without a zone.
        trial.datetime_start = datetime.fromisoformat(record.started).astimezone().replace(tzinfo=None)
        trial.datetime_complete = trial.datetime_start + timedelta(seconds=sum(record.seconds.values()))
        return trial


def _objectives(record: TrialRecord) -> list[float] | None:
    if record.accuracy is None or record.runtime is None:
        return None
    values = [record.accuracy.map, record.runtime.mean_ms]
    return values if all(math.isfinite(value) for value in values) else None


def _params(method: str, knobs: Mapping[str, Any]) -> dict[str, Any]:
    """``{"rdn.T": 2}``: Optuna knows one meaning of a name, methods may differ in theirs."""
    return {f"{method}.{name}": _plain(value) for name, value in knobs.items()}


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (list, tuple)) else value


def _spaces(study: Study, records: Iterable[TrialRecord]) -> dict[str, optuna.distributions.BaseDistribution]:
    """A distribution a parameter, over all values in the study and in the records: they may be of an earlier space."""
    values: dict[str, list[Any]] = {"method": [entry.method for entry in study.methods]}
    continuous = set()
    for entry in study.methods:
        for knob, space in entry.knobs.items():
            name = f"{entry.method}.{knob}"
            listed = (space.low, space.high) if isinstance(space, Range) else map(_plain, space)
            values.setdefault(name, []).extend(listed)
            if isinstance(space, Range) and not (space.step or 0.5).is_integer():
                continuous.add(name)
    for record in records:
        for name, value in {"method": record.method, **_params(record.method, record.knobs)}.items():
            values.setdefault(name, []).append(value)
    return {name: _distribution(found, name in continuous) for name, found in values.items()}


def _distribution(values: Iterable[Any], continuous: bool) -> optuna.distributions.BaseDistribution:
    from optuna import distributions as d

    distinct = list(dict.fromkeys(values))
    if any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in distinct):
        return d.CategoricalDistribution(distinct)
    if continuous or not all(float(value).is_integer() for value in distinct):
        return d.FloatDistribution(float(min(distinct)), float(max(distinct)))
    return d.IntDistribution(int(min(distinct)), int(max(distinct)))


def _digest(record: TrialRecord) -> str:
    return fingerprint(record.to_json())
