"""FGFA against plain readings of its equations: weights, windows, training; and what its stream keeps."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vodbench.errors import UserError
from vodbench.registry import method_spec
from vodbench.spec import Clip, ClipFrame, Detections, Image, Truth
from vodbench_methods.detection.clock import NullClock
from vodbench_methods.detection.faster_rcnn import FasterRCNN
from vodbench_methods.fgfa import bench
from vodbench_methods.fgfa.aggregation import EmbeddingNetwork, Warped, aggregate
from vodbench_methods.fgfa.config import FGFAConfig
from vodbench_methods.fgfa.model import FGFA
from vodbench_methods.fgfa.stream import of_one_size
from vodbench_methods.flow import warp
from vodbench_methods.sequence import window

TINY = {
    **method_spec("fgfa").presets["tiny"],
    "detector": "faster-rcnn",
    "warm_start": "none",
    "freeze_detector": False,
    "short_side": 48,
    "max_side": 64,
    "proposals": 10,
    "candidates": 50,
    "train_proposals": 10,
    "train_candidates": 50,
    "fc_channels": 32,
    "frozen_batch_norm": True,
    "T": 2,
    "score_threshold": 0.01,
}


def config_of(**changes: Any) -> FGFAConfig:
    config = method_spec("fgfa").config.from_mapping({**TINY, **changes})
    assert isinstance(config, FGFAConfig)
    return config


def built(config: FGFAConfig, *, moving: bool = True) -> FGFA:
    """Untrained; with ``moving`` its flow network says something, else that nothing moves."""
    torch.manual_seed(0)
    method = FGFA(config, 3).eval()
    if moving:
        torch.nn.init.normal_(method.flow.heads.flow.weight, std=0.06)
        if method.flow.heads.scale is not None:
            torch.nn.init.normal_(method.flow.heads.scale.weight, std=0.1)
    return method


def video(count: int, height: int = 40, width: int = 56, seed: int = 0) -> list[Image]:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 90, (count, height, width, 3), dtype=np.uint8)
    for index, frame in enumerate(frames):
        frame[8:24, 4 + 3 * index : 24 + 3 * index] = (220, 60, 30)
    return list(frames)


def stream_all(method: FGFA, images: list[Image], config: FGFAConfig | None = None) -> list[Detections]:
    stream = method.stream(config)
    return [found for image in images for found in stream.push(image)] + stream.close()


def assert_equal(got: Detections, wanted: Detections, tolerance: float = 1e-5) -> None:
    np.testing.assert_array_equal(got.labels, wanted.labels)
    np.testing.assert_allclose(got.scores, wanted.scores, atol=tolerance, rtol=0)
    np.testing.assert_allclose(got.boxes, wanted.boxes, atol=10 * tolerance, rtol=0)


# ---- weights


def test_weights_equal_a_loop_over_cells() -> None:
    rng = np.random.default_rng(0)
    maps, embeddings = rng.standard_normal((4, 2, 5, 3, 4)), rng.standard_normal((4, 2, 6, 3, 4))
    reference, copies = rng.standard_normal((2, 6, 3, 4)), [3, 1, 1, 2]
    wanted = np.zeros((2, 5, 3, 4))
    for n, y, x in np.ndindex(2, 3, 4):
        e = reference[n, :, y, x]
        cosines = [
            f[n, :, y, x] @ e / np.sqrt((f[n, :, y, x] @ f[n, :, y, x]) * (e @ e))
            for f, c in zip(embeddings, copies, strict=True)
            for _ in range(c)
        ]
        vectors = [m[n, :, y, x] for m, c in zip(maps, copies, strict=True) for _ in range(c)]
        weights = np.exp(cosines) / np.exp(cosines).sum()
        wanted[n, :, y, x] = weights @ np.stack(vectors)
    frames = [
        Warped(torch.from_numpy(m), torch.from_numpy(e), c) for m, e, c in zip(maps, embeddings, copies, strict=True)
    ]
    np.testing.assert_allclose(aggregate(torch.from_numpy(reference), frames).numpy(), wanted, rtol=1e-12)


def test_cells_from_outside_count_as_unlike() -> None:
    """Where a warp looked outside, map and embedding are zero: a cosine of 0, and no gradient that is not finite."""
    reference = torch.randn(1, 4, 1, 1)
    nothing = torch.zeros(1, 4, 1, 1, requires_grad=True)
    frames = [Warped(torch.ones(1, 1, 1, 1), reference), Warped(torch.zeros(1, 1, 1, 1), nothing)]
    found = aggregate(reference, frames)
    assert found.item() == pytest.approx(np.e / (np.e + 1), rel=1e-6)
    found.backward()
    assert nothing.grad is not None
    assert nothing.grad.isfinite().all()


def test_embedding_is_three_convolutions() -> None:
    network, maps = EmbeddingNetwork(6, 4, 9), torch.randn(2, 6, 5, 7)
    weights = network.state_dict()
    assert {name: tuple(value.shape) for name, value in weights.items() if "weight" in name} == {
        "conv1.weight": (4, 6, 1, 1),
        "conv2.weight": (4, 4, 3, 3),
        "conv3.weight": (9, 4, 1, 1),
    }
    inside = torch.einsum("oi,nihw->nohw", weights["conv1.weight"][..., 0, 0], maps).relu()
    inside = F.conv2d(F.pad(inside, [1] * 4), weights["conv2.weight"]).relu()
    torch.testing.assert_close(network(maps), torch.einsum("oi,nihw->nohw", weights["conv3.weight"][..., 0, 0], inside))


# ---- a frame among others


def plain_map(method: FGFA, images: list[Image], reference: int, config: FGFAConfig) -> Tensor:
    """The aggregated map, frame after frame, pair after pair; repeated frames are really repeated."""
    around = range(reference - config.T, reference + config.T + 1)
    if config.video_ends == "truncate":
        indices = [t for t in around if 0 <= t < len(images)]
    else:
        indices = [min(max(t, 0), len(images) - 1) for t in around]
    batches = [method.detector.preprocess([image]) for image in images]

    def seen(index: int, *, own: bool) -> tuple[Tensor, Tensor]:
        feature_map = method.detector.extract(batches[index])
        embedding = method.embedding(feature_map)
        if own and not config.self_flow:
            return feature_map, embedding
        flow = method.flow_between(batches[reference], batches[index]).flow
        feature_map, embedding = warp(feature_map, flow), warp(embedding, flow)
        return feature_map, embedding if config.embeddings == "cached" else method.embedding(feature_map)

    frames = [seen(index, own=index == reference) for index in indices]
    _, own_embedding = seen(reference, own=True)
    cosines = torch.cat([F.cosine_similarity(e, own_embedding, dim=1) for _, e in frames])
    return (cosines.softmax(dim=0)[:, None] * torch.cat([m for m, _ in frames])).sum(dim=0, keepdim=True)


@pytest.mark.parametrize("video_ends", ["replicate", "truncate"])
@pytest.mark.parametrize("embeddings", ["cached", "recomputed"])
@pytest.mark.parametrize("self_flow", [True, False])
@torch.no_grad()
def test_aggregated_map_equals_the_plain_one(video_ends: str, embeddings: str, self_flow: bool) -> None:
    config = config_of(video_ends=video_ends, embeddings=embeddings, self_flow=self_flow)
    method, images = built(config), video(4)
    encoded = [method.encode(image, config) for image in images]
    for reference in range(4):
        indices, copies = window(reference, 4, config)
        frames = [encoded[index] for index in indices]
        got = method.aggregated(frames, copies, reference - indices.start, config, NullClock())
        wanted = plain_map(method, images, reference, config)
        flow = method.flow_between(encoded[reference].batch, encoded[0].batch).flow
        assert 1 < flow.abs().max() < 6, "all stays, or all comes from outside: this would show little"
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_embedding_before_and_after_the_warp_agree_only_where_nothing_moves() -> None:
    images, reference = video(3), 1
    for moving in (False, True):
        method = built(config_of(), moving=moving)
        maps = []
        for embeddings in ("cached", "recomputed"):
            config = config_of(embeddings=embeddings)
            frames = [method.encode(image, config) for image in images]
            maps.append(method.aggregated(frames, [1] * 3, reference, config, NullClock()))
        assert torch.allclose(*maps, atol=1e-5) != moving


def test_still_video_gives_the_detector_s_own_detections() -> None:
    """Nothing moves and all frames are alike: the weighted mean is the map itself, whatever the weights."""
    method, image = built(config_of(), moving=False), video(1)[0]
    (alone,) = method.detector.stream(None).push(image)
    assert len(alone.boxes)
    for num_frames in (1, 2, 7):  # fewer than the window has, and more
        found = stream_all(method, [image] * num_frames)
        assert len(found) == num_frames
        for detections in found:
            assert_equal(detections, alone)


@pytest.mark.parametrize("self_flow", [True, False])
def test_window_longer_than_the_snippet(self_flow: bool) -> None:
    config = config_of(T=6, self_flow=self_flow)
    method, images = built(config), video(3)
    stream = method.stream()
    assert [stream.push(image) for image in images] == [[], [], []]
    found = stream.close()
    assert len(found) == 3
    for reference, detections in enumerate(found):
        with torch.inference_mode():
            batch = method.detector.preprocess([images[reference]])
            feature_map = plain_map(method, images, reference, config)
            frame = method.detector.frame_from(feature_map, batch, config, NullClock())
            assert_equal(detections, method.detector.detections(frame, frame.features, config))


# ---- streams


def test_frame_of_another_size_starts_a_video_of_its_own() -> None:
    method = built(config_of())
    wide, tall = video(3), video(4, height=56, width=40, seed=1)
    one = [*wide, *tall, wide[0]]
    stream = method.stream()
    pushed = [stream.push(image) for image in one]
    assert [len(final) for final in pushed] == [0, 0, 1, 2, 0, 1, 1, 2]  # the frames before are answered at once
    found = [detections for final in pushed for detections in final] + stream.close()
    wanted = [*stream_all(method, wide), *stream_all(method, tall), *stream_all(method, wide[:1])]
    assert len(found) == len(one)
    for got, expected in zip(found, wanted, strict=True):
        assert_equal(got, expected, tolerance=0)
    for reference, expected in enumerate(wanted):
        assert_equal(method.detect_in_video(one, reference, method.config), expected)


@pytest.mark.parametrize(("reference", "run"), [(0, (0, 2)), (1, (0, 2)), (2, (2, 3)), (3, (3, 5)), (4, (3, 5))])
def test_runs_of_one_size(reference: int, run: tuple[int, int]) -> None:
    images = [np.zeros((*size, 3), np.uint8) for size in ((2, 3), (2, 3), (3, 2), (2, 3), (2, 3))]
    assert of_one_size(images, reference) == range(*run)


@pytest.mark.parametrize(("embeddings", "times"), [("cached", 7), ("recomputed", 3 + 4 + 5 + 5 + 5 + 4 + 3)])
def test_each_frame_is_computed_once(embeddings: str, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven frames, T = 2: seven maps; as many embeddings, or one for each frame of each window."""
    method = built(config_of(embeddings=embeddings, video_ends="truncate"))
    calls = Counter[str]()

    def counted(name: str, function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            calls[name] += 1
            return function(*arguments)

        return call

    monkeypatch.setattr(method.detector, "extract", counted("map", method.detector.extract))
    monkeypatch.setattr(method.embedding, "forward", counted("embedding", method.embedding.forward))
    monkeypatch.setattr(method.flow, "forward", counted("flow", method.flow.forward))
    stream_all(method, video(7))
    assert calls == {"map": 7, "embedding": times, "flow": 7}


def test_a_stream_keeps_no_more_than_its_window() -> None:
    method = built(config_of())
    stream: Any = method.stream()
    kept = []
    for image in video(9):
        stream.push(image)
        kept.append(len(stream._frames))
    assert kept == [1, 2, 3, 4, 4, 4, 4, 4, 4]  # 2T between two frames: the oldest has served


# ---- training


def clips(count: int, supports: int) -> list[Clip]:
    truth = Truth(
        np.array([[4, 8, 24, 24]], np.float32),
        np.array([1], np.int64),
        np.zeros(1, np.int64),
        np.zeros(1, np.bool_),
        np.zeros(1, np.bool_),
    )
    found = []
    for number in range(count):
        frames = [ClipFrame(i, image, truth) for i, image in enumerate(video(1 + supports, seed=number))]
        found.append(Clip(number, f"snippet {number}", frames[0], tuple(frames[1:]), flip=bool(number % 2)))
    return found


@pytest.mark.parametrize("supports", [1, 2, 3])
def test_training_aggregates_the_supports_alone(supports: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Embeddings come after the warp, the comparison is with the reference's own map, which is not in the sum."""
    method = built(config_of(num_supports=supports))
    batch_of_two = clips(2, supports)
    captured: dict[str, Tensor] = {}

    def losses_from(feature_map: Tensor, batch: Any, targets: Any) -> dict[str, Tensor]:
        assert len(feature_map) == len(batch.sizes) == len(targets) == 2
        captured["map"] = feature_map
        return {}

    monkeypatch.setattr(method.detector, "losses_from", losses_from)
    with torch.no_grad():
        method.losses(batch_of_two)
        for place, clip in enumerate(batch_of_two):
            frames = [clip.reference, *clip.supports]
            batches = [method.detector.preprocess([f.image], [clip.flip]) for f in frames]
            maps = [method.detector.extract(batch) for batch in batches]
            warped = [warp(m, method.flow_between(batches[0], b).flow) for m, b in zip(maps, batches, strict=True)][1:]
            own = method.embedding(maps[0])
            cosines = torch.cat([F.cosine_similarity(method.embedding(m), own, dim=1) for m in warped])
            wanted = (cosines.softmax(dim=0)[:, None] * torch.cat(warped)).sum(dim=0)
            torch.testing.assert_close(captured["map"][place], wanted, atol=1e-4, rtol=1e-4)


def test_the_defaults_are_the_paper_s() -> None:
    config = FGFAConfig()
    assert (config.T, config.lag, config.embedding_channels, config.embedding_outputs) == (10, 10, 512, 2048)
    drawn = method_spec("fgfa").stages(config)[-1].clips
    assert (drawn.num_supports, drawn.offset_low, drawn.offset_high, drawn.own_frame) == (2, -9, 9, True)
    method = built(config_of(flow_scale=False))
    assert method.flow.heads.scale is None


def test_scale_map_is_an_option() -> None:
    """It multiplies each warped map."""
    config = config_of(flow_scale=True, self_flow=False, T=1)
    method, images = built(config), video(2)
    with torch.inference_mode():
        frames = [method.encode(image, config) for image in images]
        output = method.flow_between(frames[0].batch, frames[1].batch)
        assert output.scale is not None
        assert (output.scale - 1).abs().max() > 0.1
        seen = method._seen(frames[1], output, 1)
        own = method.detector.extract(frames[1].batch)
        torch.testing.assert_close(seen.feature_map, warp(own, output.flow) * output.scale, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(seen.embedding, warp(method.embedding(own), output.flow), atol=1e-5, rtol=1e-5)


def test_more_supports_than_frames_around_are_refused() -> None:
    with pytest.raises(UserError, match=r"num_supports = 4 .* raise T_train"):
        config_of(num_supports=4, T_train=1)


# ---- the benchmark


def test_cache_speedup_compares_equal_outputs() -> None:
    figures = bench.cache_speedup(config_of(T=1), torch.device("cpu"), frames=2)
    assert figures["fgfa_cache_speedup"] == pytest.approx(figures["window_ms"] / figures["stream_ms"])
    assert figures["largest_difference"] < 1e-3


def test_cache_speedup_refuses_a_stream_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    extract, calls = FasterRCNN.extract, Counter[str]()

    def drifting(self: FasterRCNN, batch: Any) -> Tensor:
        calls["extract"] += 1
        return extract(self, batch) * (1 + 0.01 * calls["extract"])

    monkeypatch.setattr(FasterRCNN, "extract", drifting)
    with pytest.raises(RuntimeError, match="speed of a wrong result"):
        bench.cache_speedup(config_of(T=1), torch.device("cpu"), frames=1)
