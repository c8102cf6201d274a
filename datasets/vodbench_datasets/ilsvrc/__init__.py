"""ILSVRC trees: ImageNet VID and DET as published, and any annotated video in the same layout."""

from __future__ import annotations

from typing import Any

from vodbench.spec import Dataset, DatasetSpec
from vodbench_datasets.ilsvrc.reader import IlsvrcDataset
from vodbench_datasets.ilsvrc.tree import Tree


def _accepts(root: str) -> bool:
    return {"Annotations", "Data"} <= set(Tree(root).names())


def _open(root: str, **options: Any) -> Dataset:
    return IlsvrcDataset(root, **options)


SPEC = DatasetSpec(
    name="ilsvrc",
    summary="ILSVRC tree (Annotations/, Data/, ImageSets/): ImageNet VID and DET as published, or your own video",
    accepts=_accepts,
    open=_open,
)
