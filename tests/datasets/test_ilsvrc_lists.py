"""The line forms of list files, the classes file, and the protocol's choice of frames."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from vodbench.errors import UserError
from vodbench_datasets.clips.choice import evenly_spaced
from vodbench_datasets.ilsvrc.classes import VID_CLASSES, parse_classes
from vodbench_datasets.ilsvrc.lists import Listed, parse_stills, parse_videos
from vodbench_datasets.ilsvrc.protocol import capped

TRAIN = "ILSVRC2015_VID_train_0000/ILSVRC2015_train_00000000"


def test_plain_snippet_ids() -> None:
    text = "otb_Dog_00\n\n  davis_cows_01  \n"
    assert parse_videos(text, "val", "val.txt") == [Listed("otb_Dog_00", "val"), Listed("davis_cows_01", "val")]


def test_train_15frames_names_frames_and_length() -> None:
    frames = tuple(range(10, 300, 20))
    text = "".join(f"train/{TRAIN} 1 {frame} 300\n" for frame in frames)
    assert parse_videos(text, "train", "l") == [Listed(TRAIN, "train", 300, frames)]


def test_val_videos_names_lengths() -> None:
    text = "val/ILSVRC2015_val_00000000 1 0 464\nval/ILSVRC2015_val_00000001 465 0 1\n"
    expected = [Listed("ILSVRC2015_val_00000000", "val", 464), Listed("ILSVRC2015_val_00000001", "val", 1)]
    assert parse_videos(text, "val", "l") == expected


def test_val_frames_is_the_same_snippets_whether_it_has_two_columns_or_four() -> None:
    two = "".join(f"val/s/{frame:06d} {frame + 1}\n" for frame in range(20))
    four = "".join(f"val/s/{frame:06d} {frame + 1} {frame} 20\n" for frame in range(20))
    assert parse_videos(two, "val", "l") == parse_videos(four, "val", "l") == [Listed("s", "val", 20)]


def test_some_frames_of_a_snippet_are_a_choice_and_its_length_stays_open() -> None:
    assert parse_videos("train/s/000003 1\ntrain/s/000009 2\n", "train", "l") == [Listed("s", "train", None, (3, 9))]


def test_snippets_keep_their_order_when_their_frames_are_mixed() -> None:
    text = "b 1 5 10\na 2 7 10\nb 3 6 10\n"
    assert parse_videos(text, "train", "l") == [Listed("b", "train", 10, (5, 6)), Listed("a", "train", 10, (7,))]


def test_stills() -> None:
    text = (
        "train/ILSVRC2013_train/n02691156/n02691156_10012 1\ntrain/ILSVRC2014_train_0006/ILSVRC2014_train_00060036 2\n"
    )
    ids = ["ILSVRC2013_train/n02691156/n02691156_10012", "ILSVRC2014_train_0006/ILSVRC2014_train_00060036"]
    assert parse_stills(text, "train", "l") == [Listed(id, "train", 1, still=True) for id in ids]


@pytest.mark.parametrize("parse", [parse_videos, parse_stills])
@pytest.mark.parametrize("text", ["", "\n  \n"])
def test_an_empty_list(parse: object, text: str) -> None:
    with pytest.raises(UserError, match=r"'val\.txt' is empty"):
        parse(text, "val", "val.txt")  # type: ignore[operator]


@pytest.mark.parametrize("line", ["s 1 2", "s one", "s 1 9 9", "s 1 -1 9", "s 1 2 3 4", "s 1.5 2 9"])
def test_a_line_of_no_known_form(line: str) -> None:
    with pytest.raises(UserError, match=r"list 'val\.txt' line 2: .*correct the line"):
        parse_videos(f"a 1 0 5\n{line}\n", "val", "val.txt")


@pytest.mark.parametrize("text", ["s\ns\n", "s 1 3 9\ns 2 3 9\n", "s\ns/000001 1\n", "s 1 2 9\ns 1 3 10\n"])
def test_a_snippet_or_frame_listed_twice(text: str) -> None:
    with pytest.raises(UserError, match="snippet 's'"):
        parse_videos(text, "val", "val.txt")


def test_a_still_listed_twice() -> None:
    with pytest.raises(UserError, match="line 2: image 'a/b' is listed twice"):
        parse_stills("a/b 1\na/b 2\n", "train", "l")


@pytest.mark.parametrize("path", ["../../etc", "/etc", "a/../../b"])
def test_a_path_that_leaves_the_root(path: str) -> None:
    with pytest.raises(UserError, match="leaves the data root"):
        parse_videos(path, "val", "val.txt")


def test_classes() -> None:
    classes = parse_classes("n02958343 car\n\nx giant panda\nplain\n", "classes.txt")
    assert [(c.id, c.name) for c in classes] == [("n02958343", "car"), ("x", "giant panda"), ("plain", "plain")]
    assert len({c.id for c in VID_CLASSES}) == len({c.name for c in VID_CLASSES}) == 30
    assert [c.name for c in VID_CLASSES] == sorted(c.name for c in VID_CLASSES)  # the published order is alphabetic


@pytest.mark.parametrize("text", ["", "\n", "a x\na y\n", "a x\nb x\n"])
def test_classes_that_cannot_be_told_apart(text: str) -> None:
    with pytest.raises(UserError, match=r"classes\.txt"):
        parse_classes(text, "classes.txt")


def test_evenly_spaced_frames_are_the_published_ones() -> None:
    assert evenly_spaced(300, 15) == list(range(10, 300, 20))  # VID_train_15frames on a snippet of 300
    assert evenly_spaced(7, 15) == list(range(7))
    for length in range(1, 400):
        frames = evenly_spaced(length, 15)
        assert len(frames) == min(length, 15)
        gaps = {b - a for a, b in pairwise(frames)}
        assert not gaps or (min(gaps) >= 1 and max(gaps) - min(gaps) <= 1)
        assert frames[0] >= 0
        assert frames[-1] < length
        # The margins at both ends agree: no end of the video is favoured.
        assert abs(frames[0] - (length - 1 - frames[-1])) <= 1


def test_capping_keeps_the_first_of_each_group() -> None:
    items = [(n, "ab"[n % 2] if n < 8 else "c") for n in range(10)]
    kept = list(capped(items, 3))
    assert kept == [0, 1, 2, 3, 4, 5, 8, 9]
    assert max(Counter(dict(items)[n] for n in kept).values()) == 3
    assert list(capped(items, 0)) == []
