"""Weights that a flow network starts from: those of another method's checkpoint, or published ones."""

from __future__ import annotations

from torch import Tensor

from vodbench.checkpoints import load_checkpoint
from vodbench_methods.detection.state_dicts import fill, is_state_dict, read_plain
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
    given = _read(path)
    if isinstance(network, FlowNetS):
        own_names = {published_name(name): name for name in network.state_dict()}
        given = {own_names.get(name, name): weight for name, weight in given.items()}
    fill(
        network,
        given,
        f"flow_weights = '{path}' does not hold the weights of {type(network).__name__}",
        "choose the flow_network it is of",
        optional=lambda name: name.startswith(_OPTIONAL),
    )


def _read(path: str) -> dict[str, Tensor]:
    values = read_plain(path, "flow_weights", "a checkpoint or a state dict")
    if is_state_dict(values):
        return dict(values)
    weights = load_checkpoint(path).weights
    return {name.removeprefix(FLOW): weight for name, weight in weights.items() if name.startswith(FLOW)}
