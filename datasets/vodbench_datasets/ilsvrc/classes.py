"""Which classes a tree has: its own ``classes.txt``, or the 30 of ImageNet VID."""

from __future__ import annotations

from vodbench.errors import UserError
from vodbench.spec import ClassInfo

# Class order of every published VID result; label k is the k-th entry. Ids are WordNet synsets.
VID_CLASSES: tuple[ClassInfo, ...] = tuple(
    ClassInfo(id, name)
    for name, id in (
        ("airplane", "n02691156"),
        ("antelope", "n02419796"),
        ("bear", "n02131653"),
        ("bicycle", "n02834778"),
        ("bird", "n01503061"),
        ("bus", "n02924116"),
        ("car", "n02958343"),
        ("cattle", "n02402425"),
        ("dog", "n02084071"),
        ("domestic_cat", "n02121808"),
        ("elephant", "n02503517"),
        ("fox", "n02118333"),
        ("giant_panda", "n02510455"),
        ("hamster", "n02342885"),
        ("horse", "n02374451"),
        ("lion", "n02129165"),
        ("lizard", "n01674464"),
        ("monkey", "n02484322"),
        ("motorcycle", "n03790512"),
        ("rabbit", "n02324045"),
        ("red_panda", "n02509815"),
        ("sheep", "n02411705"),
        ("snake", "n01726692"),
        ("squirrel", "n02355227"),
        ("tiger", "n02129604"),
        ("train", "n04468005"),
        ("turtle", "n01662784"),
        ("watercraft", "n04530566"),
        ("whale", "n02062744"),
        ("zebra", "n02391049"),
    )
)


def parse_classes(text: str, where: str) -> tuple[ClassInfo, ...]:
    """The classes of a ``classes.txt``: a line each, ``id name``, in label order (the name may be left out).

    Raises:
        UserError: no line, or an id or a name given twice. ``where`` names the file.
    """
    rows = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    classes = tuple(ClassInfo(row[0], row[-1].strip()) for row in rows)
    if not classes:
        raise UserError(f"'{where}' names no class; give one line a class: 'n02958343 car'")
    for what, names in (("id", [c.id for c in classes]), ("name", [c.name for c in classes])):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UserError(
                f"'{where}' gives the class {what} '{twice[0]}' twice; give every class one line of its own"
            )
    return classes
