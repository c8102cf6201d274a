"""What became of trainings at the rungs of early stopping, kept on disk: decisions are made once and never again.

::

    OUT/rungs/<training>/<share>-<snippets>.json    the mAP there, and whether the training went on
    OUT/rungs/<training>/kept                       it was asked to go on, whatever its rungs say
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace

from vodbench.errors import UserError
from vodbench.storage import exists, filesystem, join, read_text, text_if_there, write_text
from vodbench.studies.searching import EarlyStopping


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One training at one rung."""

    training: str  # fingerprint of the finished weights
    method: str
    seed: int
    share: float  # of the iterations of its last stage
    map: float
    better: int | None = None  # trainings that were better, when it was decided whether it goes on
    of: int | None = None  # of so many that had come as far, itself included
    go_on: bool | None = None  # None: not decided yet


class Rungs:
    """The rungs of one study folder."""

    def __init__(self, folder: str, settings: EarlyStopping) -> None:
        self._folder, self._settings = folder, settings

    def at(self, training: str, share: float) -> Rung | None:
        url = self._url(training, share)
        text = text_if_there(url)
        return None if text is None else _parsed(url, text)

    def reached(self, share: float, method: str, seed: int) -> list[Rung]:
        """The trainings of this method and seed that have come as far."""
        fs, path = filesystem(self._url("*", share))
        found = [_read(str(fs.unstrip_protocol(file))) for file in sorted(fs.glob(path))]
        return [rung for rung in found if (rung.method, rung.seed) == (method, seed)]

    def keep(self, rung: Rung) -> None:
        write_text(self._url(rung.training, rung.share), json.dumps(asdict(rung), indent=1))

    def decided(self, rung: Rung) -> Rung:
        """The rung with its decision, which is made now if it was not before.

        A training goes on unless a third (1 / ``reduction``) of those that have come as far, rounded up, are better.
        Where too few have come to tell a third, all go on; equals of the last that goes on do too.
        """
        if rung.go_on is not None:
            return rung
        field = self.reached(rung.share, rung.method, rung.seed)
        better = sum(other.map > rung.map for other in field)
        reduction = self._settings.reduction
        go_on = len(field) < reduction or better < math.ceil(len(field) / reduction)
        decided = replace(rung, better=better, of=len(field), go_on=go_on)
        self.keep(decided)
        return decided

    def _url(self, training: str, share: float) -> str:
        return join(self._folder, "rungs", training, f"{share:g}-{self._settings.snippets}.json")


def given_up_at(folder: str, training: str) -> float | None:
    """The share of its last stage after which a training was given up; None where it was not, or goes on again."""
    if spared(folder, training):
        return None
    fs, path = filesystem(join(folder, "rungs", training, "*.json"))
    found = [_read(str(fs.unstrip_protocol(file))) for file in fs.glob(path)]
    return min((rung.share for rung in found if rung.go_on is False), default=None)


def spare(folder: str, training: str) -> None:
    """The training goes on from now, whatever its rungs say."""
    write_text(_kept(folder, training), "")


def spared(folder: str, training: str) -> bool:
    return exists(_kept(folder, training))


def _kept(folder: str, training: str) -> str:
    return join(folder, "rungs", training, "kept")


def _read(url: str) -> Rung:
    return _parsed(url, read_text(url))


def _parsed(url: str, text: str) -> Rung:
    try:
        return Rung(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise UserError(f"'{url}' is damaged ({error}); delete it to judge the training again") from error
