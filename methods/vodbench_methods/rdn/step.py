"""One reference frame in the windows of one or more settings: the stages of RDN on a few of its proposals at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vodbench_methods.rdn.log import SupportLog
from vodbench_methods.rdn.refinement import Refined
from vodbench_methods.rdn.window import Columns, Part, View
from vodbench_methods.relation import ObjectRelation, Room, SharedGeometry, attended, attended_by_heads, head_blocks

if TYPE_CHECKING:
    from vodbench_methods.rdn.basic import RDNBasic


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
        found = []
        for number, (own, queries) in enumerate(zip(current, self._queries(self._distiller, current), strict=True)):
            for (refined, _), part in zip(self._views[number].refined, self._refined_parts[number], strict=True):
                assert refined is not None, "an advanced stage without refined proposals"
                attended = self._distilled(self._distiller, own, queries, boxes, weights[-1], refined, part)
                found.append(self._method.added(own, attended))
        return found

    def _through_basic(self, features: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
        """(R, D) after the basic stage, for each window."""
        if not self._basic:
            return [features.relu()] * len(self._views)
        current = [self._method.added(features, one) for one in self._first_attended(features, weights[0])]
        for index, module in enumerate(self._basic[1:], start=1):
            current = list(torch.split(self._method.between(index, torch.cat(current)), len(features)))
            for number, (view, queries) in enumerate(zip(self._views, self._queries(module, current), strict=True)):
                keys, values = view.log.keys(index, view.rows), view.log.values(index, view.rows)
                geometry = self._parts[number].of(weights[index])
                one = attended_by_heads(module, queries, keys, values, geometry, view.copies, self._rooms.logits)
                current[number] = self._method.added(current[number], one)
        return current

    def _first_attended(self, features: Tensor, weights: Tensor) -> list[Tensor]:
        """(R, D) that the first module attends to, for each window: its queries are the same for all."""
        module = self._basic[0]
        queries, keys = module.queries(features), self._union.keys(0, self._rows).transpose(1, 2)
        found: list[list[Tensor]] = [[] for _ in self._views]
        for heads in head_blocks(queries, keys.shape[2]):
            logits = self._rooms.logits.product(queries[heads], keys[heads])
            for view, part, blocks in zip(self._views, self._parts, found, strict=True):
                values = view.log.values(0, view.rows)[heads]
                own = part.copied(logits, self._rooms.own)
                blocks.append(attended(module, own, values, part.of(weights[heads]), view.copies))
        return [torch.cat(blocks, dim=1).to(features.dtype) for blocks in found]

    def _queries(self, module: ObjectRelation, features: Sequence[Tensor]) -> Sequence[Tensor]:
        """(H, R, D / H) for each of several (R, D)."""
        return torch.split(module.queries(torch.cat(list(features))), len(features[0]), dim=1)

    def _distilled(
        self,
        module: ObjectRelation,
        features: Tensor,
        queries: Tensor,
        boxes: Tensor,
        weights: Tensor,
        refined: Refined,
        part: Part | None,
    ) -> Tensor:
        if part is None:
            return module.attend(features, boxes, refined.kv, refined.copies)
        kv = refined.kv
        return attended_by_heads(
            module, queries, kv.keys, kv.values, part.of(weights), refined.copies, self._rooms.logits
        )
