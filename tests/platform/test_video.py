from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
import pytest
import torch

from vodbench.checkpoints import Checkpoint, save_checkpoint
from vodbench.cli import predict
from vodbench.data_source import DataSource
from vodbench.drawing import draw, palette, readable_upscale
from vodbench.errors import UserError
from vodbench.images import encode_jpeg
from vodbench.video import predict_video
from vodbench.video_files import VideoWriter, check_output, open_frames, open_snippet

RED = {"thing": (255, 0, 0)}


def grey(level: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def write_video(path: Path, levels: list[int], height: int = 48, width: int = 64, fps: Fraction = Fraction(25)) -> str:
    with VideoWriter(str(path), fps) as writer:
        for level in levels:
            writer.write(grey(level, height, width))
    return str(path)


def frames_of(path: str) -> list[np.ndarray]:
    with av.open(path) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


# ---- drawing ------------------------------------------------------------------------------------------------


def test_a_box_is_drawn_on_its_pixels_and_nowhere_else() -> None:
    image = grey(0, 100, 100)
    out = draw(image, np.array([[20, 40, 59, 79]], np.float32), ["thing"], colors=RED)
    assert (image == 0).all()  # a copy
    for corner in [(40, 20), (40, 59), (79, 20), (79, 59)]:
        assert tuple(out[corner]) == (255, 0, 0)
    assert (out[45:75, 25:55] == 0).all()  # inside
    assert (out[82:] == 0).all() and (out[:, 62:][45:] == 0).all()  # noqa: PT018
    assert (out[25:39, 20:50] != 0).any()  # the name, above


def test_upscaling_moves_the_box_with_the_pixels() -> None:
    image = grey(0, 60, 60)
    image[30:40, 20:30] = 200
    out = draw(image, np.array([[20, 30, 29, 39]], np.float32), ["thing"], [0.5], upscale=4, colors=RED)
    assert out.shape == (240, 240, 3)
    assert draw(image, np.zeros((0, 4), np.float32), [], min_width=130).shape == (180, 180, 3)
    assert tuple(out[4 * 30, 4 * 25]) == (255, 0, 0)
    assert tuple(out[4 * 40 - 1, 4 * 25]) == (255, 0, 0)
    assert (out[4 * 35, 4 * 25] == 200).all()


def test_the_highest_score_is_on_top() -> None:
    box = np.array([[10, 40, 60, 80], [10, 40, 60, 80]], np.float32)
    colors = {"low": (0, 255, 0), "high": (255, 0, 0)}
    out = draw(grey(0, 100, 100), box, ["high", "low"], [0.9, 0.1], colors=colors)
    assert tuple(out[40, 35]) == (255, 0, 0)


@pytest.mark.parametrize("box", [[-500, -500, 900, 900], [0, 0, 0, 0], [63, 47, 63, 47], [1e6, 1e6, 2e6, 2e6]])
def test_boxes_beyond_the_image_do_no_harm(box: list[float]) -> None:
    out = draw(grey(9), np.array([box], np.float32), ["a long name that does not fit into the image"], [1.0])
    assert out.shape == (48, 64, 3)


def test_no_boxes_leave_the_image_alone() -> None:
    image = grey(77)
    assert np.array_equal(draw(image, np.zeros((0, 4), np.float32), []), image)


def test_palette_and_upscale() -> None:
    colors = list(palette([f"c{i}" for i in range(30)]).values())
    assert len(set(colors)) == 30
    assert readable_upscale(grey(0, 128, 200)) == 3
    assert readable_upscale(grey(0, 720, 1280)) == 1


# ---- in and out ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(48, 64), (47, 63)])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_written_frames_come_back(tmp_path: Path, suffix: str, height: int, width: int) -> None:
    fps = Fraction(30000, 1001)
    path = write_video(tmp_path / f"v{suffix}", [20, 90, 160, 230], height, width, fps)
    source = open_frames(path)
    assert float(source.fps) == pytest.approx(float(fps), rel=1e-3)
    frames = list(source.images())
    assert [f.shape for f in frames] == [(48, 64, 3)] * 4
    assert [round(float(f.mean()), -1) for f in frames] == [20, 90, 160, 230]
    assert not source.has_audio


def test_a_folder_of_images_in_natural_order(tmp_path: Path) -> None:
    for name, level in [("f10.jpg", 200), ("f2.jpg", 100), ("f1.png", 50)]:
        (tmp_path / name).write_bytes(encode_jpeg(grey(level)))
    (tmp_path / "notes.txt").write_text("no image")
    source = open_frames(str(tmp_path), fps=10)
    assert source.fps == 10
    assert source.num_frames == 3
    assert [int(image.mean()) for image in source.images()] == [50, 100, 200]


def test_an_interrupted_writer_leaves_nothing(tmp_path: Path) -> None:
    def write_two_sizes() -> None:
        with VideoWriter(str(tmp_path / "v.mp4"), Fraction(25)) as writer:
            writer.write(grey(0))
            writer.write(grey(0, 10, 10))

    with pytest.raises(UserError, match=r"a frame is 10 x 10, the first was 64 x 48"):
        write_two_sizes()
    assert list(tmp_path.iterdir()) == []


# ---- predicting ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("T", [0, 3, 99])
def test_each_frame_shows_its_own_box(plain: ModuleType, tmp_path: Path, T: int) -> None:
    """The method's score is the frame's grey level / 255: only frames from 128 on may have a (red-ish) border."""
    levels = [10, 250, 30, 240, 230, 20, 220, 40, 10, 210]
    source = open_frames(write_video(tmp_path / "in.mp4", levels))
    config = plain.PlainConfig(T=T)
    seen: list[int] = []
    done = predict_video(
        plain.PlainMethod(config),
        config,
        plain.PlainData.classes,
        source,
        str(tmp_path / "out.mp4"),
        score=0.5,
        on_progress=seen.append,
    )
    out = frames_of(str(tmp_path / "out.mp4"))
    assert len(out) == len(levels)
    assert out[0].shape == (48, 64, 3)
    for image, level in zip(out, levels, strict=True):
        left_edge, middle = image[24:46, 0].astype(int), image[30:40, 20:50].astype(int)
        assert abs(middle.mean() - level) < 6
        coloured = np.abs(left_edge - level).max() > 60
        assert coloured == (level >= 128), level
    assert done.num_boxes == sum(level >= 128 for level in levels)
    assert done.largest_buffer == min(T + 1, len(levels))
    assert seen == list(range(1, 11))


def illustrated(plain: ModuleType, config: Any) -> Any:
    """A plain method whose stream shows the newest frame's opposite as "negative", two cells wide."""

    class Stream(plain.PlainStream):  # type: ignore[name-defined, misc]
        shows = ("negative", "black")

        def push(self, image: np.ndarray) -> list[Any]:
            self._newest = image
            return list(super().push(image))

        def pictures(self) -> dict[str, np.ndarray]:
            return {"negative": 255 - self._newest[:1, :2], "black": np.zeros((1, 1, 3), np.uint8)}

    class Method(plain.PlainMethod):  # type: ignore[name-defined, misc]
        def stream(self, config: Any = None, clock: Any = None) -> Any:
            return Stream(self, config or self.config, clock)

    return Method(config)


@pytest.mark.parametrize("T", [0, 3])
def test_pictures_stand_beside_the_frame_they_are_of(plain: ModuleType, tmp_path: Path, T: int) -> None:
    levels = [10, 120, 30, 90, 60]
    source = open_frames(write_video(tmp_path / "in.mp4", levels))
    config, out = plain.PlainConfig(T=T), str(tmp_path / "out.mp4")
    show = ["black", "negative"]
    predict_video(illustrated(plain, config), config, plain.PlainData.classes, source, out, score=1.0, show=show)
    frames = frames_of(out)
    assert [frame.shape for frame in frames] == [(48, 3 * 64, 3)] * 5
    for frame, level in zip(frames, levels, strict=True):
        middles = [frame[8:40, left + 8 : left + 56].mean() for left in (0, 64, 128)]
        assert middles == pytest.approx([level, 0, 255 - level], abs=6)


def test_pictures_that_nobody_makes_are_refused(plain: ModuleType, tmp_path: Path) -> None:
    source = open_frames(write_video(tmp_path / "in.mp4", [10, 20]))
    config, out = plain.PlainConfig(), str(tmp_path / "out.mp4")
    with pytest.raises(UserError, match="did you mean 'negative'"):
        predict_video(illustrated(plain, config), config, plain.PlainData.classes, source, out, show=["negativ"])
    with pytest.raises(UserError, match="PlainStream has no pictures to show"):
        predict_video(plain.PlainMethod(config), config, plain.PlainData.classes, source, out, show=["flow"])
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_a_snippet_of_a_data_set(plain: ModuleType, tmp_path: Path) -> None:
    source = open_snippet(DataSource(root="nowhere", kind="plain"), "s1")
    config = plain.PlainConfig(T=2)
    out = str(tmp_path / "out.mp4")
    done = predict_video(plain.PlainMethod(config), config, plain.PlainData.classes, source, out, score=0, upscale=3)
    assert done.num_frames == done.num_boxes == 6
    assert frames_of(out)[0].shape == (48, 72, 3)


def test_a_failing_method_leaves_no_file(plain: ModuleType, tmp_path: Path) -> None:
    video = write_video(tmp_path / "in.mp4", [10] * 5)
    config = plain.PlainConfig(fail_at=3)
    with pytest.raises(ZeroDivisionError):
        predict_video(
            plain.PlainMethod(config), config, plain.PlainData.classes, open_frames(video), f"{tmp_path}/o.mp4"
        )
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


# ---- bad input ----------------------------------------------------------------------------------------------


def test_inputs_that_are_no_video(tmp_path: Path, plain: ModuleType) -> None:
    text = tmp_path / "a.mp4"
    text.write_text("no video at all")
    with pytest.raises(UserError, match=r"a.mp4' is not a video that can be read"):
        open_frames(str(text))
    with pytest.raises(UserError, match=r"none.mp4' does not exist"):
        open_frames(str(tmp_path / "none.mp4"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty' has no images; accepted: .jpg"):
        open_frames(str(tmp_path / "empty"))
    with pytest.raises(UserError, match=r"unknown snippet 's9'"):
        open_snippet(DataSource(root="nowhere", kind="plain"), "s9")
    for fps in (0, -1, float("nan"), 1e9):
        with pytest.raises(UserError, match=r"fps = .* is not accepted"):
            open_snippet(DataSource(root="nowhere", kind="plain"), "s1", fps)


def test_a_video_without_frames_or_without_picture(tmp_path: Path) -> None:
    empty, sound = tmp_path / "empty.mkv", tmp_path / "sound.mkv"
    with av.open(str(empty), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        container.start_encoding()
    with pytest.raises(UserError, match=r"empty.mkv' (has no frames|is not a video)"):
        open_frames(str(empty))
    with av.open(str(sound), "w") as container:
        audio = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(audio.encode(frame))
    with pytest.raises(UserError, match=r"sound.mkv' has no video stream"):
        open_frames(str(sound))


def test_outputs_that_cannot_be_written(tmp_path: Path) -> None:
    video = write_video(tmp_path / "in.mp4", [1, 2])
    (tmp_path / "link.mp4").symlink_to(video)
    (tmp_path / "folder.mp4").mkdir()
    for out, message in [
        ("in.mp4", "is the input"),
        ("link.mp4", "is the input"),
        ("missing/out.mp4", "folder of output .* does not exist"),
        ("out.txt", "is not a video file name; accepted: .mp4"),
        ("folder.mp4", "is a folder"),
    ]:
        with pytest.raises(UserError, match=message):
            check_output(str(tmp_path / out), video)


@pytest.mark.parametrize(("given", "message"), [({"score": 1.5}, "score = 1.5"), ({"upscale": 0}, "upscale = 0")])
def test_numbers_out_of_range(plain: ModuleType, tmp_path: Path, given: dict[str, float], message: str) -> None:
    source = open_frames(write_video(tmp_path / "in.mp4", [1]))
    config = plain.PlainConfig()
    with pytest.raises(UserError, match=message):
        predict_video(
            plain.PlainMethod(config), config, plain.PlainData.classes, source, str(tmp_path / "o.mp4"), **given
        )


# ---- the command --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command(plain: ModuleType, tmp_path: Path) -> None:
    torch.manual_seed(0)
    method = plain.PlainMethod(plain.PlainConfig())
    run = tmp_path / "model.pt"
    origin = {"fingerprint": "w", "stage": "only", "data_fingerprint": "n", "seed": 0, "revision": "test"}
    save_checkpoint(
        str(run),
        Checkpoint(
            method="plain",
            config=method.config,
            classes=plain.PlainData.classes,
            weights=method.state_dict(),
            **origin,
        ),
    )
    video, out = write_video(tmp_path / "in.mp4", [200] * 4), tmp_path / "out.mp4"

    arguments = [video, "--set", "T=2", "--device", "cpu", "--run", str(run), "--out", str(out)]
    program = [sys.executable, "-c", "from vodbench.cli import main; main()", "predict"]
    done = subprocess.run([*program, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "4 frames, 4 boxes" in done.stdout
    assert "T=2" in done.stderr
    assert len(frames_of(str(out))) == 4
    failed = subprocess.run([*program, "none.mp4", *arguments[1:]], capture_output=True, text=True, timeout=300)
    assert failed.returncode == 2
    assert "'none.mp4' does not exist" in failed.stderr

    out.unlink()
    for given, message in [
        ({}, "give either VIDEO"),
        ({"video": video, "data": "x", "snippet": "y"}, "give either VIDEO"),
        ({"data": "x"}, "give either VIDEO"),
        ({"video": video, "set_": ["Tx=2"]}, "unknown knob 'Tx'"),
        ({"video": video, "device": "cuda:99"}, "not available"),
        ({"video": video, "run": str(tmp_path / "none")}, "does not exist"),
        ({"video": video, "out": video}, "is the input"),
    ]:
        with pytest.raises(UserError, match=message):
            predict.command(**{"run": str(run), "out": str(out), **given})
    assert not out.exists()
