"""One reference frame in the windows of one or more settings: the stages of RDN on a few of its proposals at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vodbench_methods.rdn.log import SupportLog
from vodbench_methods.rdn.window import Columns, Part, View
from vodbench_methods.relation import (
    ObjectRelation,
    Room,
    SharedGeometry,
    are_told,
    attended,
    exponentials,
    head_blocks,
    weighed,
)

if TYPE_CHECKING:
    from vodbench_methods.rdn.basic import RDNBasic


@dataclass(frozen=True, slots=True)
class Lot:
    """What attends to what."""

    queries: Tensor  # (H, R, D / H)
    keys: Tensor  # (H, n, D / H), as are values
    values: Tensor
    part: Part  # the n columns among those of the geometric weights
    copies: Tensor | None  # (n,) how often each key counts; None: once


class Rooms:
    """Memory for step after step: geometric weights, the logits of a module, and those of one window among them."""

    def __init__(self) -> None:
        self.geometry, self.logits, self.own = Room(), Room(), Room()


class Step:
    """``union`` holds the proposals of all ``frames`` that any of ``views`` looks at."""

    def __init__(self, method: RDNBasic, union: SupportLog, frames: range, views: Sequence[View], rooms: Rooms) -> None:
        self._method, self._union, self._views, self._rooms = method, union, views, rooms
        self._basic = method.unrefined_readers[: method.config.N_b]
        self._distiller = method.distiller
        columns = Columns(union, frames)
        self._parts = [columns.of_best(view.frames, view.log.counts(view.frames)) for view in views]
        self._refined_parts = [
            [None if r is None or r.counts is None else columns.of_best(view.frames, r.counts) for r, _ in view.refined]
            for view in views
        ]
        self._rows = union.wide(union.rows(frames))
        modules = [*self._basic, *([] if self._distiller is None else [self._distiller])]
        self._geometry = SharedGeometry(modules, union.boxes(self._rows), rooms.geometry) if modules else None

    @property
    def numbers(self) -> list[tuple[int, ...]]:
        """The settings that each result of ``related`` is for."""
        return [numbers for view in self._views for _, numbers in view.refined]

    @property
    def rows_per_chunk(self) -> int:
        """How many proposals to relate at a time where memory is the limit."""
        return 1 if self._geometry is None else self._geometry.rows_per_chunk

    def related(self, features: Tensor, boxes: Tensor) -> list[Tensor]:
        """(R, D) for each window and r, of R proposals with features (R, D) and boxes (R, 4)."""
        weights: Sequence[Tensor] = () if self._geometry is None else self._geometry(boxes)
        current = self._through_basic(features, weights)
        if self._distiller is None:
            return current
        return self._distilled(self._distiller, current, boxes, weights[-1])

    def _through_basic(self, features: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
        """(R, D) after the basic stage, for each window."""
        if not self._basic:
            return [features.relu()] * len(self._views)
        current = [self._method.added(features, one) for one in self._first_attended(features, weights[0])]
        for index, module in enumerate(self._basic[1:], start=1):
            current = list(torch.split(self._method.between(index, torch.cat(current)), len(features)))
            lots = [self._lot(index, number, own) for number, own in enumerate(self._queries(module, current))]
            found = self._attended(module, lots, weights[index])
            current = [self._method.added(own, one) for own, one in zip(current, found, strict=True)]
        return current

    def _first_attended(self, features: Tensor, weights: Tensor) -> list[Tensor]:
        """(R, D) that the first module attends to, for each window: its queries are the same for all, and so are the
        exponentials of their logits."""
        module = self._basic[0]
        queries = module.queries(features)
        lots = [self._lot(0, number, queries) for number in range(len(self._views))]
        if queries.dtype != torch.float32 or torch.is_autocast_enabled(queries.device.type):
            return self._attended(module, lots, weights)
        keys = self._union.keys(0, self._rows).transpose(1, 2)
        found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in lots]
        for heads in head_blocks(queries, keys.shape[2]):
            shares = exponentials(self._rooms.logits.product(queries[heads], keys[heads]), weights[heads])
            for lot, blocks in zip(lots, found, strict=True):
                own = lot.part.copied(shares, self._rooms.own)
                blocks.append(weighed(own if lot.copies is None else own.mul_(lot.copies), lot.values[heads]))
        outputs, sums = zip(
            *([torch.cat(parts) for parts in zip(*blocks, strict=True)] for blocks in found), strict=True
        )
        return [
            output.transpose(0, 1).flatten(1) if are_told(of_lot) else self._attended(module, [lot], weights)[0]
            for lot, output, of_lot in zip(lots, outputs, sums, strict=True)
        ]

    def _distilled(
        self, module: ObjectRelation, current: Sequence[Tensor], boxes: Tensor, weights: Tensor
    ) -> list[Tensor]:
        """(R, D) after the advanced stage, for each window and r."""
        asked = [
            (own, queries, refined, part)
            for own, queries, view, parts in zip(
                current, self._queries(module, current), self._views, self._refined_parts, strict=True
            )
            for (refined, _), part in zip(view.refined, parts, strict=True)
        ]
        lots = [
            Lot(queries, refined.kv.keys, refined.kv.values, part, refined.copies)
            for _, queries, refined, part in asked
            if refined is not None and part is not None
        ]
        in_parts = iter(self._attended(module, lots, weights))
        found = []
        for own, _, refined, part in asked:
            assert refined is not None, "an advanced stage without refined proposals"
            one = module.attend(own, boxes, refined.kv, refined.copies) if part is None else next(in_parts)
            found.append(self._method.added(own, one))
        return found

    def _lot(self, module: int, number: int, queries: Tensor) -> Lot:
        view = self._views[number]
        keys, values = view.log.keys(module, view.rows), view.log.values(module, view.rows)
        return Lot(queries, keys, values, self._parts[number], view.copies)

    def _attended(self, module: ObjectRelation, lots: Sequence[Lot], weights: Tensor) -> list[Tensor]:
        """(R, D) for each. A head goes over all lots before the next: its geometric weights come from memory once."""
        found: list[list[Tensor]] = [[] for _ in lots]
        if not lots:
            return []
        for heads in head_blocks(lots[0].queries, max(lot.keys.shape[1] for lot in lots)):
            geometry = weights[heads]
            for lot, blocks in zip(lots, found, strict=True):
                logits = self._rooms.logits.product(lot.queries[heads], lot.keys[heads].transpose(1, 2))
                blocks.append(attended(module, logits, lot.values[heads], lot.part.of(geometry), lot.copies))
        return [torch.cat(blocks, dim=1).to(lot.queries.dtype) for lot, blocks in zip(lots, found, strict=True)]

    def _queries(self, module: ObjectRelation, features: Sequence[Tensor]) -> Sequence[Tensor]:
        """(H, R, D / H) for each of several (R, D)."""
        return torch.split(module.queries(torch.cat(list(features))), len(features[0]), dim=1)
