"""Reading whole trees: local, in memory, as published, and broken in every way a user meets."""

from __future__ import annotations

import json
import pickle
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

import fsspec
import numpy as np
import pytest

from vodbench.data_source import DataSource
from vodbench.errors import UserError
from vodbench.images import decode, encode_jpeg
from vodbench.registry import dataset_spec
from vodbench_datasets.ilsvrc.reader import IlsvrcDataset
from vodbench_datasets.ilsvrc.tree import Tree

TRAIN = "ILSVRC2015_VID_train_0000/ILSVRC2015_train_00000000"
CAR, DOG, CAT = "n02958343", "n02084071", "n02121808"
JPEG = encode_jpeg(np.full((50, 100, 3), 90, np.uint8))


def xml(*classes: str, box: tuple[int, ...] = (10, 5, 40, 30)) -> bytes:
    corners = "".join(f"<{n}>{v}</{n}>" for n, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    objects = "".join(
        f"<object><trackid>{n}</trackid><name>{c}</name><bndbox>{corners}</bndbox></object>"
        for n, c in enumerate(classes)
    )
    return f"<annotation><size><width>100</width><height>50</height></size>{objects}</annotation>".encode()


def video(split: str, id: str, *frames: bytes) -> dict[str, bytes]:
    """Files of a snippet whose frames have these annotations."""
    files = {f"Annotations/VID/{split}/{id}/{n:06d}.xml": content for n, content in enumerate(frames)}
    return files | {f"Data/VID/{split}/{id}/{n:06d}.JPEG": JPEG for n in range(len(frames))}


def still(id: str, annotation: bytes) -> dict[str, bytes]:
    return {f"Annotations/DET/train/{id}.xml": annotation, f"Data/DET/train/{id}.JPEG": JPEG}


def write(root: str, files: Mapping[str, bytes]) -> str:
    fs, path = fsspec.core.url_to_fs(root)
    for name, content in files.items():
        fs.makedirs(f"{path}/{name}".rpartition("/")[0], exist_ok=True)
        fs.pipe_file(f"{path}/{name}", content)
    return root


SMALL = {
    **video("train", "a", xml(CAR), xml(), xml(CAR, DOG)),
    **video("val", "v", xml(DOG), xml(DOG)),
    "ImageSets/VID/train.txt": b"a\n",
    "ImageSets/VID/val.txt": b"v\n",
}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    write(str(tmp_path), SMALL)
    return tmp_path


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every path read from now on."""
    paths: list[str] = []
    read = Tree.read

    def counted(self: Tree, path: str) -> bytes:
        paths.append(path)
        return read(self, path)

    monkeypatch.setattr(Tree, "read", counted)
    return paths


# ---- what it reads ----


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_the_same_tree_from_any_url(scheme: str, tmp_path: Path) -> None:
    root = write(str(tmp_path) if scheme == "file" else f"memory://{uuid.uuid4().hex}/tree", SMALL)
    dataset = DataSource(root=root).open()
    assert dataset.name == "ilsvrc"
    assert dataset.splits == ("train", "val")
    assert [(s.id, s.num_frames, s.still) for s in dataset.snippets("train")] == [("a", 3, False)]
    frames = dataset.read("train", "a")
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert [frame.truth.labels.tolist() for frame in frames] == [[7], [], [7, 9]]  # car and dog among the 30
    assert frames[2].truth.track_ids.tolist() == [0, 1]
    assert frames[0].truth.boxes.tolist() == [[10, 5, 40, 30]]
    assert all(frame.encoded == JPEG and frame.snippet == "a" for frame in frames)
    # Every URL gives the same fingerprint, and so does a copy of the reader in another process.
    assert dataset.fingerprint == DataSource(root=write(str(tmp_path / "copy"), SMALL)).open().fingerprint
    assert pickle.loads(pickle.dumps(dataset)).fingerprint == dataset.fingerprint


def test_frames_come_in_the_order_asked_for_and_images_only_on_demand(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = IlsvrcDataset(str(small))
    assert [frame.index for frame in dataset.read("train", "a", [2, 0, 2])] == [2, 0, 2]
    paths = count_reads(monkeypatch)
    (frame,) = dataset.read("train", "a", [1], with_images=False)
    assert frame.encoded == b""
    assert paths == ["Annotations/VID/train/a/000001.xml"]


def test_published_lists_give_lengths_frames_and_stills_without_opening_an_annotation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [xml(CAR)] * 12
    aeroplane = "ILSVRC2013_train/n02691156/n02691156_10012"
    several = "ILSVRC2014_train_0006/ILSVRC2014_train_00060036"
    root = write(
        str(tmp_path),
        {
            **video("train", TRAIN, *frames[:7], xml(), *frames[8:]),
            **video("val", "ILSVRC2015_val_00000000", *frames),
            **still(aeroplane, xml("n02691156", "n00007846")),  # a person is no VID class: ignored
            **still(several, xml(DOG)),
            "ImageSets/VID/train.txt": b"".join(f"{TRAIN}/{n:06d} {n}\n".encode() for n in range(12)),
            "ImageSets/VID_train_15frames.txt": b"".join(f"train/{TRAIN} 1 {n} 12\n".encode() for n in (3, 7, 9)),
            "ImageSets/VID_val_videos.txt": b"val/ILSVRC2015_val_00000000 1 0 12\n",
            "ImageSets/DET_train_30classes.txt": f"train/{aeroplane} 1\ntrain/{several} 1\n".encode(),
        },
    )
    paths = count_reads(monkeypatch)
    dataset = IlsvrcDataset(root)
    listed = [(s.id, s.num_frames, s.still) for s in dataset.snippets("train")]
    assert listed == [(TRAIN, 12, False), (aeroplane, 1, True), (several, 1, True)]
    assert [(s.id, s.num_frames) for s in dataset.snippets("val")] == [("ILSVRC2015_val_00000000", 12)]
    assert not [path for path in paths if path.endswith((".xml", ".JPEG"))]
    # Frame 7 has no box; the list's own choice of frames holds.
    assert dataset.training_frames("train") == [(TRAIN, 3), (TRAIN, 9), (aeroplane, 0), (several, 0)]
    assert len([path for path in paths if path.endswith(".xml")]) == 5
    assert dataset.read("train", aeroplane)[0].truth.labels.tolist() == [1]


def test_the_papers_training_protocol(tmp_path: Path) -> None:
    stills = {f"x/{CAR if n % 2 else DOG}/i{n}": xml(CAR, DOG) for n in range(10)}
    stills["x/other/i10"] = xml(CAT)  # its folder is no class: it counts for its first object
    stills["x/other/i11"] = xml()
    root = write(
        str(tmp_path),
        {
            **video("train", "long", *[xml(CAR) if n % 4 else xml() for n in range(60)]),
            "ImageSets/VID/train.txt": b"long\n",
            "ImageSets/DET/DET_train_30classes.txt": "".join(f"train/{id} 1\n" for id in stills).encode(),
            **{name: content for id, annotation in stills.items() for name, content in still(id, annotation).items()},
        },
    )
    frames = IlsvrcDataset(root, det_images_per_class=3).training_frames("train")
    evenly = range(2, 60, 4)
    assert frames[:15] == [("long", index) for index in evenly]
    kept = [f"x/{CAR}/i{n}" for n in (1, 3, 5)] + [f"x/{DOG}/i{n}" for n in (0, 2, 4)] + ["x/other/i10"]
    assert sorted(frames[15:]) == sorted((id, 0) for id in kept)
    fewer = IlsvrcDataset(root, frames_per_snippet=30, det_images_per_class=0)
    assert fewer.training_frames("train") == [("long", n) for n in range(1, 60, 2)]  # every fourth is empty and even
    assert [s.id for s in fewer.snippets("train")] == ["long"]


def test_other_frame_names_and_image_kinds(tmp_path: Path) -> None:
    files = {f"Annotations/VID/val/s/{name}.xml": xml(CAR) for name in ("f10", "f11")}
    files |= {f"Data/VID/val/s/{name}.jpg": JPEG for name in ("f11", "f10")} | {"Data/VID/val/s/notes.txt": b""}
    root = write(str(tmp_path), {**files, "ImageSets/VID/val.txt": b"s\n"})
    dataset = IlsvrcDataset(root)
    assert dataset.snippets("val")[0].num_frames == 2
    assert [frame.index for frame in dataset.read("val", "s")] == [0, 1]


def test_classes_come_from_the_tree(small: Path) -> None:
    (small / "classes.txt").write_text(f"{DOG} hound\n{CAR} car\n")
    dataset = IlsvrcDataset(str(small))
    assert [c.name for c in dataset.classes] == ["hound", "car"]
    assert dataset.read("train", "a", [2])[0].truth.labels.tolist() == [2, 1]


def test_lists_can_be_named(small: Path) -> None:
    write(str(small), {"ImageSets/VID/mine.txt": b"val/v\n"})
    dataset = IlsvrcDataset(str(small), train_list="mine.txt")
    assert [s.id for s in dataset.snippets("train")] == ["v"]  # a line may name its split's folder
    with pytest.raises(UserError, match=r"no list 'yours\.txt'"):
        IlsvrcDataset(str(small), val_list="yours.txt")


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("Annotations/VID/train/a/000001.xml", xml(DOG)),
        ("ImageSets/VID/val.txt", b"v\na\n"),
        ("classes.txt", f"{CAR} car\n{DOG} dog\n".encode()),
        ("Deteriorations/VID/val/v.json", b'{"000000": {"defocus": 0.5}}'),
    ],
)
def test_the_fingerprint_follows_the_content(small: Path, path: str, content: bytes) -> None:
    write(str(small), video("val", "a", xml(CAR)))
    before = IlsvrcDataset(str(small)).fingerprint
    assert IlsvrcDataset(str(small)).fingerprint == before
    write(str(small), {path: content})
    assert IlsvrcDataset(str(small)).fingerprint != before


def test_the_fingerprint_follows_what_is_trained_on(small: Path) -> None:
    assert IlsvrcDataset(str(small), frames_per_snippet=2).fingerprint != IlsvrcDataset(str(small)).fingerprint


def test_records_of_deteriorations_reach_the_frames(small: Path) -> None:
    record = {"000001": {"motion_blur": 0.5, "occlusion": 1}}
    write(str(small), {"Deteriorations/VID/train/a.json": json.dumps(record).encode()})
    dataset = IlsvrcDataset(str(small))
    assert [dict(frame.deteriorations) for frame in dataset.read("train", "a")] == [{}, record["000001"], {}]
    assert dataset.read("val", "v")[0].deteriorations == {}
    for bad in ("[]", "{", '{"000001": {"defocus": 2}}', '{"000001": 1}'):
        write(str(small), {"Deteriorations/VID/train/a.json": bad.encode()})
        with pytest.raises(UserError, match=r"a\.json"):
            IlsvrcDataset(str(small)).read("train", "a")


def test_real_video(shared: Path) -> None:
    dataset = DataSource(root=str(shared / "data" / "realvid")).open()
    assert [len(dataset.snippets(split)) for split in ("train", "val")] == [23, 17]
    assert len(dataset.classes) == 7
    assert dataset.classes[4].name == "person"
    frames = [
        (split, frame)
        for split in dataset.splits
        for snippet in dataset.snippets(split)
        for frame in dataset.read(split, snippet.id, with_images=False)
    ]
    assert len(frames) == 1682
    assert sum(len(frame.truth.boxes) for _, frame in frames) == 2037
    assert sum(not len(frame.truth.boxes) for _, frame in frames) == 63
    for split in dataset.splits:
        training = dataset.training_frames(split)  # type: ignore[attr-defined]
        empty = {(f.snippet, f.index) for s, f in frames if s == split and not len(f.truth.boxes)}
        assert training
        assert not empty & set(training)
        snippet = dataset.snippets(split)[0]
        (frame,) = dataset.read(split, snippet.id, [snippet.num_frames - 1])
        height, width = decode(frame.encoded, snippet.id).shape[:2]
        assert (frame.truth.boxes <= [width - 1, height - 1, width - 1, height - 1]).all()


# ---- what it refuses ----


def test_a_missing_root(tmp_path: Path) -> None:
    for source in (DataSource(root=str(tmp_path / "no")), DataSource(root=str(tmp_path / "no"), kind="ilsvrc")):
        with pytest.raises(UserError, match=r"no' does not exist"):
            source.open()


def test_an_empty_root(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is empty: it lacks Annotations and Data"):
        DataSource(root=str(tmp_path), kind="ilsvrc").open()
    with pytest.raises(UserError, match="holds nothing that a data set recognises"):
        DataSource(root=str(tmp_path)).open()
    assert not dataset_spec("ilsvrc").accepts(str(tmp_path))


def test_a_root_without_lists(small: Path) -> None:
    shutil.rmtree(small / "ImageSets")
    with pytest.raises(UserError, match="has no list of snippets"):
        IlsvrcDataset(str(small))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames_per_snipet": 3}, "did you mean 'frames_per_snippet'"),
        ({"frames_per_snippet": 0}, "frames_per_snippet is 0"),
        ({"frames_per_snippet": "15"}, "frames_per_snippet is '15'"),
        ({"det_images_per_class": -1}, "det_images_per_class is -1"),
        ({"det_images_per_class": True}, "det_images_per_class is True"),
        ({"skip_bad": 1}, "skip_bad is 1"),
    ],
)
def test_options(small: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        IlsvrcDataset(str(small), **options)


def test_an_unknown_split_snippet_or_frame(small: Path) -> None:
    dataset = IlsvrcDataset(str(small))
    with pytest.raises(UserError, match="unknown split 'vall': did you mean 'val'"):
        dataset.snippets("vall")
    with pytest.raises(UserError, match="unknown snippet 'w'"):
        dataset.read("val", "w")
    for index in (-1, 2):
        with pytest.raises(UserError, match=f"has no frame {index}; give 0 to 1"):
            dataset.read("val", "v", [index])


@pytest.mark.parametrize(
    ("kind", "line"),
    [("VID/val.txt", b"v\nw\n"), ("VID_val_videos.txt", b"val/w 1 0 9\n"), ("VID/val.txt", b"x/y/v\n")],
)
def test_a_listed_snippet_that_is_not_in_the_tree(small: Path, kind: str, line: bytes) -> None:
    write(str(small), {f"ImageSets/{kind}": line})
    with pytest.raises(UserError, match=r"lists the snippet '(w|x/y/v)', which is not in"):
        IlsvrcDataset(str(small)).snippets("val")


def test_a_listed_still_that_is_not_in_the_tree(small: Path) -> None:
    write(str(small), {"ImageSets/DET_train_30classes.txt": b"train/a/b 1\n", **still("a/c", xml(CAR))})
    with pytest.raises(UserError, match=r"lists the image 'a/b', which is not in .*accepted: c"):
        IlsvrcDataset(str(small)).snippets("train")


def test_a_snippet_without_images(small: Path) -> None:
    for image in (small / "Data/VID/val/v").iterdir():
        image.unlink()
    with pytest.raises(UserError, match=r"VID/val/v' holds no image"):
        IlsvrcDataset(str(small)).snippets("val")


BROKEN = {
    "Annotations/VID/train/a/000001.xml": (
        ("no size", b"<annotation/>"),
        ("well-formed", b"<annotation>"),
        ("outside the 100 x 50 image", xml(CAR, box=(10, 5, 400, 30))),
        ("no area", xml(CAR, box=(10, 5, 10, 30))),
        ("does not name", xml("n99999999")),
        ("does not exist", None),
    ),
    "Data/VID/train/a/000001.JPEG": (
        ("truncated", JPEG[:-40]),
        ("does not decode", b"no image"),
        ("is empty|an empty", b""),
    ),
}
CASES = [(path, message, content) for path, cases in BROKEN.items() for message, content in cases]


def break_file(root: Path, path: str, content: bytes | None) -> None:
    (root / path).unlink() if content is None else (root / path).write_bytes(content)


@pytest.mark.parametrize(("path", "message", "content"), CASES)
def test_a_broken_file_is_named(small: Path, path: str, message: str, content: bytes | None) -> None:
    break_file(small, path, content)
    dataset = IlsvrcDataset(str(small))
    with pytest.raises(UserError, match=message.replace("no size", "no <size>")) as caught:
        [decode(f.encoded, f"{f.snippet}/{f.index:06d}.JPEG") for f in dataset.read("train", "a")]
    assert path.rpartition("/")[2] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("path", "message", "content"), CASES)
def test_skip_bad_leaves_the_frame_out_and_says_so(small: Path, path: str, message: str, content: bytes | None) -> None:
    break_file(small, path, content)
    dataset = IlsvrcDataset(str(small), skip_bad=True)
    assert dataset.snippets("train")[0].num_frames == 2
    assert [(f.index, f.truth.labels.tolist()) for f in dataset.read("train", "a")] == [(0, [7]), (1, [7, 9])]
    assert dataset.training_frames("train") == [("a", 0), ("a", 1)]
    assert list(dataset.skipped) == ["Data/VID/train/a/000001.JPEG"]
    assert path.rpartition("/")[2] in dataset.skipped["Data/VID/train/a/000001.JPEG"]
    assert dataset.fingerprint != IlsvrcDataset(write(str(small / "whole"), SMALL)).fingerprint


def test_skip_bad_leaves_out_missing_snippets_and_those_without_a_good_frame(small: Path) -> None:
    write(str(small), {"ImageSets/VID/val.txt": b"v\ngone\nruin\n", **video("val", "ruin", b"<")})
    dataset = IlsvrcDataset(str(small), skip_bad=True)
    assert [s.id for s in dataset.snippets("val")] == ["v"]
    assert set(dataset.skipped) == {"Data/VID/val/gone", "Data/VID/val/ruin/000000.JPEG"}


def test_skip_bad_changes_nothing_where_nothing_is_bad(small: Path) -> None:
    checked, plain = IlsvrcDataset(str(small), skip_bad=True), IlsvrcDataset(str(small))
    assert checked.fingerprint == plain.fingerprint
    assert not checked.skipped
    assert checked.training_frames("train") == plain.training_frames("train") == [("a", 0), ("a", 2)]
