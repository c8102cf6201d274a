"""Linking behind real detectors: the same as linking, box by box, what the detector finds without it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vodbench.errors import UserError
from vodbench.knobs import MethodConfig
from vodbench.registry import method_spec, table
from vodbench.spec import Detections, EncodedStream, FrameEncoder, Image
from vodbench_methods.detection.clock import NullClock
from vodbench_methods.detection.records import FrameFeatures
from vodbench_methods.linking import FrameBoxes, wants_relations
from vodbench_methods.linking.reference import plain_blr, plain_seq_nms, plain_tube

SETTINGS = {
    "short_side": 64,
    "max_side": 96,
    "proposals": 10,
    "candidates": 60,
    "fc_channels": 32,
    "heads": 4,
    "K": 5,
    "T": 2,
    "score_threshold": 0.1,
    "max_detections": 1000,
}
PAIRS = [
    (name, linking)
    for name in sorted(table("methods"))
    for linking in method_spec(name).config.knobs()["linking"].choices or ()
]


def built(name: str, **changes: Any) -> tuple[Any, Any]:
    spec = method_spec(name)
    values = {**spec.presets["tiny"], **{k: v for k, v in {**SETTINGS, **changes}.items() if k in spec.config.knobs()}}
    config = spec.config.from_mapping(values)
    torch.manual_seed(0)
    method: Any = spec.build(config, 2)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return method.eval(), config


def video(count: int) -> list[Image]:
    rng = np.random.default_rng(3)
    frames = rng.integers(0, 90, (count, 56, 72, 3), dtype=np.uint8)
    for index, frame in enumerate(frames):
        frame[10:30, 8 + 2 * index : 28 + 2 * index] = (220, 60, 30)
    return list(frames)


def streamed(method: Any, config: MethodConfig, images: Sequence[Image]) -> list[Detections]:
    stream = method.stream(config)
    return [d for image in images for d in stream.push(image)] + stream.close()


def boxes_of(method: Any, config: Any, images: Sequence[Image]) -> list[FrameBoxes]:
    """What the detector hands to linking."""

    def answer(frame: FrameFeatures, features: Tensor, relation: Tensor | None = None) -> FrameBoxes:
        detector = getattr(method, "detector", method)  # a method may be built around a detector
        found: FrameBoxes = detector.boxes_to_link(frame, features, config, relation)
        return found

    stream = method.answer_stream(config, NullClock(), answer)
    return [b for image in images for b in stream.push(image)] + stream.close()


def rows(found: Detections) -> list[tuple[float, ...]]:
    """Boxes, label and score of a frame, in an order that does not depend on ties."""
    columns = [*found.boxes.T.tolist(), found.labels.tolist(), found.scores.round(5).tolist()]
    return sorted(zip(*columns, strict=True))


@pytest.mark.parametrize(("name", "linking"), PAIRS)
def test_a_linked_stream_is_the_plain_reading_of_its_boxes(name: str, linking: str) -> None:
    method, config = built(name)
    config = config.replace(linking=linking)
    images = video(6)
    found = streamed(method, config, images)
    if linking == "none":
        assert [len(f) for f in boxes_of(method, config, images)] == [len(d.scores) for d in found]
        return
    frames = boxes_of(method, config, images)
    if linking == "seq-nms":
        linked, scale = plain_seq_nms(frames, leftovers="suppress"), 1.0
    else:
        linked, scale = (plain_blr if linking == "blr" else plain_tube)(frames), 0.5
    for got, frame, expected in zip(found, frames, linked, strict=True):
        wanted = rows(expected.detections(frame, scale=scale))
        np.testing.assert_allclose(np.array(rows(got)), np.array(wanted), atol=2e-5, rtol=0)
        assert (np.diff(got.scores) <= 0).all()
    assert sum(len(d.scores) for d in found) > 0


@pytest.mark.parametrize("name", sorted(table("methods")))
def test_tubes_lose_no_detection_and_change_no_box(name: str) -> None:
    method, config = built(name)
    images = video(5)
    before, after = (streamed(method, config.replace(linking=linking), images) for linking in ("none", "tube"))
    for a, b in zip(before, after, strict=True):
        assert sorted(map(tuple, a.boxes.tolist())) == sorted(map(tuple, b.boxes.tolist()))


@pytest.mark.parametrize("name", sorted(table("methods")))
def test_candidates_for_seq_nms_are_all_boxes_above_the_threshold(name: str) -> None:
    """Before NMS and without a cap: what is best after NMS is among them, one (proposal, class) is there once."""
    method, config = built(name)
    config = config.replace(linking="seq-nms", max_detections=1)
    images = video(3)
    for frame, kept in zip(
        boxes_of(method, config, images), boxes_of(method, config.replace(linking="tube"), images), strict=True
    ):
        assert len(frame) > len(kept) == 1
        assert frame.proposal is not None
        assert len(set(zip(frame.proposal.tolist(), frame.labels.tolist(), strict=True))) == len(frame)
        assert (frame.scores > config.score_threshold).all()
        assert frame.scores.max() == kept.scores[0]


@pytest.mark.parametrize("name", ["rdn-basic", "rdn"])
@pytest.mark.parametrize(("N_b", "ends"), [(1, "truncate"), (2, "truncate"), (2, "replicate")])
def test_relation_weights_are_the_last_modules_attention_on_the_next_frame(name: str, N_b: int, ends: str) -> None:
    """Against the modules called one after another on the whole pool, with the columns looked up by hand."""
    method, config = built(name, N_b=N_b, video_ends=ends)
    config = config.replace(linking="blr")
    images = video(6)
    frames = boxes_of(method, config, images)
    with torch.inference_mode():
        encoded = [method.encode(image, config) for image in images]
        for t, frame in enumerate(frames):
            window = [min(max(i, 0), 5) if ends == "replicate" else i for i in range(t - 2, t + 3)]
            shown = [i for i in window if 0 <= i < 6]
            supports = [method.support(encoded[i].top(config.K)) for i in shown]
            kvs = method.gather_unrefined(supports, None).kvs
            features, boxes = encoded[t].features, encoded[t].boxes
            for n in range(N_b):
                if n:
                    features = torch.relu(method.fcs[n](features))
                weights = method.relations[n].weights(features, boxes, kvs[n])
                features = features + method.relations[n].attend(features, boxes, kvs[n])
            if t == 5:
                assert frame.relation is None
                continue
            assert frame.relation is not None
            first = shown.index(t + 1) * config.K
            expected = weights.mean(dim=0)[:, first : first + config.K]
            np.testing.assert_allclose(frame.relation, expected.numpy(), atol=1e-6, rtol=0)


def test_relations_are_worked_out_for_blr_alone() -> None:
    method, config = built("rdn")
    assert all(f.relation is None for f in boxes_of(method, config.replace(linking="tube"), video(4)))
    assert wants_relations("blr")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("faster-rcnn", {"linking": "blr"}, r"linking = 'blr' .*none, seq-nms, tube"),
        ("selsa", {"linking": "blr"}, r"linking = 'blr' .*none, seq-nms, tube"),
        ("rdn-basic", {"linking": "blr", "N_b": 0}, "N_b = 0 has not"),
        ("rdn", {"linking": "viterbi"}, "linking = 'viterbi'"),
        ("rdn", {"unlinked": "lose"}, "unlinked = 'lose'"),
    ],
)
def test_a_linking_that_a_method_cannot_do_is_refused_at_once(name: str, settings: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        method_spec(name).config.from_mapping(settings)


@pytest.mark.parametrize("linking", ["seq-nms", "tube", "blr"])
@pytest.mark.parametrize("count", [0, 1])
def test_snippets_of_no_and_of_one_frame(linking: str, count: int) -> None:
    method, config = built("rdn")
    assert len(streamed(method, config.replace(linking=linking), video(count))) == count


@pytest.mark.parametrize("name", sorted(table("methods")))
def test_linked_streams_take_encoded_frames(name: str) -> None:
    """So that a sweep over linkings encodes each frame once."""
    method, config = built(name)
    if not isinstance(method, FrameEncoder):
        pytest.skip(f"{name} does not encode frames apart from its streams")
    stream = method.stream(config.replace(linking="tube"))
    assert isinstance(stream, EncodedStream)
    images = video(4)
    for image in images:
        assert stream.push_encoded(method.encode(image, config)) == []
    for got, expected in zip(stream.close(), streamed(method, config.replace(linking="tube"), images), strict=True):
        assert rows(got) == rows(expected)
