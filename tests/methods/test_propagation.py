"""Methods that propagate features from key frames: Deep Feature Flow and the optical flow baseline."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from vodbench.errors import UserError
from vodbench.registry import method_spec
from vodbench.spec import Clip, ClipFrame, Detections, IllustratedStream, Image, Truth
from vodbench.training.fingerprints import plan_stages
from vodbench_methods.flow.drawing import DRAWN_MOTION, draw_flow
from vodbench_methods.propagation.config import KeyFrameConfig, OpticalFlowConfig
from vodbench_methods.propagation.model import FlowDetector
from vodbench_methods.propagation.optical_flow import known_flow

SHRUNK = {
    "short_side": 64,
    "max_side": 96,
    "proposals": 12,
    "candidates": 60,
    "train_proposals": 12,
    "train_candidates": 60,
    "key_frame_interval": 3,
    "frozen_batch_norm": True,
}


def config(**changes: object) -> KeyFrameConfig:
    spec = method_spec("dff")
    made = spec.config.from_mapping({**spec.presets["tiny"], **SHRUNK, **changes})
    assert isinstance(made, KeyFrameConfig)
    return made


def detector(name: str = "dff", **changes: object) -> FlowDetector:
    spec = method_spec(name)
    torch.manual_seed(0)
    made = spec.build(spec.config.from_mapping({**spec.presets["tiny"], **SHRUNK, **changes}), 3)
    assert isinstance(made, FlowDetector)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return made.eval()


def video(count: int, height: int = 56, width: int = 72) -> list[Image]:
    rng = np.random.default_rng(0)
    still = rng.integers(0, 255, (height, width + 2 * count, 3), dtype=np.uint8)
    return [np.ascontiguousarray(still[:, 2 * i : 2 * i + width]) for i in range(count)]


def detected(method: FlowDetector, images: list[Image], **changes: object) -> list[Detections]:
    stream = method.stream(method.config.replace(**changes))
    return [found for image in images for found in stream.push(image)]


def by_itself(method: FlowDetector, images: list[Image]) -> list[Detections]:
    detector = method.detector
    one_by_one = {"key_frame_interval": 1} if method.config.detector == "r-fcn" else {}
    stream = detector.stream(detector.config.replace(**one_by_one))
    return [found for image in images for found in stream.push(image)]


def same(a: Detections, b: Detections) -> bool:
    return np.array_equal(a.boxes, b.boxes) and np.array_equal(a.scores, b.scores)


def clip(images: list[Image], support: int, flow: np.ndarray | None = None, flip: bool = False) -> Clip:
    truth = Truth(
        np.array([[8, 10, 28, 30]], np.float32), np.array([2]), np.zeros(1, int), np.zeros(1, bool), np.zeros(1, bool)
    )
    frames = [ClipFrame(i, image, truth) for i, image in enumerate(images)]
    return Clip(0, "s", frames[0], (replace(frames[support], flow=flow),), flip)


# ---- streams


@pytest.mark.parametrize("interval", [1, 2, 3, 100])
def test_key_frames_answer_as_the_detector_alone_and_only_they_do(interval: int) -> None:
    method, images = detector(), video(7)
    pairs = zip(detected(method, images, key_frame_interval=interval), by_itself(method, images), strict=True)
    assert [same(a, b) for a, b in pairs] == [i % interval == 0 for i in range(7)]


def test_key_frames_may_be_propagated_to_themselves() -> None:
    """mega.pytorch's way: the map of a key frame is warped and scaled like the others'."""
    images, method = video(4), detector(warped_key_frames=True)
    found = detected(method, images)
    assert not np.array_equal(found[0].scores, by_itself(method, images)[0].scores)
    every = detected(method, images, key_frame_interval=1)
    assert [same(a, b) for a, b in zip(found, every, strict=True)] == [True, False, False, True]
    for reference, got in enumerate(found):
        with torch.inference_mode():
            assert same(method.detect_in_video(images, reference, method.config), got)
    with torch.no_grad():
        key = method.detector.preprocess(images[:1])
        maps = method.detector.extract(key)
        wanted = method.propagate(maps, method.flow_between(key, key))
        torch.testing.assert_close(method.propagated_maps([clip(images, 0)], key, key, maps), wanted)
        assert not torch.allclose(wanted, maps)


def test_a_frame_of_another_size_is_a_key_frame() -> None:
    method = detector()
    images = [*video(2), *video(4, 48, 80)]
    pairs = zip(detected(method, images, key_frame_interval=4), by_itself(method, images), strict=True)
    assert [same(a, b) for a, b in pairs] == [True, False, True, False, False, False]


def test_an_untrained_flow_network_moves_nothing() -> None:
    """Flow starts at zero and the scale map at one: every frame answers with its key frame's map."""
    method, images = detector(), video(4)
    fresh = method_spec("dff").build(method.config, 3)
    assert isinstance(fresh, FlowDetector)
    method.flow.load_state_dict(fresh.flow.state_dict())
    found = detected(method, images, key_frame_interval=4)
    assert all(same(found[0], later) for later in found[1:])


