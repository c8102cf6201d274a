"""Generated video: its truth holds by construction, its deteriorations do what they say, its bytes follow the seed."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from vodbench.data_source import DataSource
from vodbench.errors import UserError
from vodbench.evaluation.motion import in_ranges
from vodbench.evaluation.overlap import motion_iou
from vodbench.images import decode
from vodbench_datasets.generated import GeneratorConfig, generate, writer
from vodbench_datasets.generated.bursts import no_strengths
from vodbench_datasets.generated.config import DETERIORATIONS
from vodbench_datasets.generated.scene import Scene, draw_scene, render

TINY = GeneratorConfig(snippets=4, val_snippets=2, frames=5, size=64)


def digest(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def calm(number: int = 0, frames: int = 12, **changes: object) -> Scene:
    """A snippet of one object that nothing spoils."""
    config = GeneratorConfig(frames=frames, tracks=(1, 1), noise=0, **changes)  # type: ignore[arg-type]
    return replace(draw_scene(config, 0, number), strengths=no_strengths(1, frames))


def spoilt(scene: Scene, kind: str, strength: float) -> Scene:
    strengths = no_strengths(*scene.strengths[kind].shape)
    strengths[kind][:] = strength
    return replace(scene, strengths=strengths)


def sharpness(image: np.ndarray) -> float:
    return float(cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())


# ---- the tree ----


def test_the_seed_alone_decides_every_byte(tmp_path: Path) -> None:
    generate(str(tmp_path / "one"), TINY, workers=1)
    generate(str(tmp_path / "two"), TINY, workers=2)
    generate(str(tmp_path / "other"), replace(TINY, seed=1), workers=1)
    one, two, other = (digest(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    images = [path for path in one if path.endswith(".JPEG")]
    assert len(images) == 6 * 5
    assert not any(one[path] == other[path] for path in images)
    assert len({one[path] for path in images}) == len(images)  # no two snippets or splits are the same


def test_more_snippets_leave_the_first_ones_as_they_were(tmp_path: Path) -> None:
    generate(str(tmp_path / "few"), replace(TINY, snippets=1, val_snippets=0))
    generate(str(tmp_path / "more"), replace(TINY, snippets=2, val_snippets=1))
    few, more = digest(tmp_path / "few"), digest(tmp_path / "more")
    assert all(more[path] == few[path] for path in few if path.startswith(("Data", "Annotations", "Deteriorations")))


def test_the_reader_finds_exactly_what_was_rendered(tmp_path: Path) -> None:
    reports: list[tuple[int, int]] = []
    generate(str(tmp_path), TINY, on_progress=lambda done, total: reports.append((done, total)))
    assert reports == [(n, 6) for n in range(1, 7)]
    dataset = DataSource(root=str(tmp_path)).open()
    assert [len(dataset.snippets(split)) for split in ("train", "val")] == [4, 2]
    assert len(dataset.classes) == 5
    for stream, split in enumerate(("train", "val")):
        for number, snippet in enumerate(dataset.snippets(split)):
            scene = draw_scene(TINY, stream, number)
            for frame in dataset.read(split, snippet.id):
                rendered = render(scene, frame.index)
                np.testing.assert_array_equal(frame.truth.boxes, rendered.boxes)
                np.testing.assert_array_equal(frame.truth.labels, rendered.labels)
                np.testing.assert_array_equal(frame.truth.track_ids, rendered.track_ids)
                np.testing.assert_array_equal(frame.truth.occluded, rendered.occluded)
                assert frame.deteriorations == rendered.deteriorations
                # JPEG at quality 90 loses little; a frame of another index or channel order would differ by far more.
                error = np.abs(decode(frame.encoded, "f").astype(int) - rendered.image).mean()
                assert error < 8, error


def test_stills_are_snippets_of_one_unspoilt_frame_in_train_alone(tmp_path: Path) -> None:
    config = replace(TINY, stills=3, bursts=(5, 5))
    generate(str(tmp_path), config)
    dataset = DataSource(root=str(tmp_path)).open()
    assert [len(dataset.snippets(split)) for split in ("train", "val")] == [4 + 3, 2]
    for number, snippet in enumerate(dataset.snippets("train")[4:]):
        assert (snippet.num_frames, snippet.still) == (1, True)
        scene = draw_scene(config, 2, number)
        calm = replace(scene, strengths=no_strengths(len(scene.sprites), config.frames))
        (frame,) = dataset.read("train", snippet.id)
        rendered = render(calm, config.frames // 2)
        np.testing.assert_array_equal(frame.truth.boxes, rendered.boxes)
        np.testing.assert_array_equal(frame.truth.labels, rendered.labels)
        assert np.abs(decode(frame.encoded, "f").astype(int) - rendered.image).mean() < 8
        assert not frame.deteriorations
        assert not np.array_equal(rendered.image, render(scene, config.frames // 2).image)


def test_stills_leave_the_videos_as_they_were(tmp_path: Path) -> None:
    generate(str(tmp_path / "without"), TINY)
    generate(str(tmp_path / "with"), replace(TINY, stills=2))
    without, with_stills = digest(tmp_path / "without"), digest(tmp_path / "with")
    changed = {path for path in with_stills if with_stills[path] != without.get(path)}
    assert {path for path in changed if "DET" not in path} == {"generator.json"}
    assert len([path for path in changed if path.endswith(".JPEG")]) == 2


def test_a_tree_on_another_url() -> None:
    generate("memory://generated-test", replace(TINY, snippets=1, val_snippets=0))
    assert [s.num_frames for s in DataSource(root="memory://generated-test").open().snippets("train")] == [5]


def test_an_interrupted_tree_is_not_taken_for_a_whole_one_and_can_be_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate(str(tmp_path / "whole"), TINY, workers=1)

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(str(tmp_path / "cut"), TINY, workers=1, on_progress=stop)
    with pytest.raises(UserError, match="no list of snippets"):
        DataSource(root=str(tmp_path / "cut")).open()
    generate(str(tmp_path / "cut"), TINY, workers=1)
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")
    # Finished: asked again, it renders nothing.
    monkeypatch.setattr(writer, "draw_scene", None)
    generate(str(tmp_path / "cut"), TINY, workers=1)


def test_it_writes_into_no_folder_of_anything_else(tmp_path: Path) -> None:
    generate(str(tmp_path / "mine"), TINY, workers=1)
    before = digest(tmp_path)
    with pytest.raises(UserError, match="another configuration"):
        generate(str(tmp_path / "mine"), replace(TINY, seed=9))
    with pytest.raises(UserError, match="not empty and was not generated"):
        generate(str(tmp_path), TINY)
    assert digest(tmp_path) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 11}, "classes is 11; the generator has 1 to 10"),
        ({"classes": 0}, "classes is 0; give 1 or more"),
        ({"frames": 0}, "frames is 0"),
        ({"size": 16}, "size is 16; give 48 or more"),
        ({"snippets": 0, "val_snippets": 0}, "both 0"),
        ({"motion_blur": (0.5, 1.5)}, "motion_blur is"),
        ({"occlusion": (0.9, 0.1)}, "occlusion is"),
        ({"tracks": (0, 2)}, "tracks is"),
        ({"jpeg_quality": 101}, "jpeg_quality is 101"),
        ({"seed": -1}, "seed is -1"),
        ({"stills": -1}, "stills is -1; give 0 or more"),
        ({"liveliness": (0.0, 1.0)}, "liveliness is"),
    ],
)
def test_configurations_that_make_no_sense(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        GeneratorConfig(**changes)  # type: ignore[arg-type]


# ---- the truth ----


def test_boxes_are_the_bounds_of_what_shows() -> None:
    config = GeneratorConfig(frames=24, tracks=(2, 3))
    seen, gone = 0, 0
    for number in range(10):
        scene = draw_scene(config, 0, number)
        for index in range(config.frames):
            rendered = render(scene, index)
            assert len(rendered.masks) == len(rendered.boxes) == len(rendered.labels)
            assert not (rendered.masks.sum(axis=0) > 1).any()  # a pixel shows one object
            for mask, box in zip(rendered.masks, rendered.boxes.astype(int), strict=True):
                ys, xs = np.nonzero(mask)
                assert box.tolist() == [xs.min(), ys.min(), xs.max(), ys.max()]
                assert box.min() >= 0
                assert box.max() < config.size
            np.testing.assert_array_equal(rendered.labels, scene.labels[rendered.track_ids])
            seen += len(rendered.boxes)
            gone += len(scene.labels) - len(rendered.boxes)
    assert seen > 200
    assert gone >= 3


def test_the_mask_is_where_the_picture_changes_when_the_object_is_taken_away() -> None:
    for number in range(5):
        scene = calm(number)
        rendered = render(scene, 3)
        far_away = replace(scene.paths[0], centres=scene.paths[0].centres + 1000)
        without = render(replace(scene, paths=(far_away,)), 3)
        changed = np.abs(rendered.image.astype(int) - without.image).max(axis=2) > 0
        (mask,) = rendered.masks
        # Soft edges reach a pixel beyond the mask; inside, colours may by chance equal the background's.
        assert not (changed & ~cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)).any()
        assert changed[mask].mean() > 0.97
        assert not len(without.boxes)


def test_tracks_move_and_keep_their_class() -> None:
    scene = calm(2, speed=(0.02, 0.02))
    boxes = np.concatenate([render(scene, index).boxes for index in range(12)])
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    steps = np.hypot(*np.diff(centres, axis=0).T)
    assert steps.max() < 0.02 * 128 + 2  # its speed, and a pixel of rounding at each side
    assert steps.mean() > 1


def test_liveliness_slows_objects_down_and_leaves_the_rest_as_it_was() -> None:
    for number in range(5):
        full, half = calm(number), calm(number, liveliness=(0.5, 0.5))
        np.testing.assert_array_equal(full.background, half.background)
        np.testing.assert_array_equal(full.paths[0].centres[0], half.paths[0].centres[0])
        np.testing.assert_allclose(  # the first step: neither turns back at a border
            np.hypot(*np.diff(half.paths[0].centres, axis=0)[0]),
            np.hypot(*np.diff(full.paths[0].centres, axis=0)[0]) / 2,
            rtol=1e-2,
        )
        for turns in (full.paths[0].angles, half.paths[0].angles):
            assert np.ptp(np.diff(turns)) < 1e-5
        np.testing.assert_allclose(
            np.diff(half.paths[0].angles).mean(), np.diff(full.paths[0].angles).mean() / 2, rtol=1e-2
        )


def test_mixed_liveliness_makes_slow_medium_and_fast_objects() -> None:
    """By the definition of the evaluation: IoU with itself within 10 frames."""
    config = GeneratorConfig(size=64, bursts=(1, 2), liveliness=(0.02, 2.0))
    scenes = [draw_scene(config, 0, number) for number in range(20)]
    seen = [(n, f, render(scene, f)) for n, scene in enumerate(scenes) for f in range(config.frames)]
    rows = np.array([(n, f) for n, f, rendered in seen for _ in rendered.boxes])
    boxes = np.concatenate([rendered.boxes for *_, rendered in seen])
    tracks = np.concatenate([rendered.track_ids for *_, rendered in seen])
    shares = in_ranges(motion_iou(boxes, rows[:, 0], rows[:, 1], tracks)).mean(axis=0)
    assert shares.min() > 0.2, shares


# ---- the deteriorations ----


@pytest.mark.parametrize("kind", ["motion_blur", "defocus"])
def test_blur_lowers_sharpness_the_stronger_it_is(kind: str) -> None:
    for number in range(5):
        values = [sharpness(render(spoilt(calm(number), kind, s), 4).image) for s in (0, 0.3, 1.0)]
        assert values[0] > 1.5 * values[1] > 1.5 * values[2], values


def test_blur_leaves_the_truth_alone() -> None:
    for kind in ("motion_blur", "defocus"):
        np.testing.assert_array_equal(render(spoilt(calm(), kind, 1), 4).boxes, render(calm(), 4).boxes)


def test_occlusion_hides_the_share_it_says_and_sets_the_flag() -> None:
    for number in range(5):
        free = render(calm(number), 4)
        half = render(spoilt(calm(number), "occlusion", 0.5), 4)
        hidden = 1 - half.masks[0].sum() / free.masks[0].sum()
        assert half.occluded.tolist() == [True]
        assert free.occluded.tolist() == [False]
        assert half.deteriorations == {"occlusion": pytest.approx(hidden, abs=1e-3)}
        assert 0.3 < hidden < 0.7
        assert not len(render(spoilt(calm(number), "occlusion", 1), 4).boxes)


def test_an_object_that_left_has_no_box_and_comes_back() -> None:
    for number in range(5):
        scene = calm(number)
        strengths = no_strengths(1, 12)
        strengths["leaving_entering"][0, 3:6] = (0.6, 1, 0.6)
        counts = [len(render(replace(scene, strengths=strengths), index).boxes) for index in (2, 4, 6)]
        assert counts == [1, 0, 1]
        assert render(replace(scene, strengths=strengths), 4).deteriorations == {"leaving_entering": 1.0}


def test_rare_pose_foreshortens_and_scale_change_scales() -> None:
    for number in range(5):
        area = render(calm(number), 4).masks.sum()
        posed = render(spoilt(calm(number), "rare_pose", 1), 4).masks.sum()
        assert posed / area == pytest.approx(0.35, rel=0.1)
        scene = calm(number)
        scaled = render(spoilt(scene, "scale_change", 1), 4)
        inside = scaled.deteriorations.get("leaving_entering", 0) == 0
        if inside:
            assert scaled.masks.sum() / area == pytest.approx(scene.paths[0].far_factor ** 2, rel=0.1)


def test_camera_shake_moves_object_and_background_together() -> None:
    still, shaken = calm(1), spoilt(calm(1), "camera_shake", 1)
    shift = np.array([render(shaken, i).boxes[0, :2] - render(still, i).boxes[0, :2] for i in range(12)])
    np.testing.assert_allclose(shift, still.shakes, atol=1)
    assert np.ptp(shift, axis=0).max() > 5


def test_bursts_come_in_runs_and_are_recorded() -> None:
    config = GeneratorConfig(frames=24)
    counts: Counter[str] = Counter()
    spoilt_frames = 0
    for number in range(40):
        scene = draw_scene(config, 0, number)
        for kind in DETERIORATIONS:
            active = np.flatnonzero(scene.strengths[kind].max(axis=0) > 0)
            runs = 1 + (np.diff(active) > 1).sum() if len(active) else 0
            assert len(active) >= runs * config.burst_frames[0]
            counts[kind] += int(runs)
        spoilt_frames += sum(any(scene.strengths[k][:, f].max() > 0 for k in DETERIORATIONS) for f in range(24))
    assert set(counts) == set(DETERIORATIONS)
    assert min(counts.values()) > 5
    assert 0.4 < spoilt_frames / (40 * 24) < 0.8  # hard frames, and clean neighbours to borrow from


def test_a_deterioration_can_be_switched_off() -> None:
    off = dict.fromkeys(DETERIORATIONS, (0.0, 0.0))
    config = GeneratorConfig(**off)  # type: ignore[arg-type]
    assert all(not s.any() for number in range(5) for s in draw_scene(config, 0, number).strengths.values())


def test_lookalikes_are_told_apart_when_sharp_and_not_when_blurred() -> None:
    """Only texture tells classes 1 and 2 (and 3 and 4) apart, and texture is what a defocused frame loses."""

    def inner_contrast(label: int, strength: float) -> float:
        scene = calm(label - 1, radius=(0.18, 0.18))
        rendered = render(spoilt(scene, "defocus", strength), 4)
        x1, y1, x2, y2 = rendered.boxes[0].astype(int)
        grey = cv2.cvtColor(rendered.image, cv2.COLOR_RGB2GRAY)[y1 + 8 : y2 - 7, x1 + 8 : x2 - 7].astype(float)
        return float((grey - cv2.GaussianBlur(grey, (0, 0), 6)).std())

    for label in (1, 2, 3, 4):
        assert inner_contrast(label, 0.0) > 4 * inner_contrast(label, 0.9)
