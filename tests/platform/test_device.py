from __future__ import annotations

import pytest
import torch

from vodbench.device import available_devices, pick_device
from vodbench.errors import UserError


def test_cpu_is_always_there() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert available_devices()[-1] == "cpu"


def test_auto_prefers_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vodbench.device.available_devices", lambda: ["cuda:0", "cuda:1", "cpu"])
    assert pick_device("auto") == torch.device("cuda:0")
    assert pick_device("cuda") == torch.device("cuda:0")
    assert pick_device("cuda:1") == torch.device("cuda:1")


def test_auto_without_an_accelerator_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vodbench.device.available_devices", lambda: ["cpu"])
    assert pick_device() == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda", "cuda:7", "mps", "tpu", "", "cuda:x"])
def test_a_missing_device_names_what_there_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vodbench.device.available_devices", lambda: ["cpu"])
    with pytest.raises(UserError, match=rf"'{name}' is not available here; accepted: auto, cpu"):
        pick_device(name)
