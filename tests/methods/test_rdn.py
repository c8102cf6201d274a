"""RDN against literal compositions of the relation reference, brute-force windows, and its own laws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vodbench.errors import UserError
from vodbench.knobs import MethodConfig
from vodbench.registry import method_spec
from vodbench.spec import Detections
from vodbench_methods.detection.records import FrameFeatures, Proposals
from vodbench_methods.detection.warm_start import narrowed
from vodbench_methods.rdn.basic import RDNBasic
from vodbench_methods.rdn.choice import count_best
from vodbench_methods.rdn.config import RDNBasicConfig, RDNConfig
from vodbench_methods.rdn.full import RDN, best
from vodbench_methods.rdn.records import Support
from vodbench_methods.rdn.refinement import RefinedAnew, RefinedInParts
from vodbench_methods.rdn.specs import BASIC, FULL
from vodbench_methods.relation.reference import relation_reference
from vodbench_methods.sequence import window

METHOD = "rdn"


def replay(method: RDNBasic, frames: Sequence[FrameFeatures], config: RDNBasicConfig) -> list[Detections]:
    stream: Any = method.stream(config)
    return [d for frame in frames for d in stream.push_encoded(frame)] + stream.close()


def assert_same(got: Detections, expected: Detections) -> None:
    assert len(got.boxes) == len(expected.boxes)
    np.testing.assert_allclose(got.boxes, expected.boxes, atol=1e-4, rtol=0)
    np.testing.assert_allclose(got.scores, expected.scores, atol=1e-5, rtol=0)
    np.testing.assert_array_equal(got.labels, expected.labels)


# ---- what a window is -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_frames", [1, 2, 4, 9])
def test_windows_equal_brute_force(tiny: Any, num_frames: int) -> None:
    for reference in range(num_frames):
        around = range(reference - 3, reference + 4)
        frames, copies = window(reference, num_frames, tiny.config(T=3))
        assert list(frames) == [t for t in around if 0 <= t < num_frames]
        assert copies == [1] * len(frames)
        frames, copies = window(reference, num_frames, tiny.config(T=3, video_ends="replicate"))
        repeated = [t for t, c in zip(frames, copies, strict=True) for _ in range(c)]
        assert repeated == [min(max(t, 0), num_frames - 1) for t in around]


# ---- the forward pass against a literal one -------------------------------------------------------------------


def literal_full(
    method: RDN, frame: FrameFeatures, pooled: Sequence[FrameFeatures], r: float, top_r: str, order: str
) -> Tensor:
    """Eq. 3-7 written down, with frames repeated as often as they count."""
    act = F.relu if order == "pre" else (lambda x: x)
    add = (lambda x, a: x + a) if order == "pre" else (lambda x, a: F.relu(x + a))
    features, boxes = torch.cat([f.features for f in pooled]), torch.cat([f.boxes for f in pooled])
    x = frame.features
    for index, relation in enumerate(method.relations):
        x = x if index == 0 else act(method.fcs[index](x))
        x = add(x, relation_reference(relation, x, frame.boxes, features, boxes))  # type: ignore[arg-type]
    if top_r == "frame":
        counts = [count_best(len(f.boxes), r) for f in pooled]
        sa = torch.cat([f.features[:n] for f, n in zip(pooled, counts, strict=True)])
        sa_boxes = torch.cat([f.boxes[:n] for f, n in zip(pooled, counts, strict=True)])
    else:
        order_of = torch.cat([f.objectness for f in pooled]).argsort(descending=True)
        chosen = order_of[: count_best(len(order_of), r)]
        sa, sa_boxes = features[chosen], boxes[chosen]
    sa = act(method.refine_fc(add(sa, relation_reference(method.refine, sa, sa_boxes, features, boxes))))
    return add(x, relation_reference(method.distil, x, frame.boxes, sa, sa_boxes))


@pytest.mark.parametrize("order", ["pre", "post"])
@pytest.mark.parametrize("top_r", ["frame", "pool"])
@pytest.mark.parametrize("ends", ["truncate", "replicate"])
@pytest.mark.parametrize("N_b", [1, 3])
def test_related_features_equal_the_equations(tiny: Any, order: str, top_r: str, ends: str, N_b: int) -> None:
    method: RDN = tiny.method(relation_order=order, top_r=top_r, video_ends=ends, N_b=N_b)
    config = method.config
    frames = tiny.frames([7, 5, 3, 10, 1, 6])
    with torch.no_grad():
        for reference in range(len(frames)):
            indices, copies = window(reference, len(frames), config)
            supports = [method.support(frames[i].top(config.K)) for i in indices]
            frame = frames[reference]
            got = method.relate(frame.features, frame.boxes, method.gather(supports, copies, config))
            repeated = [frames[i].top(config.K) for i, c in zip(indices, copies, strict=True) for _ in range(c)]
            expected = literal_full(method, frame, repeated, config.r, top_r, order)
            torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_basic_without_modules_is_the_first_layer_alone(tiny: Any) -> None:
    method = RDNBasic(narrowed(tiny.config(N_b=0), RDNBasicConfig), 3).eval()
    (frame,) = tiny.frames([4])
    pool = method.gather([method.support(frame)], [1], method.config)
    assert torch.equal(method.relate(frame.features, frame.boxes, pool), F.relu(frame.features))
    assert len(replay(method, tiny.frames([4, 4, 4]), method.config)) == 3


@pytest.mark.parametrize("N_b", [0, 2])
def test_advanced_stage_works_on_any_basic_stage(tiny: Any, N_b: int) -> None:
    method: RDN = tiny.method(N_b=N_b)
    assert len(replay(method, tiny.frames([5, 4, 3, 6]), method.config)) == 4


# ---- streams --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", ["truncate", "replicate"])
@pytest.mark.parametrize("top_r", ["frame", "pool"])
@pytest.mark.parametrize("numbers", [[5] * 9, [7, 2, 0, 9, 1, 0, 0, 6, 3], [4, 0], [3], [0, 0, 0]])
def test_stream_equals_a_window_from_scratch(tiny: Any, ends: str, top_r: str, numbers: list[int]) -> None:
    """Fewer than K proposals, none at all, and videos shorter than the window included."""
    method: RDN = tiny.method(video_ends=ends, top_r=top_r)
    config = method.config
    frames = tiny.frames(numbers)
    for reference, got in enumerate(replay(method, frames, config)):
        with torch.inference_mode():
            indices, copies = window(reference, len(frames), config)
            repeated = [frames[i].top(config.K) for i, c in zip(indices, copies, strict=True) for _ in range(c)]
            supports = [method.support(frame) for frame in repeated]
            frame = frames[reference].top(config.proposals)
            features = method.relate(frame.features, frame.boxes, method.gather(supports, None, config))
            assert_same(got, method.detections(frame, features, config))


def test_streams_use_the_partial_sums_where_they_hold(tiny: Any) -> None:
    """The oracle above must have tested the cache, and the cache must not be used where it would be wrong."""
    method: RDN = tiny.method()
    ((kept, _),), ((anew, _),) = method.refinements([[method.config], [tiny.config(top_r="pool")]])
    assert isinstance(kept, RefinedInParts)
    assert isinstance(anew, RefinedAnew)


def test_long_streams_do_not_drift(tiny: Any) -> None:
    method: RDN = tiny.method(T=1)
    config = method.config
    cycle = tiny.frames([5, 4, 5, 3, 5])
    found = replay(method, cycle * 20, config)
    for index in range(5, 10):
        np.testing.assert_allclose(found[index].scores, found[index + 85].scores, atol=1e-6, rtol=0)


def test_supports_beyond_the_reference_proposals_are_encoded(tiny: Any) -> None:
    """K may exceed the number of proposals that a reference frame uses."""
    method: RDN = tiny.method(proposals=3, K=8, short_side=64)
    config = method.config
    frame = method.encode(tiny.images(1)[0], config)
    assert len(frame.boxes) > 3


# ---- the choice of r% -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "r", "expected"), [(75, 20, 15), (75, 10, 7), (75, 100, 75), (3, 20, 1), (0, 50, 0), (1, 0.5, 1)]
)
def test_count_of_the_best(count: int, r: float, expected: int) -> None:
    assert count_best(count, r) == expected


def test_the_best_of_a_pool_counts_copies(tiny: Any) -> None:
    """Against frames that are really repeated: the same proposals, as often."""
    method: RDN = tiny.method(top_r="pool", r=37.0)
    frames = tiny.frames([5, 4, 5])
    supports = [method.support(frame) for frame in frames]
    copies = [3, 1, 2]
    repeated: list[Support] = [s for s, c in zip(supports, copies, strict=True) for _ in range(c)]
    features, _, counts = best(supports, copies, method.config)
    expected, _, _ = best(repeated, None, method.config)
    assert counts is not None
    got = features.repeat_interleave(counts.long(), dim=0)
    torch.testing.assert_close(got.sort(dim=0).values, expected.sort(dim=0).values)


# ---- training -------------------------------------------------------------------------------------------------


def test_training_and_streaming_share_one_forward_pass(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The features that training scores are those a stream scores, given the same proposals and window."""
    method: RDN = tiny.method(K_train=3, r_train=70.0)
    config = method.config
    as_trained = config.replace(K=3, r=70.0)
    frames = tiny.images(3)
    with torch.no_grad():
        streamed = [method.encode(image, config) for image in frames]
        supports = [method.support(f.top(3)) for f in streamed]
        pool = method.gather(supports, [1, 1, 1], as_trained)
        expected = method.relate(streamed[1].features, streamed[1].boxes, pool)

        # The very same boxes: a convolution of a batch rounds otherwise than one of a single image, and the logarithm
        # of a distance near zero makes a visible phase of that.
        same = [Proposals(streamed[i].boxes, streamed[i].objectness) for i in (1, 0, 2)]
        monkeypatch.setattr(method, "propose_for_training", lambda output, sizes: same)
        monkeypatch.setattr(method, "sample_rois", lambda proposals, targets: proposals)
        monkeypatch.setattr(method, "head_losses", lambda features, samples: {"features": features})
        trained = method.losses([tiny.clip([frames[i] for i in (1, 0, 2)])])["features"]
    torch.testing.assert_close(trained, expected, atol=1e-5, rtol=1e-4)


