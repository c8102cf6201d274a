"""Settings of RDN that go through a video together, bit by bit against each by itself, before any box is chosen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from vodbench.errors import UserError
from vodbench.registry import method_spec
from vodbench.transforms import Resized, resize_shorter
from vodbench_methods.detection.products import MIN_ROWS, room_for
from vodbench_methods.detection.records import FrameFeatures
from vodbench_methods.rdn.config import TINY, RDNBasicConfig, RDNConfig
from vodbench_methods.rdn.full import RDN
from vodbench_methods.rdn.windows import RelationWindows
from vodbench_methods.relation import are_told

FULL = [24] * 7
RAGGED = [24, 3, 0, 17, 24, 1, 0, 9]


def method_of(heads: int, channels: int, N_b: int = 2) -> RDN:
    torch.manual_seed(0)
    config = RDNConfig.from_mapping({**TINY, "heads": heads, "fc_channels": channels, "N_b": N_b, "proposals": 24})
    method = RDN(config, 3).eval()
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return method


def frames_of(counts: Sequence[int], channels: int) -> list[FrameFeatures]:
    generator = torch.Generator().manual_seed(1)
    resized: Resized = resize_shorter(np.zeros((90, 150, 3), np.uint8), 90, 150)
    made = []
    for count in counts:
        corner = torch.rand(count, 2, generator=generator) * 80
        boxes = torch.cat([corner, corner + 3 + torch.rand(count, 2, generator=generator) * 40], dim=1)
        features = torch.randn(count, channels, generator=generator).relu()
        made.append(FrameFeatures(boxes, torch.linspace(1, 0, count), features, (90, 150), resized))
    return made


@torch.inference_mode()
def related(method: RDN, configs: Sequence[RDNBasicConfig], frames: Sequence[FrameFeatures]) -> list[list[Tensor]]:
    """Features by frame, then by configuration, of a stream with the largest lag."""
    windows, lag = RelationWindows(method, configs), max(config.T for config in configs)
    found: list[list[Tensor]] = []
    for number, frame in enumerate([*frames, *[None] * lag]):
        if frame is not None:
            windows.push(frame)
        reference = number - lag
        if 0 <= reference < len(frames):
            found.append(windows.related(frames[reference], reference))
            windows.leave(reference)
    return found


def settings(base: RDNConfig) -> list[RDNBasicConfig]:
    changes: list[dict[str, object]] = [
        {},
        *({"T": T} for T in (1, 2, 6, 30)),
        *({"K": K} for K in (1, 2, 5, 9, 24)),
        *({"r": r} for r in (1.0, 45.0, 100.0)),
        {"T": 1, "K": 24, "r": 100.0},
        {"T": 6, "K": 2, "r": 60.0},
        {"T": 4, "K": 7, "video_ends": "replicate"},
        {"video_ends": "replicate", "r": 70.0},
    ]
    return [base.replace(**change) for change in changes]


@pytest.mark.parametrize(("heads", "channels"), [(4, 32), (8, 128), (16, 256)])
@pytest.mark.parametrize("counts", [FULL, RAGGED, [0, 0, 0], [24], [2, 5]])
def test_features_together_are_those_of_each_alone(heads: int, channels: int, counts: list[int]) -> None:
    method = method_of(heads, channels)
    configs, frames = settings(method.config), frames_of(counts, channels)
    together = related(method, configs, frames)
    for number, config in enumerate(configs):
        alone = related(method, [config], frames)
        for reference, (shared, (own,)) in enumerate(zip(together, alone, strict=True)):
            assert torch.equal(shared[number], own), (config.inference_settings(), reference)


@pytest.mark.parametrize("N_b", [0, 1, 3])
def test_any_number_of_basic_modules(N_b: int) -> None:
    method = method_of(8, 64, N_b)
    configs, frames = settings(method.config)[::2], frames_of(RAGGED, 64)
    together = related(method, configs, frames)
    for number, config in enumerate(configs):
        alone = related(method, [config], frames)
        assert all(torch.equal(shared[number], own) for shared, (own,) in zip(together, alone, strict=True))


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_logits_beyond_what_exponentials_tell(sign: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where some proposal's logits are all far below or above 60: each setting decides for itself, and is right."""
    method = method_of(4, 32)
    with torch.no_grad():
        first = method.unrefined_readers[0]
        first.query.weight.zero_()
        first.query.bias.fill_(1.0)
        first.key.weight.copy_(sign * torch.rand_like(first.key.weight))
    configs, frames = settings(method.config), frames_of(RAGGED, 32)
    for number, frame in enumerate(frames):
        frame.features.mul_(number + 1.0)  # the later a window, the larger its logits
    told: list[bool] = []

    def spied(sums: Tensor) -> bool:
        told.append(are_told(sums))
        return told[-1]

    monkeypatch.setattr("vodbench_methods.rdn.step.are_told", spied)
    together = related(method, configs, frames)
    assert set(told) == {False, True}
    for number, config in enumerate(configs):
        alone = related(method, [config], frames)
        for shared, (own,) in zip(together, alone, strict=True):
            assert torch.equal(shared[number], own)
    monkeypatch.setattr("vodbench_methods.rdn.step.are_told", lambda sums: False)
    for got, usual in zip(together, related(method, configs, frames), strict=True):
        for one, other in zip(got, usual, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_settings_that_choose_detections_differently_share_their_features() -> None:
    method = method_of(4, 32)
    base = method.config
    configs = [base, base.replace(score_threshold=0.3), base.replace(r=80.0), base.replace(nms_threshold=0.2)]
    for shared in related(method, configs, frames_of(FULL, 32)):
        assert shared[0] is shared[1] is shared[3]
        assert not torch.equal(shared[0], shared[2])


def test_a_row_of_the_largest_share_has_its_room() -> None:
    for width in (1, 2, 3, 4, 8, 16, 24, 32):
        for count in (0, 1, 7, 8, 9, 15, 75):
            rows = room_for(count, width)
            assert rows >= max(count, MIN_ROWS)
            assert rows * width % 32 == 0


def test_who_goes_together() -> None:
    spec = method_spec("rdn")
    method = method_of(4, 32)
    base = method.config
    assert method.joins(base) == method.joins(base.replace(T=1, K=2, r=70.0, score_threshold=0.4))
    assert method.joins(base) != method.joins(base.replace(proposals=5))
    assert method.joins(base.replace(linking="tube")) is None
    narrow = spec.build(base.replace(heads=16), 3)
    assert isinstance(narrow, RDN)
    assert narrow.joins(narrow.config) is None  # products too small to be shared
    with pytest.raises(UserError, match="N_b"):
        method.joint_stream([base, base.replace(N_b=1)])
