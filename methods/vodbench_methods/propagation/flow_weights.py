"""Weights that a flow network starts from: those of another method's checkpoint, or published ones."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from vodbench.checkpoints import load_checkpoint
from vodbench.errors import UserError
from vodbench_methods.flow import FlowNetwork
from vodbench_methods.flow.flownet_s import FlowNetS, published_name

FLOW = "flow."  # the prefix of the flow network's weights in a method's checkpoint
_OPTIONAL = ("heads.scale.", "heads.update.")  # say more than optical flow; not in every checkpoint


def load_flow_weights(network: FlowNetwork, path: str) -> None:
    """Fill ``network`` from a checkpoint of a method that propagates features, or from a state dict of it alone.

    The state dict may have the published names of FlowNetS (``flow_conv1.weight``, ``Convolution5.bias``, ...). Scale
    map and update logits keep their start where the file lacks them. ``UserError`` when the file is missing or holds
    something else, with the keys that are missing and unexpected.
    """
    given, wanted = _read(path), network.state_dict()
    if isinstance(network, FlowNetS):
        given = {**given, **{n: given.pop(published_name(n)) for n in wanted if published_name(n) in given}}
    missing = sorted(n for n in wanted.keys() - given.keys() if not n.startswith(_OPTIONAL))
    unexpected = sorted(n for n in given.keys() - wanted.keys() if not n.startswith(_OPTIONAL))
    other_shape = sorted(n for n in wanted.keys() & given.keys() if wanted[n].shape != given[n].shape)
    if missing or unexpected or other_shape:
        raise UserError(
            f"flow_weights = '{path}' does not hold the weights of {type(network).__name__}: missing {_some(missing)}; "
            f"unexpected {_some(unexpected)}; of another shape {_some(other_shape)}; choose the flow_network it is of"
        )
    network.load_state_dict({n: v for n, v in given.items() if n in wanted}, strict=False)


def _read(path: str) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise UserError(f"flow_weights = '{path}' is not a file; give a checkpoint or a state dict, or leave it out")
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many types for a file that is no checkpoint
        raise UserError(f"flow_weights = '{path}' is not a PyTorch file ({type(error).__name__})") from error
    if isinstance(values, dict) and values and all(isinstance(v, Tensor) for v in values.values()):
        return dict(values)
    weights = load_checkpoint(path).weights
    return {name.removeprefix(FLOW): weight for name, weight in weights.items() if name.startswith(FLOW)}


def _some(names: list[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "none") + more
