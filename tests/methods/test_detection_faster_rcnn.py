"""The single-frame detector as a whole: pixels in and out, learning, streaming."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from vodbench.errors import UserError
from vodbench.registry import method_spec
from vodbench.spec import Clip, ClipFrame, Detections, Image, Truth
from vodbench_methods.detection.config import FasterRCNNConfig
from vodbench_methods.detection.faster_rcnn import FasterRCNN

SPEC = method_spec("faster-rcnn")
SMALL = {"short_side": 64, "max_side": 96, "fc_channels": 32, "anchor_sizes": (24.0,), "roi_size": 3}


def detector(**settings: Any) -> FasterRCNN:
    torch.manual_seed(0)
    config = SPEC.config.from_mapping({**SPEC.presets["tiny"], **SMALL, **settings})
    built = SPEC.build(config, 2)
    assert isinstance(built, FasterRCNN)
    return built


def truth(boxes: list[list[float]], labels: list[int]) -> Truth:
    n = len(labels)
    array = np.array(boxes, np.float32).reshape(n, 4)
    return Truth(array, np.array(labels, np.int64), np.arange(n), np.zeros(n, bool), np.zeros(n, bool))


def picture(height: int = 64, width: int = 64) -> ClipFrame:
    """A bright square (class 1) and a dark disc (class 2) on noise."""
    rng = np.random.default_rng(0)
    image = rng.integers(90, 130, (height, width, 3)).astype(np.uint8)
    image[8:29, 6:27] = 240
    cv2.circle(image, (44, 42), 11, (10, 20, 30), -1)
    return ClipFrame(0, image, truth([[6, 8, 26, 28], [33, 31, 55, 53]], [1, 2]))


def clip(frame: ClipFrame, flip: bool = False) -> Clip:
    return Clip(0, "snippet", frame, (), flip)


# ---- pixels


def test_preprocess_normalises_each_channel() -> None:
    method = detector(pixel_mean=(1.0, 2.0, 3.0), pixel_std=(2.0, 4.0, 8.0))
    image = np.zeros((64, 64, 3), np.uint8) + np.array([11, 22, 43], np.uint8)
    tensor = method.preprocess([image]).tensor
    assert tensor.shape == (1, 3, 64, 64)
    assert [float(channel.unique()) for channel in tensor[0]] == [5.0, 5.0, 5.0]


def test_bgr_reverses_the_channels() -> None:
    image = picture().image
    rgb, bgr = (detector(channel_order=order).preprocess([image]).tensor for order in ("rgb", "bgr"))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (detector().config.pixel_mean, detector().config.pixel_std))
    torch.testing.assert_close((bgr * std + mean).flip(1), rgb * std + mean, rtol=0, atol=1e-3)


def test_batch_of_different_sizes_is_padded_at_the_right_and_the_bottom() -> None:
    method = detector()
    wide, tall = picture(64, 90).image, picture(96, 64).image
    batch = method.preprocess([wide, tall])
    assert batch.sizes == ((64, 90), (96, 64))
    assert batch.tensor.shape == (2, 3, 96, 90)
    torch.testing.assert_close(batch.tensor[:1, :, :64, :90], method.preprocess([wide]).tensor)
    torch.testing.assert_close(batch.tensor[1:, :, :, :64], method.preprocess([tall]).tensor)
    assert not batch.tensor[0, :, 64:].any()
    assert not batch.tensor[1, :, :, 64:].any()


@pytest.mark.parametrize("flip", [False, True])
def test_targets_stay_on_their_objects(flip: bool) -> None:
    """The square is the only bright thing: after flip and resize, its box still holds exactly it."""
    method, frame = detector(short_side=128, max_side=128), picture()
    batch = method.preprocess([frame.image], [flip])
    (target,) = method.targets([frame], batch)
    bright = batch.tensor[0, 0] > (200 - 123.675) / 58.395
    rows, columns = torch.where(bright)
    found = torch.stack((columns.min(), rows.min(), columns.max(), rows.max())).float()
    assert float((target.boxes[0] - found).abs().max()) <= 2.0  # a pixel of the original is two here
    assert target.labels.tolist() == [1, 2]


# ---- learning


def test_it_learns_a_picture_and_finds_its_objects_in_original_pixels() -> None:
    frame = picture()
    method = detector()
    method.begin_stage(SPEC.stages(method.config)[0])
    optimiser = torch.optim.SGD(method.parameters(), lr=0.03, momentum=0.9)
    for step in range(120):
        losses = method.losses([clip(frame), clip(frame, flip=True)])
        assert set(losses) == {"rpn_objectness", "rpn_box", "class", "box"}
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(method.parameters(), 10.0)
        optimiser.step()
        assert step or all(p.grad is not None for p in method.parameters())
    method.eval()
    enlarged = np.asarray(cv2.resize(frame.image, (128, 128), interpolation=cv2.INTER_LINEAR), np.uint8)
    (detections,) = method.stream().push(enlarged)
    for box, label in zip(frame.truth.boxes, frame.truth.labels, strict=True):
        best = next(i for i in range(len(detections.labels)) if detections.labels[i] == label)
        assert detections.scores[best] > 0.5
        assert np.abs(detections.boxes[best] - 2 * box).max() < 8  # 4 px of the 64 px picture


def test_frames_without_objects_train() -> None:
    method, frame = detector(), picture()
    empty = ClipFrame(0, frame.image, truth([], []))
    method.begin_stage(SPEC.stages(method.config)[0])
    losses = method.losses([clip(empty), clip(empty)])
    torch.stack(list(losses.values())).sum().backward()
    assert float(losses["box"]) == float(losses["rpn_box"]) == 0.0


def test_weights_file_is_read_when_training_begins_and_only_then(tmp_path: Path) -> None:
    donor = detector()
    torch.nn.init.constant_(donor.backbone.stages()[0][0][0].weight, 0.25)  # type: ignore[index]
    path = tmp_path / "backbone.pth"
    torch.save(donor.backbone.state_dict(), path)
    method = detector(weights=str(path))
    method.begin_stage(SPEC.stages(method.config)[0])
    assert method.state_dict()["backbone.conv1.0.weight"].unique().tolist() == [0.25]

    trained = detector(weights=str(tmp_path / "gone.pth"))  # a checkpoint on a machine without that file
    trained.load_state_dict(detector().state_dict())
    trained.begin_stage(SPEC.stages(trained.config)[0])
    with pytest.raises(UserError, match=r"gone\.pth"):
        detector(weights=str(tmp_path / "gone.pth")).begin_stage(SPEC.stages(trained.config)[0])


def test_initial_weights_are_taken_where_they_fit() -> None:
    source, target = detector(), detector(fc_channels=48)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.fill_(0.5)
    target.load_initial(source.state_dict())
    taken = {n for n, p in target.named_parameters() if bool((p == 0.5).all())}
    assert "rpn.conv.weight" in taken
    assert not any(name.startswith("head.fcs.0") for name in taken)
    with pytest.raises(UserError, match="none of the 1 given weights"):
        target.load_initial({"other": torch.zeros(1)})


# ---- streaming


def test_stages_are_timed_in_order() -> None:
    class Recorder:
        names: list[str] = []  # noqa: RUF012

        @contextmanager
        def stage(self, name: str) -> Any:
            self.names.append(name)
            yield

    clock = Recorder()
    stream = detector().eval().stream(clock=clock)
    assert len(stream.push(picture().image)) == 1
    assert stream.close() == []
    assert clock.names == ["preprocess", "backbone", "proposals", "roi", "head", "post"]


def test_stream_refuses_other_training_settings_by_name() -> None:
    method = detector()
    method.stream(method.config.replace(score_threshold=0.5))
    with pytest.raises(UserError, match="roi_size = 5"):
        method.stream(method.config.replace(roi_size=5))


def test_no_proposals_give_no_detections(monkeypatch: pytest.MonkeyPatch) -> None:
    method = detector().eval()
    original = method.rpn.propose
    monkeypatch.setattr(method.rpn, "propose", lambda *args, **limits: [p.top(0) for p in original(*args, **limits)])
    (detections,) = method.stream().push(picture().image)
    assert isinstance(detections, Detections)
    assert (detections.boxes.shape, detections.scores.shape, detections.labels.shape) == ((0, 4), (0,), (0,))


def test_streaming_and_training_forward_agree() -> None:
    """The folded inference backbone and the training modules give one image the same features."""
    method = detector().eval()
    image: Image = picture().image
    with torch.no_grad():
        folded = method.features(method.preprocess([image]))
    plain = method.backbone(method.preprocess([image]).tensor)
    for ours, theirs in zip(folded, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_paper_settings_are_the_defaults() -> None:
    config = FasterRCNNConfig()
    schedule = SPEC.stages(config)[0].schedule
    assert (config.short_side, config.max_side, config.backbone) == (600, 1000, "resnet101")
    assert len(config.anchor_sizes) * len(config.anchor_ratios) == 12
    assert (schedule.iterations, schedule.milestones, schedule.learning_rate) == (120_000, (80_000,), 1e-3)
