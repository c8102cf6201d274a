"""Checkpoints: the weights of one training stage, with everything that says where they came from.

A checkpoint is one file, ``model.pt``: ``torch.save`` of a plain mapping of tensors, strings, numbers and lists. It
is read back with ``weights_only=True``, so a file from elsewhere can be wrong but cannot run code.
"""

from __future__ import annotations

import io
import json
import pickle
import posixpath
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from vodbench.errors import UserError
from vodbench.knobs import MethodConfig
from vodbench.registry import method_spec
from vodbench.spec import ClassInfo, Method
from vodbench.storage import exists, join, read_bytes, read_text, write_bytes

FILE_NAME = "model.pt"
FORMAT = "vodbench-checkpoint"
SCHEMA = 1

_KEYS = ("method", "config", "classes", "weights", "fingerprint", "stage", "data_fingerprint", "seed", "revision")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Trained weights and their origin.

    ``config`` is the configuration of the stage that made the weights; its inference knobs are only where a run that
    does not say otherwise starts from. ``weights`` is a state dict on the CPU.
    """

    method: str  # name in the METHODS table
    config: MethodConfig
    classes: tuple[ClassInfo, ...]  # label k means classes[k - 1]
    weights: Mapping[str, torch.Tensor]
    fingerprint: str  # of the stage and everything before it: its name in a store
    stage: str
    data_fingerprint: str
    seed: int
    revision: str  # of the code that trained it

    def build(self, device: str | torch.device = "cpu") -> Method:
        """The method with these weights, in evaluation mode on ``device``.

        Raises ``UserError`` listing missing, unexpected and differently shaped entries when they do not fit.
        """
        method = method_spec(self.method).build(self.config, len(self.classes))
        assert isinstance(method, torch.nn.Module), f"{self.method}: a method is a torch.nn.Module"
        load_weights(method, self.weights, f"checkpoint {self.fingerprint} of {self.method}")
        method.eval().to(device)
        built: Method = method
        return built


def checkpoint_url(store: str, fingerprint: str) -> str:
    """Where the weights of that fingerprint are kept below a store (a study's or a run's folder)."""
    return join(store, "checkpoints", fingerprint, FILE_NAME)


def load_weights(module: torch.nn.Module, weights: Mapping[str, torch.Tensor], where: str) -> None:
    """Load a state dict that must fit exactly; ``UserError`` naming every entry that does not."""
    wanted = module.state_dict()
    problems = {
        "missing": sorted(wanted.keys() - weights.keys()),
        "unexpected": sorted(weights.keys() - wanted.keys()),
        "of another shape": [
            f"{name} {list(weights[name].shape)} instead of {list(tensor.shape)}"
            for name, tensor in wanted.items()
            if name in weights and weights[name].shape != tensor.shape
        ],
    }
    found = [f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names]
    if found:
        raise UserError(
            f"{where} does not fit the method it names; {'; '.join(found)}. "
            "Use the version of the method that made it, or train again"
        )
    module.load_state_dict(dict(weights))


def save_checkpoint(url: str, checkpoint: Checkpoint) -> None:
    """Write ``checkpoint`` to the file ``url``, atomically."""
    values = {name: getattr(checkpoint, name) for name in _KEYS}
    values["config"] = checkpoint.config.to_mapping()
    values["classes"] = [[c.id, c.name] for c in checkpoint.classes]
    # Clones, because a view would drag its whole storage into the file.
    values["weights"] = {name: t.detach().cpu().clone() for name, t in checkpoint.weights.items()}
    write_bytes(url, pack(FORMAT, SCHEMA, values))


def load_checkpoint(url: str, expect_method: str | None = None) -> Checkpoint:
    """Read a checkpoint: a file, or a folder with ``model.pt``.

    Raises ``UserError`` when there is none, when the file is damaged or from elsewhere, or when it belongs to another
    method than ``expect_method``.
    """
    inside = join(url, FILE_NAME)
    file = inside if exists(inside) else url
    values = unpack(read_bytes(file), FORMAT, SCHEMA, file)
    missing = [name for name in _KEYS if name not in values]
    if missing:
        raise UserError(f"checkpoint '{file}' lacks {', '.join(missing)}; it is damaged: train or import it again")
    if expect_method is not None and values["method"] != expect_method:
        raise UserError(
            f"checkpoint '{file}' holds the method '{values['method']}', not '{expect_method}'; "
            f"give one that was trained as '{expect_method}'"
        )
    config = method_spec(values["method"]).config.from_mapping(values["config"])
    classes = tuple(ClassInfo(id, name) for id, name in values["classes"])
    return Checkpoint(**{**values, "config": config, "classes": classes})


def resolve_run(path: str) -> tuple[Checkpoint, MethodConfig]:
    """What a user means by a run: its weights, and the knobs to run them with.

    ``path`` is a checkpoint file, a folder with ``model.pt``, a folder that ``vodbench train`` wrote (``run.json``), or
    a trial's folder in a study (``trial.json``, whose knobs may differ from those of the checkpoint it shares).
    """
    path = path.rstrip("/") or path
    if exists(join(path, "trial.json")):
        return _resolve_trial(path)
    if exists(join(path, "run.json")):
        return _resolve_training(path)
    if not exists(path):
        raise UserError(f"run '{path}' does not exist; give a checkpoint file, a training's folder or a trial's folder")
    checkpoint = load_checkpoint(path)
    return checkpoint, checkpoint.config


def _resolve_training(path: str) -> tuple[Checkpoint, MethodConfig]:
    run = _read_json(join(path, "run.json"))
    url = checkpoint_url(path, str(run.get("fingerprint")))
    if not exists(url):
        raise UserError(f"run '{path}' has not finished training; run the same 'vodbench train' again to complete it")
    checkpoint = load_checkpoint(url, run["method"])
    return checkpoint, type(checkpoint.config).from_mapping(run["config"])


def _resolve_trial(path: str) -> tuple[Checkpoint, MethodConfig]:
    trial = _read_json(join(path, "trial.json"))
    if trial.get("status") != "complete" or not trial.get("checkpoint"):
        reason = trial.get("reason") or "it did not finish"
        raise UserError(f"trial '{path}' has no result ({reason}); choose one that is complete")
    checkpoint = load_checkpoint(checkpoint_url(study_of(path), trial["checkpoint"]), trial["method"])
    return checkpoint, type(checkpoint.config).from_mapping(trial["config"])


def study_of(trial: str) -> str:
    """The study's folder of a trial's folder ``STUDY/trials/NAME``, as it may be called from inside the study, too."""
    return posixpath.dirname(posixpath.dirname(trial)) or "."


def _read_json(url: str) -> dict[str, Any]:
    try:
        values = json.loads(read_text(url))
    except ValueError as error:
        raise UserError(f"'{url}' is damaged ({error}); delete it to run it again") from error
    if not isinstance(values, dict):
        raise UserError(f"'{url}' is not a record of vodbench; expected a JSON object")
    return values


def pack(format: str, schema: int, values: Mapping[str, Any]) -> bytes:
    """A plain mapping as ``torch.save`` bytes, marked with what it is."""
    buffer = io.BytesIO()
    torch.save({"format": format, "schema": schema, **values}, buffer)
    return buffer.getvalue()


def unpack(data: bytes, format: str, schema: int, where: str) -> dict[str, Any]:
    """The mapping that ``pack`` wrote; ``UserError`` naming ``where`` for anything else."""
    try:
        _check_sums(data)
        values = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, zipfile.BadZipFile, *_DAMAGE) as error:
        raise UserError(
            f"'{where}' is not a checkpoint, or is damaged ({type(error).__name__}); accepted: a {FILE_NAME} written "
            "by vodbench (published weights are converted with 'vodbench import')"
        ) from error
    if not isinstance(values, dict) or values.get("format") != format:
        raise UserError(
            f"'{where}' holds tensors, but was not written by vodbench as {format}; convert published weights with "
            "'vodbench import'"
        )
    if values.get("schema") != schema:
        raise UserError(f"'{where}' has schema {values.get('schema')!r}, not {schema}: written by another version")
    return {key: value for key, value in values.items() if key not in ("format", "schema")}


# What the readers of zip and pickle raise besides on bytes that nobody wrote.
_DAMAGE = (
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


def _check_sums(data: bytes) -> None:
    """``zipfile.BadZipFile`` where a member does not match its CRC, which torch does not look at."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if (member := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"{member} does not match its checksum")
