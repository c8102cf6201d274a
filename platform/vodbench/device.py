"""Choosing what to compute on."""

from __future__ import annotations

import torch

from vodbench.errors import UserError


def pick_device(name: str = "auto") -> torch.device:
    """The torch device called ``name``: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    ``auto`` is the first CUDA device, else Apple's MPS, else the CPU. A CUDA device always comes back with its index,
    so that equal devices compare equal. ``UserError`` when the device is not there, listing those that are.
    """
    there = available_devices()
    wanted = name.strip().lower()
    if wanted == "auto":
        preferred = [d for d in there if d != "cpu"]
        return torch.device(preferred[0] if preferred else "cpu")
    if wanted == "cuda":
        wanted = "cuda:0"
    if wanted not in there:
        raise UserError(f"device '{name}' is not available here; accepted: auto, {', '.join(there)}")
    return torch.device(wanted)


def available_devices() -> list[str]:
    """Names of the devices that can be used, best first, e.g. ``["cuda:0", "cpu"]``."""
    accelerators = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        accelerators.append("mps")
    return [*accelerators, "cpu"]


def describe_device(device: torch.device) -> str:
    """The device with its product name where that is known, e.g. ``cuda:0 (NVIDIA H200)``."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)


def synchronize(device: torch.device) -> None:
    """Wait until everything queued on ``device`` is done (nothing to wait for on a CPU)."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
