"""RDN's advanced stage: relations distilled from relations (Deng et al. 2019, Sec. 3.4).

The best r% of the supportive proposals S, called S_a, attend to all of S and are transformed; then the reference
proposals that leave the basic stage attend to them (Eq. 6-7; the ReLU(fc) is in the published code only)::

    S_a' = ReLU(fc(S_a + attention(S_a, S)));    R' = R + attention(R, S_a')

``top_r`` chooses whether r% of every frame are refined, as the published code does (the choice is then fixed when a
frame enters, and most of the work can be kept: see ``refinement``), or r% of the whole pool, as the paper says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from vodbench_methods.detection.box_head import fully_connected
from vodbench_methods.rdn.basic import RDNBasic
from vodbench_methods.rdn.choice import count_best
from vodbench_methods.rdn.config import RDNBasicConfig, RDNConfig
from vodbench_methods.rdn.pair_geometry import PairGeometry
from vodbench_methods.rdn.pairs import PairAttention
from vodbench_methods.rdn.partial_sums import PartialSums
from vodbench_methods.rdn.records import Pool, Support, spread
from vodbench_methods.rdn.refinement import RefinedAnew, RefinedInParts, Served, refined_room
from vodbench_methods.relation import KeyValues, ObjectRelation

_MAX_PARTIAL_SUMS_BYTES = 2**30  # above that, refining anew each step is the lesser evil


class RDN(RDNBasic):
    """The basic stage, then attention to the refined best of the pool."""

    config: RDNConfig

    def __init__(self, config: RDNConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        self.refine = self._new_relation()  # S_a attends to S
        self.refine_fc = fully_connected(config.fc_channels, config.fc_channels)
        self.distil = self._new_relation()  # R attends to S_a'

    @property
    def unrefined_readers(self) -> list[ObjectRelation]:
        return [*super().unrefined_readers, self.refine]

    @property
    def distiller(self) -> ObjectRelation | None:
        return self.distil

    def gather(self, supports: Sequence[Support], copies: Sequence[int] | None, config: RDNBasicConfig) -> Pool:
        config = cast(RDNConfig, config)
        pool = self.gather_unrefined(supports, copies)
        features, boxes, refined_copies = best(supports, copies, config)
        attention = self.refine.attend(features, boxes, pool.kvs[-1], pool.copies)
        return replace(pool, refined=self.refined_key_values(features, attention, boxes), refined_copies=refined_copies)

    def refined_key_values(self, features: Tensor, attention: Tensor, boxes: Tensor) -> KeyValues:
        """Keys and values of S_a' from S_a and what it attended to."""
        return self.distil.project_keys(self._activated(self.refine_fc(self.added(features, attention))), boxes)

    def relate(self, features: Tensor, boxes: Tensor, pool: Pool) -> Tensor:
        features = super().relate(features, boxes, pool)
        assert pool.refined is not None, "the pool was gathered without the advanced stage"
        return self.added(features, self.distil.attend(features, boxes, pool.refined, pool.refined_copies))

    def refinements(self, windows: Sequence[Sequence[RDNBasicConfig]]) -> list[list[Served]]:
        plans = [self._by_share(configs) for configs in windows]
        pairs = self._pairs([configs[0] for configs in windows], [kept for kept, _ in plans])
        found: list[list[Served]] = []
        for configs, (kept, anew) in zip(windows, plans, strict=True):
            own = cast(RDNConfig, configs[0])
            served: list[Served] = [(RefinedAnew(self, own.replace(r=r)), [numbers]) for r, numbers in anew.items()]
            if kept:
                served.append((RefinedInParts(self, own, list(kept), pairs[own.K]), list(kept.values())))
            found.append(served)
        return found

    def _by_share(self, configs: Sequence[RDNBasicConfig]) -> tuple[dict[float, list[int]], dict[float, list[int]]]:
        """r -> the numbers of the configurations that have it: those that are refined in parts, then those anew."""
        kept: dict[float, list[int]] = {}
        anew: dict[float, list[int]] = {}
        for number, config in enumerate(configs):
            own = cast(RDNConfig, config)
            (kept if self._keeps_parts(own) else anew).setdefault(own.r, []).append(number)
        return kept, anew

    def _keeps_parts(self, config: RDNConfig) -> bool:
        needed = PartialSums.bytes_needed(
            2 * config.T + 1, refined_room(config.K, config.r, config.heads), config.fc_channels
        )
        return config.top_r == "frame" and needed <= _MAX_PARTIAL_SUMS_BYTES

    def _pairs(
        self, configs: Sequence[RDNBasicConfig], shares: Sequence[Mapping[float, Sequence[int]]]
    ) -> dict[int, PairAttention]:
        """K -> the pairs of frames for all windows of it, of which each has its T and its r."""
        users: dict[int, list[tuple[int, float]]] = {}
        for config, of_window in zip(configs, shares, strict=True):
            if of_window:
                users.setdefault(config.K, []).append((config.T, max(of_window)))
        frames = {K: 2 * max(T for T, _ in own) + 1 for K, own in users.items()}
        refined = {K: refined_room(K, max(r for _, r in own), self.config.heads) for K, own in users.items()}
        if not users:
            return {}
        most, attending = max(users), max(refined.values())
        geometry = PairGeometry(self.refine, max(frames.values()), most, attending, len(users))
        return {K: PairAttention(self.refine, geometry, frames[K], K, refined[K], len(own)) for K, own in users.items()}

    def _square_layers(self) -> dict[str, nn.Linear]:
        return {**super()._square_layers(), "refine_fc": self.refine_fc}


def best(
    supports: Sequence[Support], copies: Sequence[int] | None, config: RDNConfig
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Features, boxes and copies of the proposals to refine: the best r% of every frame or of the pool."""
    if config.top_r == "frame":
        counts = [count_best(len(s), config.r) for s in supports]
        features = torch.cat([s.features[:n] for s, n in zip(supports, counts, strict=True)])
        boxes = torch.cat([s.boxes[:n] for s, n in zip(supports, counts, strict=True)])
        return features, boxes, spread(copies, counts, features.device)
    objectness = torch.cat([s.objectness for s in supports])
    every = spread(copies, [len(s) for s in supports], objectness.device)
    every = torch.ones_like(objectness) if every is None else every
    order = objectness.argsort(descending=True, stable=True)
    before = every[order].cumsum(0) - every[order]  # proposals in the pool, copies counted, that rank higher
    left = (count_best(int(every.sum()), config.r) - before).clamp(min=0)
    chosen = order[left > 0]
    taken = torch.minimum(every[order], left)[left > 0]
    features, boxes = torch.cat([s.features for s in supports]), torch.cat([s.boxes for s in supports])
    return features[chosen], boxes[chosen], taken
