"""What every registered method promises, checked on every registered method.

A method is tested here the moment it stands in the METHODS table. It needs presets "paper" and "tiny"; the tiny one is
shrunk further by ``SHRUNK``. A method whose detections of a frame depend on other frames also offers
``detect_in_video(images, reference, config)``: the same frame's detections computed from scratch, which its stream must
reproduce. A new inference knob needs a row in ``CHANGED``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vodbench.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from vodbench.errors import UserError
from vodbench.features import CacheSettings
from vodbench.features.sharing import kept_features
from vodbench.knobs import AtLeast, Knob, MethodConfig, meets
from vodbench.registry import method_spec, table
from vodbench.spec import (
    ClassInfo,
    Clip,
    ClipFrame,
    Detections,
    EncodedStream,
    FrameEncoder,
    Image,
    Method,
    MethodSpec,
    SnippetInfo,
    Stage,
    Truth,
)
from vodbench.streaming import detect_snippet
from vodbench.training.optimizers import make_optimizer

CLASSES = tuple(ClassInfo(f"n{i}", f"class {i}") for i in range(1, 4))
HEIGHT, WIDTH = 56, 72  # of the original frames; neither side is the resized one

# Applied on top of the preset "tiny" where the method has the knob: a forward pass of some milliseconds.
SHRUNK = {
    "short_side": 64,
    "max_side": 96,
    "proposals": 12,
    "candidates": 60,
    "train_proposals": 12,
    "train_candidates": 60,
    "fc_channels": 32,
    "map_channels": 16,
    "heads": 4,
    "T": 2,
    "K": 5,
    "r": 40.0,
    "T_train": 2,
    "K_train": 5,
    "test_frames": 3,
    "categories": 2,
    "videos": 2,
    "frame_range": 2,
    "key_frame_range": 2,
    "key_frame_interval": 3,
    "video_ends": "truncate",
    "gamma": 0.6,  # about half of a frame is to be updated
    "score_threshold": 0.01,
    "max_detections": 60,
}

# Where the shrunk value is not what the method is about.
OWN: dict[str, dict[str, Any]] = {"r-fcn": {"key_frame_interval": 1}}

# Another value of each inference knob, far enough from SHRUNK's to show in the detections.
CHANGED: dict[str, Any] = {
    "candidates": 6,
    "proposals": 3,
    "score_threshold": 0.95,
    "nms_threshold": 0.05,
    "max_detections": 1,
    "linking": "tube",
    "unlinked": "drop",
    "T": 1,
    "K": 2,
    "r": 100.0,
    "video_ends": "replicate",
    "test_frames": 2,
    "test_supports": "window",
    "own_frame": False,
    "test_inter": "dense",
    "key_frame_interval": 2,
    "embeddings": "recomputed",
    "self_flow": False,
    "keys": "interval",
    "gamma": 0.0,
    "aggregation": False,
    "partial_updating": False,
    "update_threshold": -2.0,
}


def shrunk(spec: MethodSpec, **changes: Any) -> MethodConfig:
    known = spec.config.knobs()
    wanted = {
        **spec.presets["tiny"],
        **{k: v for k, v in {**SHRUNK, **OWN.get(spec.name, {}), **changes}.items() if k in known},
    }
    return spec.config.from_mapping(wanted)


def built(spec: MethodSpec, config: MethodConfig) -> Method:
    """An untrained method in evaluation mode whose every weight matters."""
    torch.manual_seed(0)
    method = spec.build(config, len(CLASSES))
    assert isinstance(method, torch.nn.Module)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return method.eval()


def video(count: int, height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> list[Image]:
    """Frames with structure: bright rectangles that move over noise."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 90, (count, height, width, 3), dtype=np.uint8)
    for index, frame in enumerate(frames):
        frame[10:30, 8 + 2 * index : 28 + 2 * index] = (220, 60, 30)
        frame[height - 24 : height - 8, width - 40 - index : width - 12 - index] = (30, 90, 230)
    return list(frames)


