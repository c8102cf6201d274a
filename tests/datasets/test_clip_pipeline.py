"""Clips as they reach a trainer, snippets as they reach an evaluation worker: the same as a plain loop reads."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vodbench.cluster import start_ray, stop_ray
from vodbench.data_source import DataSource
from vodbench.errors import UserError
from vodbench.images import decode
from vodbench.spec import Clip, ClipFrame, ClipSpec, SnippetInfo
from vodbench_datasets.clips.blocks import decode_block, read_block
from vodbench_datasets.clips.pipeline import plan_of
from vodbench_datasets.clips.plan import ClipPlan
from vodbench_datasets.clips.runs import error_run, frame_runs, frames_of, read_run
from vodbench_datasets.generated import GeneratorConfig, generate
from vodbench_datasets.shards import Shards, open_shards, write_shards

SPEC = ClipSpec(num_supports=2, offset_low=-3, offset_high=3)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    folder = tmp_path_factory.mktemp("clips")
    generate(str(folder / "tree"), GeneratorConfig(snippets=3, val_snippets=1, frames=6, size=64), workers=1)
    write_shards(DataSource(root=str(folder / "tree")).open(), str(folder / "shards"), shard_bytes=20_000)  # type: ignore[arg-type]
    return open_shards(str(folder / "shards"))


def plain_loop(dataset: Shards, plan: ClipPlan, numbers: range) -> Iterator[Clip]:
    """The reference: no Arrow, no Ray, one frame at a time."""
    for number in numbers:
        planned = plan[number]
        frames = [dataset.read("train", planned.snippet, [index])[0] for index in planned.indices]
        first, *rest = [ClipFrame(frame.index, decode(frame.encoded, "x"), frame.truth) for frame in frames]
        yield Clip(number, planned.snippet, first, tuple(rest), planned.flip)


def assert_same(left: Clip, right: Clip) -> None:
    assert (left.number, left.snippet, left.flip) == (right.number, right.snippet, right.flip)
    frames = [(clip.reference, *clip.supports) for clip in (left, right)]
    for a, b in zip(*frames, strict=True):
        assert a.index == b.index
        assert np.array_equal(a.image, b.image)
        for name in ("boxes", "labels", "track_ids", "occluded", "generated"):
            mine, theirs = getattr(a.truth, name), getattr(b.truth, name)
            assert mine.dtype == theirs.dtype
            assert np.array_equal(mine, theirs)


@pytest.mark.parametrize("spec", [SPEC, ClipSpec()])
def test_a_block_decodes_to_what_a_plain_loop_reads(shards: Shards, spec: ClipSpec) -> None:
    plan = plan_of(shards, spec, split="train", seed=5)
    table = read_block(shards, "train", [plan[number] for number in range(40)])
    clips = list(decode_block(table))
    assert len(clips) == 40
    for clip, expected in zip(clips, plain_loop(shards, plan, range(40)), strict=True):
        assert_same(clip, expected)
    (part,) = [list(decode_block(table.slice(17, 3)))]  # Ray Data may hand over part of a block
    assert [clip.number for clip in part] == [17, 18, 19]
    assert_same(part[0], clips[17])


def test_a_plan_that_cannot_be_made_is_refused_before_anything_starts(shards: Shards) -> None:
    with pytest.raises(UserError, match="cannot be drawn"):
        shards.training_clips(
            ClipSpec(num_supports=9, offset_low=-1, offset_high=1), split="train", seed=0, start=0, stop=1
        )
    with pytest.raises(UserError, match="unknown split 'tset'"):
        shards.training_clips(SPEC, split="tset", seed=0, start=0, stop=1)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    """Videos and stills, and videos whose first three frames lost their boxes."""
    tree = tmp_path_factory.mktemp("mixed")
    generate(str(tree / "tree"), GeneratorConfig(snippets=2, val_snippets=1, stills=3, frames=6, size=64), workers=1)
    for file in (tree / "tree/Annotations/VID/train").rglob("00000[012].xml"):
        file.write_text(re.sub(r"\t<object>.*</object>\n", "", file.read_text(), flags=re.DOTALL))
    write_shards(DataSource(root=str(tree / "tree")).open(), str(tree / "shards"))  # type: ignore[arg-type]
    return open_shards(str(tree / "shards"))


@pytest.mark.parametrize(
    ("frames", "visited"),
    [
        ("all", {("generated_train", 3), ("generated_train", 4), ("generated_train", 5), ("generated_still", 0)}),
        ("stills", {("generated_still", 0)}),
        ("videos", {("generated_train", 3), ("generated_train", 4), ("generated_train", 5)}),
        ("unlabelled", {("generated_train", index) for index in range(6)}),
    ],
)
def test_a_stage_says_which_frames_it_visits(mixed: Shards, frames: str, visited: set[tuple[str, int]]) -> None:
    plan = plan_of(mixed, ClipSpec(frames=frames), split="train", seed=0)
    epoch = [plan[number] for number in range(len(plan))]  # type: ignore[arg-type]
    assert {(clip.snippet[:15], clip.reference) for clip in epoch} == visited
    assert len({(clip.snippet, clip.reference) for clip in epoch}) == len(epoch)


def test_unlabelled_clips_carry_no_annotation(mixed: Shards) -> None:
    spec = ClipSpec(num_supports=1, offset_low=-2, offset_high=2, frames="unlabelled")
    plan = plan_of(mixed, spec, split="train", seed=0)
    planned = [plan[number] for number in range(12)]
    clips = list(decode_block(read_block(mixed, "train", planned, labels=False)))
    annotated = list(decode_block(read_block(mixed, "train", planned)))
    assert any(len(clip.reference.truth.boxes) for clip in annotated)
    for clip, other in zip(clips, annotated, strict=True):
        for frame, with_truth in zip((clip.reference, *clip.supports), (other.reference, *other.supports), strict=True):
            assert np.array_equal(frame.image, with_truth.image)
            assert len(frame.truth.boxes) == len(frame.truth.labels) == len(frame.truth.track_ids) == 0


def test_frames_that_the_data_do_not_have_are_refused_before_anything_starts(shards: Shards, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no still image with a box; add ImageNet DET"):
        shards.training_clips(ClipSpec(frames="stills"), split="train", seed=0, start=0, stop=0)
    generate(str(tmp_path), GeneratorConfig(snippets=0, val_snippets=1, stills=2, frames=2, size=64), workers=1)
    only_stills = DataSource(root=str(tmp_path)).open()
    for frames in ("videos", "unlabelled"):
        with pytest.raises(UserError, match="has no video"):
            only_stills.training_clips(ClipSpec(frames=frames), split="train", seed=0, start=0, stop=0)
    with pytest.raises(UserError, match="unknown choice of training frames 'still': did you mean 'stills'"):
        ClipSpec(frames="still")
    with pytest.raises(UserError, match="groups"):
        ClipSpec(frames="unlabelled", categories=2, videos=2)


def test_an_unknown_snippet_is_refused_before_anything_starts(shards: Shards) -> None:
    with pytest.raises(UserError, match="unknown snippet 'nobody'"):
        shards.snippet_frames("train", ["nobody"])


@pytest.mark.parametrize("size", [1, 4, 7, 100])
def test_runs_hold_every_frame_once_and_in_order(size: int) -> None:
    infos = [SnippetInfo(name, frames) for name, frames in (("a", 3), ("b", 0), ("c", 9), ("d", 1), ("e", 1), ("f", 8))]
    runs = frame_runs(infos, size)
    assert [(s, i) for run in runs for s, indices in run.parts for i in indices] == [
        (info.id, i) for info in infos for i in range(info.num_frames)
    ]
    assert all(0 < len(run) <= size for run in runs)


def test_a_run_becomes_the_frames_it_was_read_from(shards: Shards) -> None:
    info = shards.snippets("train")[0]
    (run,) = frame_runs([info])
    frames = list(frames_of(read_run(shards, "train", run)))
    for frame, other in zip(frames, shards.read("train", info.id), strict=True):
        assert (frame.snippet, frame.index, frame.encoded) == (other.snippet, other.index, other.encoded)
        assert np.array_equal(frame.truth.boxes, other.truth.boxes)
    with pytest.raises(UserError, match="broken"):
        list(frames_of(error_run(UserError("broken"))))


def test_no_clips_need_no_ray(shards: Shards) -> None:
    assert list(shards.training_clips(SPEC, split="train", seed=0, start=5, stop=5)) == []
    assert list(shards.snippet_frames("train", [])) == []


@pytest.fixture(scope="module")
def running_ray() -> Iterator[None]:
    start_ray(num_cpus=1)
    yield
    stop_ray()


@pytest.mark.slow
@pytest.mark.usefixtures("running_ray")
class TestThroughRay:
    """One embedded Ray of one CPU for all of them."""

    @pytest.mark.parametrize(("start", "rank", "world"), [(0, 0, 1), (37, 0, 1), (0, 1, 2), (30, 2, 3)])
    def test_clips_equal_a_plain_loop(self, shards: Shards, start: int, rank: int, world: int) -> None:
        clips = list(shards.training_clips(SPEC, split="train", seed=3, start=start, stop=150, rank=rank, world=world))
        numbers = range(start + (rank - start) % world, 150, world)
        expected = plain_loop(shards, plan_of(shards, SPEC, split="train", seed=3), numbers)
        for clip, other in zip(clips, expected, strict=True):
            assert_same(clip, other)

    def test_unlabelled_clips_arrive_without_annotation(self, mixed: Shards) -> None:
        found = {}
        for frames in ("videos", "unlabelled"):
            clips = list(mixed.training_clips(ClipSpec(frames=frames), split="train", seed=0, start=0, stop=12))
            found[frames] = [len(clip.reference.truth.boxes) for clip in clips]
        assert min(found["videos"]) > 0
        assert found["unlabelled"] == [0] * 12

    def test_a_long_demand_is_several_runs_in_one_order(self, shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("vodbench_datasets.clips.pipeline._CHUNKS_A_RUN", 2)
        clips = shards.training_clips(SPEC, split="train", seed=0, start=0, stop=150)
        assert [clip.number for clip in clips] == list(range(150))

    def test_whole_snippets_come_in_order(self, shards: Shards) -> None:
        """Every frame of every snippet, as a plain loop reads them; several Ray Data runs, several frames a task."""
        wanted = [info.id for info in shards.snippets("train")][::-1]
        frames = list(shards.snippet_frames("train", wanted, world=2))
        plain = [frame for snippet in wanted for frame in shards.read("train", snippet)]
        assert [(f.snippet, f.index) for f in frames] == [(f.snippet, f.index) for f in plain]
        for frame, other in zip(frames, plain, strict=True):
            assert frame.encoded == other.encoded
            assert np.array_equal(frame.truth.boxes, other.truth.boxes)
            assert frame.deteriorations == other.deteriorations

    def test_an_evaluation_pass_equals_one_without_ray(self, shards: Shards, tmp_path: Path) -> None:
        """Two workers, fed by Ray Data; three configurations that share each frame's encoding."""
        from vodbench.checkpoints import Checkpoint, save_checkpoint
        from vodbench.detections import read_detections
        from vodbench.registry import method_spec
        from vodbench.streaming import detect_configs, detect_split

        spec = method_spec("rdn")
        config = spec.config.from_mapping(spec.presets["tiny"])
        torch.manual_seed(0)
        method: Any = spec.build(config, len(shards.classes))
        url = str(tmp_path / "model.pt")
        save_checkpoint(
            url,
            Checkpoint(
                method="rdn",
                config=config,
                classes=shards.classes,
                weights=method.state_dict(),
                fingerprint="weights",
                stage="advanced",
                data_fingerprint="none",
                seed=0,
                revision="test",
            ),
        )
        source = DataSource(root=shards.root)
        configs = [config.replace(T=1), config.replace(T=2, K=5), config.replace(r=100.0)]
        outs = [str(tmp_path / f"{n}.parquet") for n in range(len(configs))]
        detect_configs(url, list(zip(configs, outs, strict=True)), source, "train", workers=2)
        for config, out in zip(configs, outs, strict=True):
            alone = detect_split(url, config, source, "train", str(tmp_path / "alone.parquet"))
            together = read_detections(out)
            assert together.provenance == alone.provenance
            assert together.snippet_ids == alone.snippet_ids
            assert len(together.scores) > 0
            for name in ("snippet", "frame", "offsets", "boxes", "scores", "labels"):
                assert np.array_equal(getattr(together, name), getattr(alone, name)), name

    def test_it_can_be_left_early(self, shards: Shards) -> None:
        clips = shards.training_clips(SPEC, split="train", seed=0, start=0, stop=10**7)
        assert [clip.number for clip in islice(clips, 3)] == [0, 1, 2]
        clips.close()  # type: ignore[attr-defined]
        assert not any(thread.name == "vodbench-prefetch" for thread in threading.enumerate())

    def test_it_works_when_training_holds_every_cpu(self, shards: Shards) -> None:
        import ray

        @ray.remote(num_cpus=1)
        class Trainer:
            def numbers(self, dataset: Shards) -> list[int]:
                spec = ClipSpec(num_supports=1, offset_low=-1, offset_high=1)
                return [clip.number for clip in dataset.training_clips(spec, split="train", seed=0, start=0, stop=70)]

        trainer = Trainer.remote()
        assert ray.get(trainer.numbers.remote(shards), timeout=300) == list(range(70))
        ray.kill(trainer)

    def test_a_damaged_frame_is_one_clear_line(self, shards: Shards, tmp_path: Path) -> None:
        copy = tmp_path / "shards"
        copy.mkdir()
        for file in Path(shards.root).iterdir():
            data = bytearray(file.read_bytes())
            if file.suffix == ".parquet":
                data[len(data) // 3] ^= 1
            (copy / file.name).write_bytes(bytes(data))
        damaged = open_shards(str(copy))
        snippets = [info.id for info in damaged.snippets("train")]
        for read in (
            lambda: damaged.training_clips(SPEC, split="train", seed=0, start=0, stop=100),
            lambda: damaged.snippet_frames("train", snippets),
        ):
            with pytest.raises(UserError) as caught:
                list(read())
            message = str(caught.value)
            assert message.startswith("shard '")
            assert "vodbench data verify" in message
            assert "\n" not in message
