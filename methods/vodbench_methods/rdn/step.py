"""One reference frame in the windows of one or more settings: the stages of RDN on a few of its proposals at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from vodbench_methods.detection.products import MIN_COLUMNS
from vodbench_methods.rdn.bands import Placed, ranges
from vodbench_methods.rdn.first import FirstModule
from vodbench_methods.rdn.log import rows_of_runs
from vodbench_methods.rdn.window import Columns, Part, View
from vodbench_methods.relation import Keys, ObjectRelation, Room, SharedGeometry, attended, head_blocks

if TYPE_CHECKING:
    from vodbench_methods.rdn.basic import RDNBasic


@dataclass(frozen=True, slots=True)
class Lot:
    """What attends to what."""

    queries: Tensor  # (H, R, D / H)
    keys: Sequence[tuple[Tensor, Tensor, Part]]  # keys and values (H, n, D / H), columns of the geometric weights
    copies: Tensor | None  # (sum of n,) how often each key counts; None: once


class Rooms:
    """Memory for step after step: geometric weights of basic modules and of the last, the logits of a module."""

    def __init__(self) -> None:
        self.geometry, self.last_geometry, self.logits = Room(), Room(), Room()


class Step:
    """``bands`` hold all proposals that any of ``views`` looks at, ``whole`` their boxes frame by frame."""

    def __init__(
        self, method: RDNBasic, bands: Sequence[Placed], whole: Placed, views: Sequence[View], rooms: Rooms
    ) -> None:
        self._method, self._bands, self._views, self._rooms = method, bands, views, rooms
        self._of_view = [[placed for placed in bands if placed.proposals in ranges(view.K)] for view in views]
        basic = method.unrefined_readers[: method.config.N_b]
        self._basic, self._distiller = basic, method.distiller
        self._geometry: list[SharedGeometry] = []
        if basic:
            boxes = torch.cat([placed.boxes for placed in bands])
            self._geometry.append(SharedGeometry(basic, boxes, rooms.geometry))
            self._first = FirstModule(bands, views, rooms.logits)
        self._refined_parts: list[list[Part | None]] = [[None] * len(view.refined) for view in views]
        if self._distiller is not None:
            self._geometry.append(SharedGeometry([self._distiller], self._refined_boxes(whole), rooms.last_geometry))

    def _refined_boxes(self, whole: Placed) -> Tensor:
        """The boxes of as many of each frame's best as any window has refined; finds the windows' parts of them."""
        log, frames = whole.log, whole.frames
        most = max(
            (max(r.counts, default=0) for view in self._views for r, _ in view.refined if r and r.counts), default=0
        )
        counts = [min(most, count) for count in log.counts(frames)]
        boxes = log.boxes(slice(None))[rows_of_runs(log.starts(frames), counts, log.device)]
        columns = Columns(frames, counts, log.device)
        self._refined_parts = [
            [None if r is None or r.counts is None else columns.of_best(view.frames, r.counts) for r, _ in view.refined]
            for view in self._views
        ]
        return F.pad(boxes, (0, 0, 0, max(0, MIN_COLUMNS - len(boxes))))

    @property
    def numbers(self) -> list[tuple[int, ...]]:
        """The settings that each result of ``related`` is for."""
        return [numbers for view in self._views for _, numbers in view.refined]

    @property
    def rows_per_chunk(self) -> int:
        """How many proposals to relate at a time where memory is the limit."""
        return min((geometry.rows_per_chunk for geometry in self._geometry), default=1)

    def related(self, features: Tensor, boxes: Tensor) -> list[Tensor]:
        """(R, D) for each window and r, of R proposals with features (R, D) and boxes (R, 4)."""
        weights = [own for geometry in self._geometry for own in geometry(boxes)]
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
            found = self._attended(lots, weights[index])
            current = [self._method.added(own, one) for own, one in zip(current, found, strict=True)]
        return current

    def _first_attended(self, features: Tensor, weights: Tensor) -> list[Tensor]:
        """(R, D) that the first module attends to, for each window."""
        queries = self._basic[0].queries(features)
        together = self._first(queries, weights)
        lots = [self._lot(0, number, queries) for number, found in enumerate(together) if found is None]
        apart = iter(self._attended(lots, weights))
        return [next(apart) if found is None else found for found in together]

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
            Lot(queries, [(refined.kv.keys, refined.kv.values, part)], refined.copies)
            for _, queries, refined, part in asked
            if refined is not None and part is not None
        ]
        in_parts = iter(self._attended(lots, weights))
        found = []
        for own, _, refined, part in asked:
            assert refined is not None, "an advanced stage without refined proposals"
            one = module.attend(own, boxes, refined.kv, refined.copies) if part is None else next(in_parts)
            found.append(self._method.added(own, one))
        return found

    def _lot(self, module: int, number: int, queries: Tensor) -> Lot:
        view, keys, copies = self._views[number], [], []
        for placed in self._of_view[number]:
            rows = placed.log.rows(view.frames)
            columns = Part(placed.columns_of(view.frames))
            keys.append((placed.log.keys(module, rows), placed.log.values(module, rows), columns))
            copies.append(view.copies(placed.log))
        known = [one for one in copies if one is not None]
        assert len(known) in (0, len(copies))
        return Lot(queries, keys, torch.cat(known) if known else None)

    def _attended(self, lots: Sequence[Lot], weights: Tensor) -> list[Tensor]:
        """(R, D) for each. A head goes over all lots before the next: its geometric weights come from memory once."""
        if not lots:
            return []
        found: list[list[Tensor]] = [[] for _ in lots]
        widest = max(sum(keys.shape[1] for keys, _, _ in lot.keys) for lot in lots)
        for heads in head_blocks(lots[0].queries, widest):
            geometry = weights[heads]
            for lot, blocks in zip(lots, found, strict=True):
                parts = [Keys(keys[heads], values[heads], part.of(geometry)) for keys, values, part in lot.keys]
                blocks.append(attended(lot.queries[heads], parts, lot.copies, self._rooms.logits))
        return [torch.cat(blocks, dim=1).to(lot.queries.dtype) for lot, blocks in zip(lots, found, strict=True)]

    def _queries(self, module: ObjectRelation, features: Sequence[Tensor]) -> Sequence[Tensor]:
        """(H, R, D / H) for each of several (R, D)."""
        return torch.split(module.queries(torch.cat(list(features))), len(features[0]), dim=1)
