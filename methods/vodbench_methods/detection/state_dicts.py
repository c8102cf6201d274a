"""Weights from files that a user names: read as plain tensors, and every key accounted for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vodbench.errors import UserError


def read_plain(path: str, setting: str, wanted: str) -> Any:
    """What ``torch.save`` wrote to the file that ``setting`` names. No code of the file runs.

    ``UserError`` when it is missing or of another kind; ``wanted`` says what should be given.
    """
    if not Path(path).is_file():
        raise UserError(f"{setting} = '{path}' is not a file; give {wanted} or leave it out")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many types for a file that is no checkpoint
        reason = type(error).__name__
        raise UserError(f"{setting} = '{path}' is not a PyTorch file ({reason}); give {wanted}") from error


def is_state_dict(values: Any) -> bool:
    return isinstance(values, dict) and bool(values) and all(isinstance(v, Tensor) for v in values.values())


def fill(
    module: nn.Module, given: Mapping[str, Tensor], what: str, choose: str, optional: Callable[[str], bool]
) -> None:
    """Load ``given`` into ``module``; only keys that are ``optional`` may lack on either side.

    ``UserError`` lists what is missing, unexpected or of another shape: "``what``: missing ...; ``choose``".
    """
    wanted = module.state_dict()
    missing = sorted(n for n in wanted.keys() - given.keys() if not optional(n))
    unexpected = sorted(n for n in given.keys() - wanted.keys() if not optional(n))
    other_shape = sorted(n for n in wanted.keys() & given.keys() if wanted[n].shape != given[n].shape)
    if missing or unexpected or other_shape:
        raise UserError(
            f"{what}: missing {_some(missing)}; unexpected {_some(unexpected)}; of another shape {_some(other_shape)}; "
            f"{choose}"
        )
    module.load_state_dict({n: v for n, v in given.items() if n in wanted}, strict=False)


def _some(names: list[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "none") + more