def test_a_frozen_detector_does_not_move(tiny: Any) -> None:
    config = tiny.config()
    method = RDN(config, 3)
    method.begin_stage(FULL.stages(config)[-1])
    method.train()  # as a trainer may call it
    before = {n: t.clone() for n, t in method.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    torch.stack(list(method.losses([tiny.clip(tiny.images(3))]).values())).sum().backward()
    optimizer.step()
    moved = {n.split(".")[0] for n, t in method.state_dict().items() if not torch.equal(t, before[n])}
    assert moved == {"fcs", "relations", "refine", "refine_fc", "distil", "predictor"}


def test_a_free_detector_is_trained_too(tiny: Any) -> None:
    config = tiny.config(freeze_detector=False)
    method = RDN(config, 3)
    method.begin_stage(FULL.stages(config)[-1])
    losses = method.losses([tiny.clip(tiny.images(3))])
    assert {"rpn_objectness", "rpn_box", "class", "box"} == set(losses)
    torch.stack(list(losses.values())).sum().backward()
    assert method.rpn.conv.weight.grad is not None


def test_weights_of_nothing_known_are_refused(tiny: Any) -> None:
    with pytest.raises(UserError, match="none of the 1 given weights fits"):
        RDN(tiny.config(), 3).load_initial({"foreign": torch.zeros(3)})


# ---- stages ---------------------------------------------------------------------------------------------------


def identity(config: MethodConfig, stages: Any) -> list[Any]:
    return [(s.name, s.method, s.config.training_settings(), s.schedule, s.clips) for s in stages]


def test_rdn_shares_its_first_stages(tiny: Any) -> None:
    """rdn's first stages are those of rdn-basic, and its detector that of faster-rcnn, whatever the inference knobs."""
    full = tiny.config(T=4, K=3, r=10.0)
    basic = narrowed(tiny.config(), RDNBasicConfig)
    ours, theirs = FULL.stages(full), BASIC.stages(basic)
    assert identity(full, ours[:2]) == identity(basic, theirs)
    detector = method_spec("faster-rcnn")
    single = detector.stages(narrowed(full, detector.config))
    assert identity(full, ours[:1]) == identity(full, single)
    assert [s.name for s in ours] == ["detector", "basic", "advanced"]


def test_the_papers_schedule_has_two_phases() -> None:
    stages = FULL.stages(RDNConfig())
    assert [(s.name, s.method) for s in stages] == [("basic", "rdn-basic"), ("advanced", "rdn")]
    assert [s.schedule.iterations for s in stages] == [120_000, 60_000]
    assert [s.schedule.milestones for s in stages] == [(80_000,), (40_000,)]
    assert {(s.clips.num_supports, s.clips.offset_low, s.clips.offset_high) for s in stages} == {(2, -18, 18)}


# ---- bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"T": 0}, r"T = 0 .*\[1, inf\)"),
        ({"T": -3}, r"T = -3 .*\[1, inf\)"),
        ({"T": 1.5}, r"T = 1.5 .*integer"),
        ({"K": 0}, r"K = 0 .*\[1, inf\)"),
        ({"r": 0}, r"r = 0 .*\(0, 100\]"),
        ({"r": 100.5}, r"r = 100.5 .*\(0, 100\]"),
        ({"r_train": 0}, r"r_train = 0 .*\(0, 100\]"),
        ({"N_b": -1}, r"N_b = -1 .*\[0, inf\)"),
        ({"video_ends": "mirror"}, r"video_ends = 'mirror' .*truncate, replicate"),
        ({"top_r": "best"}, r"top_r = 'best' .*frame, pool"),
        ({"heads": 7}, r"heads = 7 does not divide fc_channels = 1024"),
        ({"num_supports": 5, "T_train": 2}, r"num_supports = 5 .*T_train = 4"),
        ({"freeze_detector": True}, r"freeze_detector = True with warm_start = 'none'"),
        ({"basic_drops": [1.5]}, r"basic_drops = \[1.5\]"),
        ({"advanced_drops": [0.9, 0.5]}, r"advanced_drops = \[0.9, 0.5\]"),
        ({"N_B": 3}, r"unknown knob 'N_B': did you mean 'N_b'"),
    ],
)
def test_bad_values_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        RDNConfig.from_mapping(values)
    assert "\n" not in str(error.value)
