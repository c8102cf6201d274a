"""What the readers of other projects' checkpoints share: a file, its state dict, and its translation into our names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vodbench.errors import UserError
from vodbench.knobs import MethodConfig


@dataclass(frozen=True, slots=True)
class Imported:
    """Published weights under our names, with the method and configuration they belong to."""

    method: str  # name in the METHODS table
    config: MethodConfig
    num_classes: int
    weights: dict[str, Tensor]
    class_names: tuple[str, ...] | None = None  # in the order of the labels, where the file tells


@dataclass(frozen=True, slots=True)
class Source:
    """Where one of our weights comes from: its published name and shape, and what makes it ours."""

    name: str
    shape: tuple[int, ...]
    convert: Callable[[Tensor], Tensor] = lambda value: value


def read_file(path: str, project: str) -> dict[str, Any]:
    """The dictionary in a checkpoint file. Nothing but plain tensors and values is read: no code runs."""
    if not Path(path).is_file():
        raise UserError(f"checkpoint '{path}' is not a file; give one that {project} wrote (.pth)")
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many types for a file that is no checkpoint
        raise UserError(
            f"checkpoint '{path}' cannot be read as plain tensors ({type(error).__name__}); {project}'s own files "
            "can: is it damaged, or not a checkpoint?"
        ) from error
    if not isinstance(values, dict):
        raise UserError(f"checkpoint '{path}' is not of {project}'s layout: it holds a {type(values).__name__}")
    return values


def state_dict(values: Mapping[str, Any], key: str, path: str, project: str) -> dict[str, Tensor]:
    """The state dict under ``key`` (or the file itself), without ``module.`` and counters that nothing uses."""
    state = values.get(key, values)
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(
            f"checkpoint '{path}' is not of {project}'s layout: expected {{{key}: state dict, ...}}, got "
            f"{{{some(sorted(map(str, values)))}}}"
        )
    stripped = {name.removeprefix("module."): value for name, value in state.items()}
    return {name: value for name, value in stripped.items() if not name.endswith("num_batches_tracked")}


def needed(published: Mapping[str, Tensor], name: str, path: str, project: str) -> Tensor:
    """A weight that every file of the project has; ``UserError`` when this one lacks it."""
    if name not in published:
        raise UserError(
            f"checkpoint '{path}' is not of {project}'s layout: it lacks '{name}' and has {some(sorted(published))}"
        )
    return published[name]


def count(published: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered entries follow a prefix."""
    return len({name[len(prefix) :].split(".")[0] for name in published if name.startswith(prefix)})


def translated(
    published: Mapping[str, Tensor],
    sources: Mapping[str, Source],
    expected: str,
    path: str,
    ignored: Set[str] = frozenset(),
) -> dict[str, Tensor]:
    """Every own weight from its source; the two must cover each other, names in ``ignored`` apart.

    ``expected`` says in the error which layout was looked for.
    """
    wanted = {source.name for source in sources.values()}
    missing = sorted(wanted - published.keys())
    unexpected = sorted(published.keys() - wanted - ignored)
    wrong = [
        f"{source.name} {list(published[source.name].shape)} instead of {list(source.shape)}"
        for source in sources.values()
        if source.name in published and _linear(published[source.name], source.shape).shape != source.shape
    ]
    if missing or unexpected or wrong:
        raise UserError(
            f"checkpoint '{path}' does not fit {expected}: missing {some(missing)}; unexpected {some(unexpected)}; "
            f"of another shape {some(wrong)}"
        )
    return {
        name: source.convert(_linear(published[source.name], source.shape).float()) for name, source in sources.items()
    }


def _linear(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A 1x1 convolution over single proposals is a linear layer here; the numbers are laid out alike."""
    if value.dim() == 4 and len(shape) == 2 and value.shape[2:] == (1, 1):
        return value.flatten(1)
    return value


def some(names: list[str], limit: int = 12) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "none") + more
