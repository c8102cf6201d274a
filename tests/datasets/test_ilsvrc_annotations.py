"""One annotation file: what it means, and every way in which it can be wrong."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from vodbench.errors import UserError
from vodbench_datasets.ilsvrc.annotations import parse_annotation, to_truth

LABELS = {"n02958343": 1, "n02084071": 2}
WHERE = "tree/Annotations/VID/val/s/000003.xml"


def annotation(*objects: str, size: str = "<width>100</width><height>50</height>") -> bytes:
    return f"<annotation><size>{size}</size>{''.join(objects)}</annotation>".encode()


def an_object(box: tuple[object, ...] = (10, 5, 40, 30), name: str = "n02958343", rest: str = "") -> str:
    x1, y1, x2, y2 = box
    corners = f"<xmax>{x2}</xmax><xmin>{x1}</xmin><ymax>{y2}</ymax><ymin>{y1}</ymin>"  # the order of published files
    return f"<object><name>{name}</name><bndbox>{corners}</bndbox>{rest}</object>"


def test_agrees_with_a_plain_reading_of_the_same_file() -> None:
    flags = "<trackid>{}</trackid><occluded>{}</occluded><generated>{}</generated>"
    xml = annotation(
        an_object(rest=flags.format(7, 1, 0)), an_object((0, 0, 99, 49), "n02084071", flags.format(2, 0, 1))
    )
    truth = to_truth(parse_annotation(xml, WHERE), LABELS, WHERE, ignore_others=False)
    elements = ET.fromstring(xml).findall("object")
    for row, element in enumerate(elements):
        corners = [float(element.findtext(f"bndbox/{n}", "")) for n in ("xmin", "ymin", "xmax", "ymax")]
        np.testing.assert_array_equal(truth.boxes[row], corners)
        assert truth.labels[row] == LABELS[element.findtext("name", "")]
        assert truth.track_ids[row] == int(element.findtext("trackid", ""))
        assert truth.occluded[row] == (element.findtext("occluded") == "1")
        assert truth.generated[row] == (element.findtext("generated") == "1")
    assert truth.boxes.dtype == np.float32
    assert truth.labels.dtype == truth.track_ids.dtype == np.int64


def test_no_object_is_an_empty_truth() -> None:
    truth = to_truth(parse_annotation(annotation(), WHERE), LABELS, WHERE, ignore_others=False)
    assert truth.boxes.shape == (0, 4)
    assert truth.labels.shape == truth.track_ids.shape == truth.occluded.shape == truth.generated.shape == (0,)


def test_still_images_name_no_tracks_so_position_stands_in() -> None:
    objects = parse_annotation(annotation(an_object(), an_object()), WHERE)
    assert [(o.track_id, o.occluded, o.generated) for o in objects] == [(0, False, False), (1, False, False)]


def test_corners_one_pixel_past_the_edge_are_moved_onto_it() -> None:
    (found,) = parse_annotation(annotation(an_object((-1, 0, 100, 50))), WHERE)
    assert found.box == (0, 0, 99, 49)


@pytest.mark.parametrize(
    "box", [(10, 5, 101, 30), (10, 5, 40, 51), (-2, 5, 40, 30), (10, -2, 40, 30), (120, 5, 140, 30)]
)
def test_a_box_outside_the_image(box: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"000003\.xml, object 0.*outside the 100 x 50 image"):
        parse_annotation(annotation(an_object(box)), WHERE)


@pytest.mark.parametrize("box", [(10, 5, 10, 30), (10, 5, 40, 5), (40, 5, 10, 30), (10, 30, 40, 5), (99, 5, 100, 30)])
def test_a_box_without_area(box: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"000003\.xml, object 0.*no area"):
        parse_annotation(annotation(an_object(box)), WHERE)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("", "no <size><width>"),
        ("<width>100</width>", "no <size><height>"),
        ("<width>0</width><height>50</height>", "says width 0"),
        ("<width>wide</width><height>50</height>", "width' is 'wide'; give a number"),
        ("<width>inf</width><height>50</height>", "width' is 'inf'; give a number"),
    ],
)
def test_no_size(size: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_annotation(annotation(size=size), WHERE)


@pytest.mark.parametrize(
    "xml", [b"", b"<annotation><size>", b"\xff\xd8 a picture", b"<a></b>", b"<annotation/><annotation/>"]
)
def test_not_well_formed(xml: bytes) -> None:
    with pytest.raises(UserError, match=r"000003\.xml' is not well-formed XML"):
        parse_annotation(xml, WHERE)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_refused_not_expanded(encoding: str) -> None:
    # "Billion laughs": a few hundred bytes that expand to gigabytes.
    bomb = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "ha">' + "".join(
        f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    with pytest.raises(UserError, match="document type"):
        parse_annotation(f"{bomb}]><annotation>&i;</annotation>".encode(encoding), WHERE)


@pytest.mark.parametrize(
    ("xml_object", "message"),
    [
        ("<object><name>n02958343</name></object>", "no complete <bndbox>"),
        (an_object(name=" "), "no <name>"),
        (an_object(("ten", 5, 40, 30)), "bndbox' is 'ten'"),
        (an_object(rest="<trackid>1.5</trackid>"), "trackid 1.5"),
        (an_object(rest="<occluded>maybe</occluded>"), "occluded' is 'maybe'"),
    ],
)
def test_an_object_that_cannot_be_read(xml_object: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_annotation(annotation(xml_object), WHERE)


def test_an_unknown_class_is_an_error_in_video_and_ignored_in_stills() -> None:
    objects = parse_annotation(annotation(an_object(name="n02958344"), an_object(name="n02084071")), WHERE)
    with pytest.raises(UserError, match=r"class 'n02958344'.*did you mean 'n02958343'"):
        to_truth(objects, LABELS, WHERE, ignore_others=False)
    truth = to_truth(objects, LABELS, WHERE, ignore_others=True)
    np.testing.assert_array_equal(truth.labels, [2])
    np.testing.assert_array_equal(truth.track_ids, [1])