def training_clip(
    images: list[Image],
    num_supports: int,
    *,
    boxes: bool = True,
    flip: bool = False,
    number: int = 0,
    category: int | None = None,
    flow: bool = False,
) -> Clip:
    count = 2 if boxes else 0
    truth = Truth(
        np.array([[8, 10, 28, 30], [32, 32, 60, 48]], np.float32)[:count],
        np.array([category or 1, 3], np.int64)[:count],
        np.arange(count),
        np.zeros(count, np.bool_),
        np.zeros(count, np.bool_),
    )
    shift = np.full((*images[0].shape[:2], 2), (2, -1), np.float32) if flow else None
    frames = [ClipFrame(i, image, truth, shift if i else None) for i, image in enumerate(images)]
    return Clip(number, f"snippet {number}", frames[0], tuple(frames[1 : 1 + num_supports]), flip, category)


def training_group(
    spec: MethodSpec, config: MethodConfig, group: int = 0, *, boxes: bool = True, flip: bool = False
) -> list[Clip]:
    """The clips that the method's last stage wants together, which is one where it does not ask for groups."""
    clips = spec.stages(config)[-1].clips
    first = group * clips.group_size
    return [
        training_clip(
            video(1 + clips.num_supports, seed=number),
            clips.num_supports,
            boxes=boxes,
            flip=flip,
            number=number,
            category=1 + (number - first) // clips.videos if clips.categories else None,
            flow=clips.flow,
        )
        for number in range(first, first + clips.group_size)
    ]


def stream_all(method: Method, images: list[Image], config: MethodConfig | None = None) -> list[Detections]:
    stream = method.stream(config)
    detections = [d for image in images for d in stream.push(image)]
    return detections + stream.close()


def assert_equal(got: Detections, expected: Detections, box: float = 1e-4, score: float = 1e-5) -> None:
    assert len(got.boxes) == len(expected.boxes)
    np.testing.assert_allclose(got.boxes, expected.boxes, atol=box, rtol=0)
    np.testing.assert_allclose(got.scores, expected.scores, atol=score, rtol=0)
    np.testing.assert_array_equal(got.labels, expected.labels)


def differ(a: list[Detections], b: list[Detections]) -> bool:
    return any(
        len(x.boxes) != len(y.boxes) or not np.allclose(x.boxes, y.boxes) or not np.allclose(x.scores, y.scores)
        for x, y in zip(a, b, strict=True)
    )


@pytest.fixture(scope="module", params=sorted(table("methods")))
def spec(request: pytest.FixtureRequest) -> MethodSpec:
    return method_spec(request.param)


@pytest.fixture(scope="module")
def config(spec: MethodSpec) -> MethodConfig:
    return shrunk(spec)


@pytest.fixture(scope="module")
def method(spec: MethodSpec, config: MethodConfig) -> Method:
    return built(spec, config)


# ---- the row ------------------------------------------------------------------------------------------------


def test_row_is_complete(spec: MethodSpec) -> None:
    assert table("methods")[spec.name], "the row's key is the method's own name"
    assert spec.summary
    assert spec.paper
    assert spec.presets["paper"] == {}, "the defaults are the paper's"
    for preset in spec.presets.values():
        spec.config.from_mapping(preset)


@pytest.mark.parametrize("preset", ["paper", "tiny"])
def test_stages_end_with_the_method_itself(spec: MethodSpec, preset: str) -> None:
    stages = spec.stages(spec.config.from_mapping(spec.presets[preset]))
    assert stages[-1].method == spec.name
    assert len({stage.name for stage in stages}) == len(stages)
    for stage in stages:
        assert isinstance(stage.config, method_spec(stage.method).config)
        assert stage.schedule.iterations > 0
        assert stage.clips.offset_low <= stage.clips.offset_high
        assert all(0 < m <= stage.schedule.iterations for m in stage.schedule.milestones)


