"""One ILSVRC annotation file (VID or DET XML) to checked boxes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np

from vodbench.errors import UserError, nearest
from vodbench.spec import Truth

Box: TypeAlias = tuple[float, float, float, float]

# Published trees hold corners one pixel past the edge (counted from 1, or exclusive). As in the reference code these
# are moved onto the edge; anything further out is an error of the annotation.
_EDGE_PIXELS = 1.0


@dataclass(frozen=True, slots=True)
class AnnotatedObject:
    """One ``<object>``; ``box`` is xyxy in 0-based inclusive pixels, inside the image and with an area."""

    class_id: str
    track_id: int
    box: Box
    occluded: bool
    generated: bool


def parse_annotation(xml: bytes, where: str) -> tuple[AnnotatedObject, ...]:
    """The objects of an annotation, in file order.

    DET files name no track and no flags: an object's position stands in for its track, both flags are false.

    Raises:
        UserError: not well-formed, a DTD (never expanded), no size, or an object without a class, with a box that is
            missing, outside the image or without an area. ``where`` names the file.
    """
    root = _parse(xml, where)
    width, height = (_size(root, side, where) for side in ("width", "height"))
    return tuple(_object(e, n, width, height, f"{where}, object {n}") for n, e in enumerate(root.iterfind("object")))


def to_truth(
    objects: Sequence[AnnotatedObject], labels: Mapping[str, int], where: str, *, ignore_others: bool
) -> Truth:
    """Labelled arrays of the objects; ``labels`` maps class ids to 1..C.

    An object of a class without a label is left out when ``ignore_others`` is true (the 30-class use of DET, whose
    images hold 200 classes), and a ``UserError`` otherwise.
    """
    known = list(_labelled(objects, labels, where, ignore_others))
    return Truth(
        boxes=np.array([o.box for o in known], np.float32).reshape(-1, 4),
        labels=np.array([labels[o.class_id] for o in known], np.int64),
        track_ids=np.array([o.track_id for o in known], np.int64),
        occluded=np.array([o.occluded for o in known], np.bool_),
        generated=np.array([o.generated for o in known], np.bool_),
    )


def _labelled(
    objects: Sequence[AnnotatedObject], labels: Mapping[str, int], where: str, ignore_others: bool
) -> Iterator[AnnotatedObject]:
    for annotated in objects:
        if annotated.class_id in labels:
            yield annotated
        elif not ignore_others:
            raise UserError(
                f"'{where}' has an object of class '{annotated.class_id}', which the data set does not name "
                f"({nearest(annotated.class_id, labels)}); add it to classes.txt or correct the file"
            )


def _parse(xml: bytes, where: str) -> Element:
    """An element tree built by expat directly, since ``xml.etree`` offers no way to refuse a DTD."""

    def refuse(*_: object) -> None:
        raise UserError(
            f"'{where}' declares a document type, which is not read (entities could be anything); remove it"
        )

    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(xml, True)
    except expat.ExpatError as error:
        raise UserError(f"'{where}' is not well-formed XML ({error}); restore the file") from error
    return builder.close()


def _size(root: Element, side: str, where: str) -> float:
    text = root.findtext(f"size/{side}")
    if text is None:
        raise UserError(f"'{where}' has no <size><{side}>; give the image's width and height in pixels")
    pixels = _number(text, f"{where}, {side}")
    if pixels < 1:
        raise UserError(f"'{where}' says {side} {text.strip()}; give the image's {side} in pixels, at least 1")
    return pixels


def _object(element: Element, number: int, width: float, height: float, where: str) -> AnnotatedObject:
    class_id = element.findtext("name", "").strip()
    if not class_id:
        raise UserError(f"'{where}' has no <name>; give its class id")
    track = _number(element.findtext("trackid", str(number)), f"{where}, trackid")
    if track != int(track):
        raise UserError(f"'{where}' has trackid {track}; give a whole number")
    return AnnotatedObject(
        class_id,
        int(track),
        _box(element, width, height, where),
        _flag(element, "occluded", where),
        _flag(element, "generated", where),
    )


def _box(element: Element, width: float, height: float, where: str) -> Box:
    texts = [element.findtext(f"bndbox/{name}") for name in ("xmin", "ymin", "xmax", "ymax")]
    if any(text is None for text in texts):
        raise UserError(f"'{where}' has no complete <bndbox>; give xmin, ymin, xmax and ymax")
    x1, y1, x2, y2 = (_number(str(text), f"{where}, bndbox") for text in texts)
    shown = f"box [{x1:g}, {y1:g}, {x2:g}, {y2:g}]"
    low, right, bottom = -_EDGE_PIXELS, width - 1 + _EDGE_PIXELS, height - 1 + _EDGE_PIXELS
    if min(x1, y1) < low or max(x1, x2) > right or max(y1, y2) > bottom:
        raise UserError(
            f"'{where}' has the {shown} outside the {width:g} x {height:g} image; correct the box or the size"
        )
    x1, y1, x2, y2 = max(x1, 0.0), max(y1, 0.0), min(x2, width - 1), min(y2, height - 1)
    if x2 <= x1 or y2 <= y1:
        raise UserError(f"'{where}' has the {shown}, which has no area; xmax must exceed xmin, and ymax exceed ymin")
    return x1, y1, x2, y2


def _flag(element: Element, name: str, where: str) -> bool:
    return _number(element.findtext(name, "0"), f"{where}, {name}") != 0


def _number(text: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"'{where}' is {text.strip()!r}; give a number")
    return number
