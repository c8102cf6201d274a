"""Options of the reader, checked where they are made."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from vodbench.errors import UserError, unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class IlsvrcOptions:
    """How a tree is used. Paths of lists are below the root or its ``ImageSets/``."""

    frames_per_snippet: int | None = None  # None: the frames that the list names, else 15 evenly spaced
    det_images_per_class: int = 2000  # 0 leaves DET out
    skip_bad: bool = False  # leave unreadable frames and snippets out, and record them
    train_list: str | None = None
    val_list: str | None = None
    det_list: str | None = None

    def __post_init__(self) -> None:
        if self.frames_per_snippet is not None and self.frames_per_snippet < 1:
            raise UserError(f"frames_per_snippet is {self.frames_per_snippet}; give 1 or more")
        if self.det_images_per_class < 0:
            raise UserError(f"det_images_per_class is {self.det_images_per_class}; give 0 (no DET images) or more")

    @staticmethod
    def parse(given: dict[str, Any]) -> IlsvrcOptions:
        """``UserError`` for an option that there is not, or a value of another type."""
        accepted = {field.name: field for field in fields(IlsvrcOptions)}
        types: dict[str, type | tuple[type, ...]] = {"skip_bad": bool, "det_images_per_class": int}
        types |= {name: (str, type(None)) for name in ("train_list", "val_list", "det_list")}
        types["frames_per_snippet"] = (int, type(None))
        for name, value in given.items():
            if name not in accepted:
                raise unknown("option of the ilsvrc data set", name, accepted)
            if not isinstance(value, types[name]) or (isinstance(value, bool) and name != "skip_bad"):
                raise UserError(f"option {name} is {value!r}; expected {accepted[name].type}")
        return IlsvrcOptions(**given)