def test_every_stage_starts_from_the_one_before(spec: MethodSpec, config: MethodConfig) -> None:
    stages = spec.stages(config)
    for before, stage in pairwise(stages):
        earlier = built(method_spec(before.method), before.config)
        later = method_spec(stage.method).build(stage.config, len(CLASSES))
        assert isinstance(earlier, torch.nn.Module)
        assert isinstance(later, torch.nn.Module)
        later.load_initial(earlier.state_dict())
        taken, given = later.state_dict(), earlier.state_dict()
        places = {n: n if n in taken else f"detector.{n}" for n in given}  # a method may be built around a detector
        same = [n for n, own in places.items() if own in taken and torch.equal(taken[own], given[n])]
        assert len(same) >= 0.5 * len(given)


# ---- streams ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_frames", [0, 1, 2, 3, 7])
def test_latency_is_as_declared_and_no_frame_is_lost(
    spec: MethodSpec, config: MethodConfig, method: Method, num_frames: int
) -> None:
    stream = method.stream()
    lag = spec.latency_frames(config)
    returned = [len(stream.push(image)) for image in video(num_frames)]
    final = [0 if lag is None else max(0, count - lag) for count in range(1, num_frames + 1)]
    assert [sum(returned[: i + 1]) for i in range(num_frames)] == final
    assert sum(returned) + len(stream.close()) == num_frames


def test_detections_are_well_formed(method: Method) -> None:
    for found in stream_all(method, video(4)):
        assert len(found.boxes) == len(found.scores) == len(found.labels) > 0
        assert (found.boxes.dtype, found.scores.dtype, found.labels.dtype) == (np.float32, np.float32, np.int64)
        assert found.boxes.shape[1] == 4
        assert (found.boxes >= 0).all()
        assert (found.boxes[:, [0, 2]] <= WIDTH).all()
        assert (found.boxes[:, [1, 3]] <= HEIGHT).all()
        assert (found.boxes[:, 2:] >= found.boxes[:, :2]).all()
        assert (np.diff(found.scores) <= 0).all()
        assert set(found.labels) <= {1, 2, 3}
        assert ((found.scores >= 0) & (found.scores <= 1)).all()


@pytest.mark.parametrize("num_frames", [1, 3, 8])
def test_stream_equals_detection_from_scratch(method: Method, config: MethodConfig, num_frames: int) -> None:
    images = video(num_frames)
    for reference, got in enumerate(stream_all(method, images)):
        if hasattr(method, "detect_in_video"):
            with torch.inference_mode():
                expected = method.detect_in_video(images, reference, config)
        else:  # a method without memory: the frame alone
            (expected,) = stream_all(method, [images[reference]])
        assert_equal(got, expected)


def test_streams_do_not_share_state(method: Method) -> None:
    first, second = video(5, seed=1), video(5, seed=2)
    expected = stream_all(method, first), stream_all(method, second)
    streams = method.stream(), method.stream()
    got: tuple[list[Detections], list[Detections]] = ([], [])
    for images in zip(first, second, strict=True):
        for stream, image, found in zip(streams, images, got, strict=True):
            found.extend(stream.push(image))
    for stream, found, wanted in zip(streams, got, expected, strict=True):
        found.extend(stream.close())
        for a, b in zip(found, wanted, strict=True):
            assert_equal(a, b, box=0, score=0)


def test_other_frame_sizes_work(method: Method) -> None:
    for height, width in ((96, 40), (40, 96), (64, 64)):
        for found in stream_all(method, video(3, height, width)):
            assert (found.boxes[:, 2] <= width).all()
            assert (found.boxes[:, 3] <= height).all()


def test_each_frame_goes_through_the_backbone_once(method: Method) -> None:
    class Counting:
        def __init__(self) -> None:
            self.entered: Counter[str] = Counter()
            self.inside = False

        @contextmanager
        def stage(self, name: str) -> Iterator[None]:
            assert not self.inside, f"stage {name} is nested"
            self.entered[name] += 1
            self.inside = True
            yield
            self.inside = False

    clock = Counting()
    stream = method.stream(clock=clock)
    for image in video(6):
        stream.push(image)
    stream.close()
    assert clock.entered, "a stream times its stages"
    assert clock.entered["backbone"] <= 6


