"""Where a flow network's weights may come from, and what is said of files that hold something else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vodbench.checkpoints import Checkpoint, save_checkpoint
from vodbench.errors import UserError
from vodbench.registry import method_spec
from vodbench.spec import ClassInfo
from vodbench_methods.flow import FlowNetwork, build_flow_network
from vodbench_methods.flow.flownet_s import published_name
from vodbench_methods.propagation.flow_weights import load_flow_weights
from vodbench_methods.propagation.model import FlowDetector

CLASSES = (ClassInfo("n1", "one"),)


def network(seed: int, name: str = "tiny", map_channels: int | None = 64) -> FlowNetwork:
    torch.manual_seed(seed)
    stride = 4 if name == "tiny" else 16
    made = build_flow_network(name, feature_stride=stride, map_channels=map_channels)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    return made


def saved(tmp_path: Path, values: object) -> str:
    path = tmp_path / "weights.pt"
    torch.save(values, path)
    return str(path)


def same(a: FlowNetwork, b: FlowNetwork, *, but: str = "nothing") -> bool:
    theirs = b.state_dict()
    return all(torch.equal(v, theirs[n]) for n, v in a.state_dict().items() if not n.startswith(but))


def test_a_state_dict_of_the_network(tmp_path: Path) -> None:
    given, own = network(1), network(2)
    load_flow_weights(own, saved(tmp_path, given.state_dict()))
    assert same(own, given)


def test_the_scale_map_keeps_its_start_where_the_file_has_none(tmp_path: Path) -> None:
    given, own = network(1, map_channels=None), network(2)
    before = own.state_dict()["heads.scale.weight"].clone()
    load_flow_weights(own, saved(tmp_path, given.state_dict()))
    assert torch.equal(own.state_dict()["heads.scale.weight"], before)
    assert same(given, own)


def test_a_checkpoint_of_a_method_that_propagates(tmp_path: Path) -> None:
    spec = method_spec("dff")
    config = spec.config.from_mapping(spec.presets["tiny"])
    torch.manual_seed(3)
    method = spec.build(config, 1)
    assert isinstance(method, FlowDetector)
    path = str(tmp_path / "model.pt")
    checkpoint = Checkpoint(
        method="dff", config=config, classes=CLASSES, weights=method.state_dict(), fingerprint="f", stage="propagation",
        data_fingerprint="d", seed=0, revision="test",
    )  # fmt: skip
    save_checkpoint(path, checkpoint)
    own = network(2)
    load_flow_weights(own, path)
    assert same(own, method.flow)


def test_published_names_of_flownet_s(tmp_path: Path) -> None:
    given, own = network(1, "flownet-s", 8), network(2, "flownet-s", 8)
    published = {published_name(name): weight for name, weight in given.state_dict().items()}
    assert "flow_conv1.weight" in published
    load_flow_weights(own, saved(tmp_path, published))
    assert same(own, given)


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a file"):
        load_flow_weights(network(1), str(tmp_path / "none.pt"))
    text = tmp_path / "text.pt"
    text.write_text("no weights")
    with pytest.raises(UserError, match="is not a PyTorch file"):
        load_flow_weights(network(1), str(text))
    with pytest.raises(UserError, match=r"missing context.*unexpected conv1.*choose the flow_network it is of"):
        load_flow_weights(network(1), saved(tmp_path, network(1, "flownet-s", 8).state_dict()))
    with pytest.raises(UserError, match="was not written by vodbench"):
        load_flow_weights(network(1), saved(tmp_path, {"epoch": 3}))
