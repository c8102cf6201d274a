"""One reference frame in the windows of one or more settings: the stages of RDN on a few of its proposals at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vodbench_methods.rdn.log import SupportLog
from vodbench_methods.rdn.refinement import Refined
from vodbench_methods.rdn.window import Columns, Part, View
from vodbench_methods.relation import ObjectRelation, SharedGeometry, softmax

if TYPE_CHECKING:
    from vodbench_methods.rdn.basic import RDNBasic


class Step:
    """``union`` holds the proposals of all ``frames`` that any of ``views`` looks at."""

    def __init__(self, method: RDNBasic, union: SupportLog, frames: range, views: Sequence[View]) -> None:
        self._method, self._union, self._views = method, union, views
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
        self._geometry = SharedGeometry(modules, union.boxes(self._rows)) if modules else None

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
        current = [features] * len(self._views)
        first = self._basic[0].queries(features)
        shared = torch.bmm(first, self._union.keys(0, self._rows).transpose(1, 2))
        logits = [part.of(shared).flatten(2).clone() for part in self._parts]
        for index, module in enumerate(self._basic):
            if index:
                size = len(features)
                current = list(torch.split(self._method.between(index, torch.cat(current)), size))
                queries = self._queries(module, current)
                logits = [
                    torch.bmm(own, view.log.keys(index, view.rows).transpose(1, 2))
                    for own, view in zip(queries, self._views, strict=True)
                ]
            for number, view in enumerate(self._views):
                geometry = self._parts[number].of(weights[index])
                values = view.log.values(index, view.rows)
                attended = _attended(module, current[number], logits[number], geometry, values, view.copies)
                current[number] = self._method.added(current[number], attended)
        return current

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
        logits = torch.bmm(queries, refined.kv.keys.transpose(1, 2))
        return _attended(module, features, logits, part.of(weights), refined.kv.values, refined.copies)


def _attended(
    module: ObjectRelation, features: Tensor, logits: Tensor, geometry: Tensor, values: Tensor, copies: Tensor | None
) -> Tensor:
    """(R, D): ``ObjectRelation.attend_weighted`` with the logits (H, R, n) at hand, in whose memory it works."""
    if not logits.shape[2]:
        return features * 0.0  # attention over nothing adds nothing
    shares = softmax(logits)
    shares.view(geometry.shape).mul_(geometry)
    if copies is not None:
        shares.mul_(copies)
    return module.gathered(shares, values).to(features.dtype)