def test_streams_that_share_encoded_frames_see_what_they_see_alone(
    spec: MethodSpec, config: MethodConfig, method: Method
) -> None:
    """A method that encodes frames apart: equal settings share, and nothing but the inference settings named counts."""
    if not isinstance(method, FrameEncoder):
        pytest.skip(f"{spec.name} does not encode frames apart from its streams")
    images = video(7)
    shared = method.encoding_settings(config)
    changed = [config.replace(**{name: CHANGED[name]}) for name in config.inference_settings()]
    sharing = [
        c
        for c in changed
        if method.encoding_settings(c) == shared and isinstance(method.stream(c), EncodedStream)  # others see images
    ]
    assert sharing, "no inference knob leaves the encoding alone"
    streams = [method.stream(c) for c in sharing]
    found: list[list[Detections]] = [[] for _ in streams]
    for image in images:
        encoded = method.encode(image, config)
        for stream, final in zip(streams, found, strict=True):
            final.extend(stream.push_encoded(encoded))  # type: ignore[attr-defined]
    for stream, final, own in zip(streams, found, sharing, strict=True):
        final.extend(stream.close())
        for got, alone in zip(final, stream_all(method, images, own), strict=True):
            assert_equal(got, alone, box=0, score=0)


SWEPT: dict[str, tuple[Any, ...]] = {"T": (1, 3, 20), "K": (1, 2, 7, 12), "r": (5.0, 100.0), "test_frames": (1, 20)}


def sweep_of(config: MethodConfig) -> list[MethodConfig]:
    """Settings as sweeps draw them: every inference knob changed, those of attention several times and together."""
    knobs = config.inference_settings()
    values = {name: (CHANGED[name], *SWEPT.get(name, ())) for name in knobs}
    own = [config, *(config.replace(**{name: value}) for name in knobs for value in values[name])]
    mixed = [
        config.replace(**{name: values[name][n % len(values[name])] for name in SWEPT if name in knobs})
        for n in range(12)
    ]
    linked = [c.replace(linking="tube") for c in mixed[:2] if "linking" in knobs]
    return [c for c in (*own, *mixed, *linked, config) if not c.guided]


@pytest.mark.parametrize(("num_frames", "empty"), [(1, ()), (5, ()), (9, (0, 4, 5)), (3, (0, 1, 2))])
def test_settings_together_find_what_each_finds_by_itself(
    method: Method, config: MethodConfig, monkeypatch: pytest.MonkeyPatch, num_frames: int, empty: tuple[int, ...]
) -> None:
    """To the last bit: one frame, fewer frames than the window, frames without proposals, and settings that differ in
    one thing or in many."""
    images = video(num_frames)
    for number in empty:
        images[number][:] = 0
    without_proposals_where_black(method, monkeypatch)
    configs = sweep_of(config)
    together = detect_snippet(method, configs, images)
    for own, result in zip(configs, together, strict=True):
        (alone,) = detect_snippet(method, [own], images)
        assert len(result.stage_ms) == num_frames
        for got, expected in zip(result.detections, alone.detections, strict=True):
            assert_equal(got, expected, box=0, score=0)


