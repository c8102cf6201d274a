"""Where a run's data is: picklable, so that every worker opens it by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vodbench.errors import UserError
from vodbench.registry import dataset_spec, table
from vodbench.spec import Dataset
from vodbench.storage import exists


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """A root with the kind of data set behind it ("auto": whichever recognises the root)."""

    root: str
    kind: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)

    def open(self) -> Dataset:
        """``UserError`` when the root cannot be reached, is missing, empty, or of no known kind."""
        if self.kind != "auto":
            return dataset_spec(self.kind).open(self.root, **self.options)
        if not exists(self.root):
            raise UserError(
                f"data root '{self.root}' does not exist; give a folder or URL, or make one with "
                "'vodbench data generate'"
            )
        for name in table("datasets"):
            spec = dataset_spec(name)
            if spec.accepts(self.root):
                return spec.open(self.root, **self.options)
        kinds = ", ".join(table("datasets"))
        raise UserError(
            f"data root '{self.root}' holds nothing that a data set recognises ({kinds}): expected shards (index.json) "
            "or an ILSVRC tree (ImageSets/, Annotations/, Data/)"
        )