def test_the_flow_to_the_key_frame_can_be_shown() -> None:
    method, images = detector(), video(4)
    stream = method.stream(method.config.replace(key_frame_interval=3))
    assert isinstance(stream, IllustratedStream)
    assert stream.shows == ("flow",)
    pictures = []
    for image in images:
        stream.push(image)
        pictures.append(stream.pictures()["flow"])
    assert [bool((picture == 255).all()) for picture in pictures] == [True, False, False, True]
    key, current = (method.detector.preprocess([image]) for image in (images[0], images[2]))
    with torch.inference_mode():
        flow = method.flow_between(current, key).flow[0].numpy()
    np.testing.assert_array_equal(pictures[2], draw_flow(flow, DRAWN_MOTION))


def test_batches_of_other_colour_orders_look_the_same_to_the_flow_network() -> None:
    images = video(2)
    rgb = detector()
    bgr = detector(
        channel_order="bgr",
        pixel_mean=tuple(reversed(rgb.config.pixel_mean)),
        pixel_std=tuple(reversed(rgb.config.pixel_std)),
    )
    torch.testing.assert_close(
        rgb.colours(rgb.detector.preprocess(images)), bgr.colours(bgr.detector.preprocess(images)), atol=1e-6, rtol=0
    )
    colours = rgb.colours(rgb.detector.preprocess(images))
    assert -1e-6 <= colours.min() < colours.max() <= 1 + 1e-6


# ---- training


def test_a_clip_whose_frame_is_its_own_key_frame_is_a_single_frame() -> None:
    settings = {"ohem": False, "rpn_batch": 10**6, "roi_batch": 10**5}
    method = detector(**settings)
    method.begin_stage(method_spec("dff").stages(method.config)[-1])
    own = clip(video(1), 0)
    expected = method.detector.losses([own])
    for name, loss in method.losses([own]).items():
        torch.testing.assert_close(loss, expected[name])


def test_the_flow_baseline_trains_the_flow_network_alone() -> None:
    method = detector("r-fcn-flow")
    method.begin_stage(method_spec("r-fcn-flow").stages(method.config)[-1])
    flow = np.full((56, 72, 2), (2.0, 0.0), np.float32)
    sum(method.losses([clip(video(2), 1, flow)]).values()).backward()  # type: ignore[union-attr]
    trained = {name.split(".")[0] for name, p in method.named_parameters() if p.grad is not None}
    assert trained == {"flow"}
    assert all(p.grad is not None for p in method.flow.parameters())