def without_proposals_where_black(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The frame that was looked at last decides; it is the same one alone and in company."""
    looking = getattr(method, "detector", method)  # methods that propagate maps have one
    preprocess, propose = looking.preprocess, method.rpn.propose
    seen = {"black": False}

    def looked_at(images: Any, *args: Any, **kwargs: Any) -> Any:
        seen["black"] = not images[-1].any()
        return preprocess(images, *args, **kwargs)

    def some(*args: Any, **kwargs: Any) -> Any:
        found = propose(*args, **kwargs)
        return [p.top(0) for p in found] if seen["black"] else found

    monkeypatch.setattr(looking, "preprocess", looked_at)
    monkeypatch.setattr(method.rpn, "propose", some)


def test_kept_features_change_no_detection(
    spec: MethodSpec, method: Method, config: MethodConfig, tmp_path: Path
) -> None:
    """To the last bit, whether they are made or taken; and what was taken costs what making it did."""
    if not isinstance(method, FrameEncoder):
        pytest.skip("its frames cannot be encoded apart")
    images, device = video(5), torch.device("cpu")
    kept = kept_features(CacheSettings(url=str(tmp_path)), method, SnippetInfo("s", 5), device, {"data": "d"})
    assert kept is not None, f"{spec.name}: the return annotation of 'encode' is no dataclass that can be kept"
    assert not kept.has(config)
    plain, made, taken = (
        detect_snippet(method, [config, config], frames, device, kept=cache)
        for frames, cache in ((images, None), (images, kept), ((), kept))
    )
    assert kept.has(config)
    for results in (made, taken):
        for got, wanted in zip(results, plain, strict=True):
            for a, b in zip(got.detections, wanted.detections, strict=True):
                assert np.array_equal(a.boxes, b.boxes)
                assert np.array_equal(a.scores, b.scores)
                assert np.array_equal(a.labels, b.labels)
    for made_ms, taken_ms in zip(made[0].stage_ms, taken[0].stage_ms, strict=True):
        assert taken_ms["backbone"] == made_ms["backbone"] > 0


def test_half_precision_is_for_features_alone(method: Method, config: MethodConfig, tmp_path: Path) -> None:
    if not isinstance(method, FrameEncoder):
        pytest.skip("its frames cannot be encoded apart")
    device, (image,) = torch.device("cpu"), video(1)
    settings = CacheSettings(url=str(tmp_path), precision="fp16")
    kept = kept_features(settings, method, SnippetInfo("s", 1), device, {"data": "d"})
    assert kept is not None
    encoded = method.encode(image, config)
    with kept.recording(config) as recorder:
        recorder.add(encoded, {})
    with kept.recorded(config) as recorded:
        assert recorded is not None
        stored, _ = recorded.frame(0)
    rounded = {f.name for f in fields(encoded) if "vodbench.half_precision" in f.metadata}
    assert rounded
    for name, wanted in ((f.name, getattr(encoded, f.name)) for f in fields(encoded)):
        if not isinstance(wanted, torch.Tensor):
            continue
        got = getattr(stored, name)
        assert got.dtype == wanted.dtype
        assert torch.equal(got, wanted.half().float() if name in rounded else wanted)


def test_zero_proposals_work(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every frame, and in every second one."""
    propose = method.rpn.propose  # type: ignore[attr-defined]
    calls = Counter[str]()

    def none(*args: Any, **kwargs: Any) -> Any:
        return [p.top(0) for p in propose(*args, **kwargs)]

    def every_second(*args: Any, **kwargs: Any) -> Any:
        calls["propose"] += 1
        return (none if calls["propose"] % 2 else propose)(*args, **kwargs)

    monkeypatch.setattr(method.rpn, "propose", none)  # type: ignore[attr-defined]
    assert [len(d.boxes) for d in stream_all(method, video(5))] == [0] * 5
    monkeypatch.setattr(method.rpn, "propose", every_second)  # type: ignore[attr-defined]
    found = stream_all(method, video(6))
    assert [len(d.boxes) > 0 for d in found] == [False, True] * 3
    assert all(np.isfinite(d.scores).all() for d in found)


# ---- knobs --------------------------------------------------------------------------------------------------


def test_every_inference_knob_does_something(spec: MethodSpec, config: MethodConfig, method: Method) -> None:
    """Each alone changes the detections of some frame; latency follows the stream's own configuration."""
    images = video(7)
    for name in config.inference_settings():
        assert name in CHANGED, f"add a value of the inference knob {name} to CHANGED"
        base = config.replace(**met(config, name))
        before = stream_all(method, images, base)
        changed = base.replace(**{name: CHANGED[name]})
        stream = method.stream(changed)
        lag = spec.latency_frames(changed)
        after = [stream.push(image) for image in images]
        waiting = len(images) if lag is None else lag
        assert [len(d) for d in after] == [0] * waiting + [1] * (len(images) - waiting)
        assert differ(before, [d for found in after for d in found] + stream.close()), f"{name} changes nothing"


def met(config: MethodConfig, name: str) -> dict[str, Any]:
    """Changes to the configuration that give the inference knob what it needs: the first value that will do."""
    return {
        other: need[0]
        for other, need in config.knobs()[name].needs.items()
        if isinstance(need, tuple) and not meets(getattr(config, other), need)
    }


def unmet(config: MethodConfig) -> Iterator[tuple[str, MethodConfig, MethodConfig]]:
    """Each knob that needs others, and two configurations that lack one of them and differ in the knob alone."""
    for name, declared in config.knobs().items():
        for other, need in declared.needs.items():
            choices = config.knobs()[other].choices or (False if need == (True,) else 0,)
            base = config.replace(**{other: next(c for c in choices if not meets(c, need))})
            yield name, base, base.replace(**{name: another(declared, getattr(config, name))})


def test_what_a_knob_needs_is_declared_soundly(spec: MethodSpec, config: MethodConfig) -> None:
    knobs = config.knobs()
    for name, declared in knobs.items():
        assert config.matters(name, config.to_mapping()) in (True, False), "needs end somewhere"
        for other, need in declared.needs.items():
            assert other in knobs, f"{name} needs {other}, which {spec.name} does not have"
            assert isinstance(need, AtLeast) or any(knobs[other].allows(value) for value in need)
            if declared.kind == "training":
                assert knobs[other].kind == "training", "weights do not know how they will be used"


def test_a_knob_without_what_it_needs_changes_nothing(spec: MethodSpec) -> None:
    """Sweeps leave it out on this promise: detections of inference knobs, stages and losses of training knobs."""
    config = deterministic(spec)
    images = video(5)
    for name, base, changed in unmet(config):
        assert not base.matters(name, base.to_mapping())
        assert base.effective_settings() == changed.effective_settings()
        if config.knobs()[name].kind == "inference":
            method = built(spec, base)
            before, after = stream_all(method, images), stream_all(method, images, changed)
            for a, b in zip(before, after, strict=True):
                assert_equal(b, a, box=0, score=0)
        else:
            assert [training_of(stage) for stage in spec.stages(changed)] == [
                training_of(stage) for stage in spec.stages(base)
            ], f"{name} changes the stages"
            torch.testing.assert_close(losses_of(spec, changed), losses_of(spec, base), rtol=0, atol=0)


def training_of(stage: Stage) -> tuple[Any, ...]:
    """What a stage does besides its configuration; the range of supports counts only where they have one."""
    clips = replace(stage.clips, offset_low=0, offset_high=0) if stage.clips.whole_snippet else stage.clips
    return stage.name, stage.method, clips, stage.schedule


def losses_of(spec: MethodSpec, config: MethodConfig) -> dict[str, torch.Tensor]:
    method = begun(spec, config)
    torch.manual_seed(3)
    return method.losses(training_group(spec, config))


def test_training_knobs_cannot_change_in_a_stream(config: MethodConfig, method: Method) -> None:
    refused = 0
    for name, declared in config.knobs().items():
        if declared.kind == "training":
            try:
                changed = config.replace(**{name: another(declared, getattr(config, name))})
            except UserError:
                continue  # this value alone contradicts another knob
            with pytest.raises(UserError, match=name):
                method.stream(changed)
            refused += 1
    assert refused >= 10


def another(declared: Knob, value: Any) -> Any:
    """A different value that the knob accepts."""
    if declared.choices is not None:
        return next(c for c in declared.choices if c != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return tuple(v * 0.5 for v in value)
    if isinstance(value, (int, float)):
        return next(v for v in (value + 1, value * 2, value / 2, value - 1) if v != value and declared.allows(v))
    return 3 if declared.low is not None or declared.above is not None else "other"


def test_a_configuration_of_another_method_is_refused(method: Method) -> None:
    class Other(MethodConfig):
        pass

    with pytest.raises(UserError, match="Other"):
        method.stream(Other())


# ---- training -----------------------------------------------------------------------------------------------


def deterministic(spec: MethodSpec, **changes: Any) -> MethodConfig:
    """Nothing is left to sampling (all anchors and RoIs are used) and batch norm does not couple a batch's images."""
    return shrunk(spec, rpn_batch=10**6, roi_batch=10**5, frozen_batch_norm=True, forced_share=0.0, **changes)


def begun(spec: MethodSpec, config: MethodConfig) -> Method:
    method = built(spec, config)
    method.begin_stage(spec.stages(config)[-1])
    return method


def test_a_batch_is_the_mean_of_its_clips(spec: MethodSpec) -> None:
    """Exact where nothing is sampled; clips of one frame size, since padding is seen by convolutions. Where clips come
    in groups, the mean of its groups."""
    config = deterministic(spec)
    method = begun(spec, config)
    groups = [training_group(spec, config, group, flip=bool(group)) for group in range(3)]
    together = method.losses([clip for group in groups for clip in group])
    alone = [method.losses(group) for group in groups]
    for name, loss in together.items():
        assert loss.shape == ()
        torch.testing.assert_close(loss, torch.stack([a[name] for a in alone]).mean(), atol=1e-5, rtol=1e-4)


def test_a_few_steps_lower_the_loss(spec: MethodSpec) -> None:
    config = deterministic(spec)
    torch.manual_seed(0)
    method = spec.build(config, len(CLASSES))
    assert isinstance(method, torch.nn.Module)
    stage = spec.stages(config)[-1]
    if stage.clips.frames == "unlabelled":  # what is learned comes from weights, and blank ones have nothing to say
        method = built(spec, config)
    method.begin_stage(stage)
    clips = training_group(spec, config)
    trained = [p for p in method.parameters() if p.requires_grad]
    optimizer = make_optimizer(replace(stage.schedule, learning_rate=0.02, weight_decay=0.0), trained)
    history = []
    for _ in range(12):
        loss = torch.stack(list(method.losses(clips).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 10.0)
        optimizer.step()
        history.append(loss.item())
    assert np.isfinite(history).all()
    assert history[-1] < 0.9 * history[0]


@pytest.mark.parametrize("without", ["boxes", "proposals", "both"])
def test_frames_with_nothing_in_them_can_be_trained_on(
    spec: MethodSpec, without: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = deterministic(spec)
    method = begun(spec, config)
    if without != "boxes":
        propose = method.rpn.propose  # type: ignore[attr-defined]
        monkeypatch.setattr(
            method.rpn,  # type: ignore[attr-defined]
            "propose",
            lambda *a, **k: [p.top(0) for p in propose(*a, **k)],
        )
    losses = method.losses(training_group(spec, config, boxes=without == "proposals"))
    assert all(loss.isfinite() for loss in losses.values())
    total = torch.stack(list(losses.values())).sum()
    if total.requires_grad:
        total.backward()
    gradients = [p.grad for p in method.parameters() if p.grad is not None]  # type: ignore[attr-defined]
    assert all(g.isfinite().all() for g in gradients)


def test_everything_that_is_trained_gets_a_gradient(spec: MethodSpec) -> None:
    config = deterministic(spec)
    method = begun(spec, config)
    losses = method.losses(training_group(spec, config))
    torch.stack(list(losses.values())).sum().backward()
    named = dict(method.named_parameters())  # type: ignore[attr-defined]
    assert [n for n, p in named.items() if p.requires_grad and p.grad is None] == []
    assert [n for n, p in named.items() if not p.requires_grad and p.grad is not None] == []


# ---- checkpoints --------------------------------------------------------------------------------------------


def test_a_checkpoint_gives_the_same_detections(
    spec: MethodSpec, config: MethodConfig, method: Method, tmp_path: Path
) -> None:
    assert isinstance(method, torch.nn.Module)
    url = str(tmp_path / "model.pt")
    saved = Checkpoint(
        method=spec.name,
        config=config,
        classes=CLASSES,
        weights=method.state_dict(),
        fingerprint="f" * 16,
        stage=spec.stages(config)[-1].name,
        data_fingerprint="d" * 16,
        seed=0,
        revision="test",
    )
    save_checkpoint(url, saved)
    restored = load_checkpoint(url, expect_method=spec.name).build()
    images = video(4)
    for got, expected in zip(stream_all(restored, images), stream_all(method, images), strict=True):
        assert_equal(got, expected, box=0, score=0)
