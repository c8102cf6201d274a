"""Exact flow on its way from the generator through trees, shards and Ray Data to a training clip."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vodbench.cluster import start_ray, stop_ray
from vodbench.data_source import DataSource
from vodbench.errors import UserError
from vodbench.spec import ClassInfo, Clip, ClipSpec, Frame, SnippetInfo, Truth
from vodbench_datasets.clips.blocks import decode_block, read_block
from vodbench_datasets.clips.flow import carries_motion
from vodbench_datasets.clips.pipeline import RayClips, plan_of
from vodbench_datasets.generated import GeneratorConfig, generate
from vodbench_datasets.generated.scene import draw_scene, render
from vodbench_datasets.motion import flow_between
from vodbench_datasets.shards import Shards, load_index, open_shards, verify_shards, write_shards
from vodbench_datasets.tools import generator_config

CONFIG = GeneratorConfig(snippets=3, val_snippets=1, frames=6, size=64)
SHARD = "train-00000.parquet"
SPEC = ClipSpec(num_supports=3, offset_low=-3, offset_high=3, flow=True)  # at the ends a frame is its own support


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("flow") / "tree"
    generate(str(root), CONFIG, workers=1)
    return root


@pytest.fixture(scope="module")
def still_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("flow") / "still"
    generate(str(root), replace(CONFIG, flow=False), workers=1)
    return root


@pytest.fixture(scope="module")
def shards(tree: Path) -> Shards:
    write_shards(opened(tree), str(tree.parent / "shards"), shard_bytes=20_000)
    return open_shards(str(tree.parent / "shards"))


def opened(root: Path | str) -> Any:
    return DataSource(root=str(root)).open()


def rendered_flow(clip: Clip, frame: int) -> np.ndarray:
    """Directly from the scene: no record, no tree, no shards."""
    drawn = draw_scene(CONFIG, 0, int(clip.snippet[-5:]))
    return flow_between(*(render(drawn, index).motion for index in (clip.reference.index, frame)))


def assert_exact(clips: Sequence[Clip]) -> None:
    zero = moving = 0
    for clip in clips:
        assert clip.reference.flow is None
        assert len(clip.supports) == SPEC.num_supports
        for support in clip.supports:
            assert support.flow is not None
            assert support.flow.dtype == np.float32
            np.testing.assert_array_equal(support.flow, rendered_flow(clip, support.index))
            zero += support.index == clip.reference.index
            moving += support.index != clip.reference.index
    assert zero > 0
    assert moving > len(clips)


# ---- tree and shards ----


def test_records_of_a_tree_and_its_shards_are_those_rendered(tree: Path, shards: Shards) -> None:
    for dataset in (opened(tree), shards):
        for stream, split in enumerate(("train", "val")):
            assert dataset.has_motion(split)
            for number, info in enumerate(dataset.snippets(split)):
                asked = [5, 0, 3, 3]
                records = dataset.motion(split, info.id, asked)
                drawn = draw_scene(CONFIG, stream, number)
                assert records == [render(drawn, index).motion.encode() for index in asked]
                assert dataset.motion(split, info.id, []) == []
    assert verify_shards(shards.root) == []


def test_frames_are_read_without_records_unless_these_are_asked_for(tree: Path, shards: Shards) -> None:
    for dataset in (opened(tree), shards):
        assert not any(frame.motion for frame in dataset.read("train", dataset.snippets("train")[0].id))


@pytest.mark.parametrize("index", [-1, 6])
def test_a_record_of_a_frame_that_is_not_there(tree: Path, shards: Shards, index: int) -> None:
    for dataset in (opened(tree), shards):
        with pytest.raises(UserError, match=f"has no frame {index}; give 0 to 5"):
            dataset.motion("train", dataset.snippets("train")[0].id, [index])


def test_a_missing_record_is_named(tree: Path, tmp_path: Path) -> None:
    shutil.copytree(tree, tmp_path / "tree")
    (tmp_path / "tree/Motion/VID/train/generated_train_00001/000002.motion").unlink()
    with pytest.raises(UserError, match=r"generated_train_00001/000002.motion' does not exist"):
        opened(tmp_path / "tree").motion("train", "generated_train_00001", [1, 2])


def test_motion_changes_neither_pictures_nor_annotations_nor_the_fingerprint(tree: Path, still_tree: Path) -> None:
    def files(root: Path) -> dict[str, bytes]:
        return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}

    moving, still = files(tree), files(still_tree)
    assert {name for name in moving if name not in still} == {name for name in moving if name.startswith("Motion/")}
    assert sum(name.startswith("Motion/") for name in moving) == 4 * 6
    assert {name for name in still if moving[name] != still[name]} == {"generator.json"}
    assert opened(tree).fingerprint == opened(still_tree).fingerprint


def test_a_tree_from_before_there_was_motion_stays_in_use(still_tree: Path, tmp_path: Path) -> None:
    shutil.copytree(still_tree, tmp_path / "tree")
    record = json.loads((still_tree / "generator.json").read_text())
    del record["flow"], record["liveliness"]
    (tmp_path / "tree/generator.json").write_text(json.dumps(record, indent=1) + "\n")
    generate(str(tmp_path / "tree"), CONFIG)
    assert not opened(tmp_path / "tree").has_motion("train")
    with pytest.raises(UserError, match="another configuration"):
        generate(str(tmp_path / "tree"), replace(CONFIG, liveliness=(0.1, 1.0)))
    with pytest.raises(UserError, match="another configuration"):  # made without, and asked for with it
        generate(str(still_tree), CONFIG)


# ---- shards ----


def test_shards_with_an_altered_record_are_found_out(shards: Shards, tmp_path: Path) -> None:
    shutil.copytree(shards.root, tmp_path / "shards")
    path = sorted((tmp_path / "shards").glob("train-*.parquet"))[0]
    table = pq.read_table(path)
    records = table.column("motion").to_pylist()
    records[1] = records[0]
    place = table.schema.get_field_index("motion")
    altered = table.set_column(place, table.schema.field(place), pa.array(records, pa.binary()))
    sink = io.BytesIO()
    pq.write_table(altered.replace_schema_metadata(pq.read_metadata(path).metadata), sink)
    path.write_bytes(sink.getvalue())
    (problem,) = verify_shards(str(tmp_path / "shards"))
    assert problem == f"{path.name}: generated_train_00000 frame 1: annotation altered"


def test_shards_with_and_without_motion_are_not_mixed_up(tree: Path, still_tree: Path, tmp_path: Path) -> None:
    write_shards(opened(still_tree), str(tmp_path / "shards"))
    assert not open_shards(str(tmp_path / "shards")).has_motion("train")
    with pytest.raises(UserError, match="holds shards of other data"):
        write_shards(opened(tree), str(tmp_path / "shards"))


class Source(RayClips):
    """What ``golden/shards_before_motion`` was written from, by the code before there were records of motion."""

    name, root, fingerprint, splits = "source", "nowhere", "f", ("train",)
    classes = (ClassInfo("n1", "cat"),)

    def snippets(self, split: str) -> list[SnippetInfo]:
        return [SnippetInfo("a", 18)]

    def training_frames(self, split: str) -> list[tuple[str, int]]:
        return [("a", 0), ("a", 17)]

    def read(
        self, split: str, snippet: str, indices: Sequence[int] | None = None, *, with_images: bool = True
    ) -> list[Frame]:
        return [self.frame(index) for index in (range(18) if indices is None else indices)]

    @staticmethod
    def frame(index: int) -> Frame:
        truth = Truth(
            boxes=np.array([[1, 2, 3, 4 + index]], np.float32),
            labels=np.array([1]),
            track_ids=np.array([index]),
            occluded=np.array([index % 2 == 0]),
            generated=np.array([False]),
        )
        return Frame("a", index, b"image %d" % index, truth, {"blur": 0.5} if index % 3 else {})


def test_older_shards_are_read_verified_and_continued(golden: Path, tmp_path: Path) -> None:
    root = tmp_path / "shards"
    shutil.copytree(golden / "shards_before_motion", root)
    before = {path.name: path.read_bytes() for path in root.iterdir()}
    assert verify_shards(str(root)) == []
    older = open_shards(str(root))
    for frame, expected in zip(older.read("train", "a"), Source().read("train", "a"), strict=True):
        assert (frame.index, frame.encoded, frame.motion) == (expected.index, expected.encoded, b"")
        assert frame.deteriorations == expected.deteriorations
        np.testing.assert_array_equal(frame.truth.boxes, expected.truth.boxes)
    assert not older.has_motion("train")
    write_shards(Source(), str(root))  # the same job: nothing is left to do
    write_shards(Source(), str(tmp_path / "now"))
    assert load_index(str(tmp_path / "now")).job == load_index(str(root)).job
    assert {path.name: path.read_bytes() for path in root.iterdir()} == before
    assert pq.read_schema(tmp_path / "now" / SHARD).names == pq.read_schema(root / SHARD).names


def test_an_older_run_that_was_interrupted_writes_its_shards_again(golden: Path, tmp_path: Path) -> None:
    """Its row groups hold 16 frames, and shards of one index are alike."""
    root = tmp_path / "shards"
    shutil.copytree(golden / "shards_before_motion", root)
    job = load_index(str(root)).job
    (root / "index.json").unlink()
    (root / "incomplete.json").write_text(f'{{"kind":"vodbench-shards","version":1,"job":"{job}"}}\n')
    write_shards(Source(), str(root))
    write_shards(Source(), str(tmp_path / "now"))
    assert load_index(str(root)).group_frames == 4
    written, expected = (
        {path.name: path.read_bytes() for path in folder.iterdir()} for folder in (root, tmp_path / "now")
    )
    assert written == expected


# ---- clips ----


def test_a_clip_carries_the_flow_of_its_supports(tree: Path, shards: Shards) -> None:
    for dataset in (opened(tree), shards):
        plan = plan_of(dataset, SPEC, split="train", seed=0)
        table = read_block(dataset, "train", [plan[number] for number in range(20)], flow=True)
        assert_exact(list(decode_block(table)))
        (part,) = decode_block(table.slice(7, 1))  # Ray Data may hand over part of a block
        assert_exact([next(decode_block(table.slice(0, 1))), part, *decode_block(table.slice(8, 8))])


def test_clips_without_flow_carry_no_record(tree: Path, shards: Shards) -> None:
    spec = replace(SPEC, flow=False)
    for dataset in (opened(tree), shards):
        table = read_block(dataset, "train", [plan_of(dataset, spec, split="train", seed=0)[0]])
        records = table.column("frames").combine_chunks().values.field("motion")
        assert records.null_count == len(records) > 1
        (clip,) = decode_block(table)
        assert [frame.flow for frame in (clip.reference, *clip.supports)] == [None] * 4


def test_a_damaged_record_names_its_frame(shards: Shards) -> None:
    planned = plan_of(shards, SPEC, split="train", seed=0)[0]

    class Damaged(Shards):
        def motion(self, split: str, snippet: str, indices: Sequence[int]) -> list[bytes]:
            return [b"not a record" for _ in indices]

    with pytest.raises(UserError, match=rf"'{planned.snippet}, frame {planned.reference}' is no record of motion"):
        list(decode_block(read_block(Damaged(shards.root), "train", [planned], flow=True)))


def test_flow_of_data_without_it_is_refused_at_once(still_tree: Path, golden: Path) -> None:
    for dataset in (opened(still_tree), open_shards(str(golden / "shards_before_motion")), Source()):
        assert not carries_motion(dataset, "train")
        with pytest.raises(UserError, match=r"split 'train' of '.+' carries no ground-truth flow; use generated video"):
            dataset.training_clips(SPEC, split="train", seed=0, start=0, stop=10)


def test_still_images_beside_generated_video_have_no_flow(tree: Path, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    shutil.copytree(tree, root)
    for folder, suffix in (("Data", "JPEG"), ("Annotations", "xml")):
        (root / folder / "DET/train").mkdir(parents=True)
        source = root / folder / f"VID/train/generated_train_00000/000000.{suffix}"
        shutil.copy(source, root / folder / f"DET/train/image.{suffix}")
    (root / "ImageSets/DET").mkdir()
    (root / "ImageSets/DET/DET_train_30classes.txt").write_text("image 1\n")
    assert not opened(root).has_motion("train")
    assert opened(root).has_motion("val")
    with pytest.raises(UserError, match="carries no ground-truth flow"):
        opened(root).training_clips(SPEC, split="train", seed=0, start=0, stop=1)


def test_flow_without_supports_is_refused() -> None:
    with pytest.raises(UserError, match="flow of clips without support frames"):
        ClipSpec(flow=True)


def test_the_setting_is_a_flag() -> None:
    assert generator_config({"flow": False}).flow is False
    with pytest.raises(UserError, match="flow is 1; give true or false"):
        generator_config({"flow": 1})


@pytest.fixture(scope="module")
def running_ray() -> Iterator[None]:
    start_ray(num_cpus=1)
    yield
    stop_ray()


@pytest.mark.slow
@pytest.mark.usefixtures("running_ray")
def test_flow_through_ray(tree: Path, shards: Shards) -> None:
    for dataset in (opened(tree), shards):
        clips = list(dataset.training_clips(SPEC, split="train", seed=1, start=3, stop=40))
        assert [clip.number for clip in clips] == list(range(3, 40))
        assert_exact(clips)
        assert {clip.flip for clip in clips} == {False, True}  # flow is of the clip as stored, whatever the flip