@pytest.mark.parametrize("flip", [False, True])
def test_known_flow_says_where_things_are_in_the_batch(flip: bool) -> None:
    """A bright pixel at (20, 9) is at (26, 13) in the other frame: so it is in the resized, maybe mirrored batch."""
    flow = np.zeros((56, 72, 2), np.float32)
    flow[9, 20] = (6, 4)
    images = [np.zeros((56, 72, 3), np.uint8) for _ in range(2)]
    images[0][9, 20] = images[1][13, 26] = 255
    method = detector(short_side=112, max_side=144)
    one = clip(images, 1, flow, flip)
    batch, other = method.paired([one])
    truth = known_flow(one, batch, 0)[0]
    y, x = divmod(int(batch.tensor[0].sum(0).argmax()), 144)
    there = divmod(int(other.tensor[0].sum(0).argmax()), 144)
    dx, dy = truth[:, y, x].tolist()
    assert (y + dy, x + dx) == pytest.approx(there, abs=1)


def test_padding_is_unknown() -> None:
    method = detector()
    wide, narrow = video(2, 56, 72), video(2, 56, 56)
    flow = np.zeros((56, 72, 2), np.float32)
    clips = [clip(wide, 1, flow), clip(narrow, 1, flow[:, :56])]
    batch, _ = method.paired(clips)
    known = ~torch.isnan(known_flow(clips[1], batch, 1))
    height, width = batch.sizes[1]
    assert width < batch.tensor.shape[3]
    assert known[0, 0, :height, :width].all()
    assert not known[0, 0, :, width:].any()


# ---- stages


def test_methods_that_start_from_optical_flow_share_its_stages() -> None:
    flow = method_spec("r-fcn-flow")
    baseline = plan_stages("r-fcn-flow", flow.config.from_mapping({**flow.presets["tiny"], **SHRUNK}), "d", 0)
    own = plan_stages("dff", config(flow_start="optical-flow", key_frame_interval=7), "d", 0)
    assert [p.fingerprint for p in own[:-1]] == [p.fingerprint for p in baseline]
    single = method_spec("r-fcn")
    alone = plan_stages("r-fcn", single.config.from_mapping({**single.presets["tiny"], **SHRUNK}), "d", 0)
    assert alone[-1].fingerprint == baseline[0].fingerprint


def test_weights_of_the_flow_baseline_are_taken_whole() -> None:
    baseline, own = detector("r-fcn-flow"), detector("dff")
    own.load_initial(baseline.state_dict())
    taken = own.state_dict()
    assert all(torch.equal(taken[name], weight) for name, weight in baseline.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"flow_scale": True}, "flow_scale"),
        ({"freeze_detector": False}, "freeze_detector"),
        ({"warm_start": "none"}, "warm_start"),
    ],
)
def test_the_flow_baseline_has_no_other_way(changes: dict[str, object], says: str) -> None:
    spec = method_spec("r-fcn-flow")
    with pytest.raises(UserError, match=says):
        OpticalFlowConfig.from_mapping({**spec.presets["tiny"], **changes})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"flow_odd_sizes": "crop"}, "'tiny' has not; give 'pad'"),
        ({"roi_sampling": 0}, "give 1 or more with 'r-fcn'"),
        ({"flow_mean": (0.5, 0.5)}, "give 3 numbers"),
    ],
)
def test_settings_that_another_network_has(changes: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        config(**changes)


def test_published_ways_reach_the_networks() -> None:
    method = detector(
        flow_network="flownet-s",
        flow_odd_sizes="crop",
        flow_mean=(0.1, 0.2, 0.3),
        detector="faster-rcnn",
        roi_sampling=0,
        tiny_stride=16,
    )
    assert method.flow.odd_sizes == "crop"
    assert method.flow.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert method.detector.config.roi_sampling == 0


def test_optical_flow_needs_a_trained_detector_before_it() -> None:
    with pytest.raises(UserError, match="warm_start"):
        config(flow_start="optical-flow", warm_start="none")


def test_a_stride_that_the_flow_network_has_not_is_said_before_any_training() -> None:
    spec = method_spec("dff")
    with pytest.raises(UserError, match="FlowNetS has maps of stride 8, 16, 32, not 4; choose a backbone"):
        spec.config.from_mapping({**spec.presets["tiny"], "flow_network": "flownet-s"})
