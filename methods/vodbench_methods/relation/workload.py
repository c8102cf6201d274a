"""What ``vodbench bench relation`` runs: made-up proposals, RDN as it streams them, and the straightforward form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, cycle
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vodbench.transforms import Resized
from vodbench_methods.detection.records import FrameFeatures
from vodbench_methods.rdn.choice import count_best
from vodbench_methods.rdn.config import TINY, RDNConfig
from vodbench_methods.rdn.full import RDN
from vodbench_methods.rdn.windows import RelationWindows
from vodbench_methods.relation.module import ObjectRelation
from vodbench_methods.relation.reference import pair_embedding, relation_of_pairs, relation_reference

_IMAGE = (600, 1000)  # height, width of the resized frame


Run: TypeAlias = Callable[[], Tensor]


@dataclass(frozen=True, slots=True)
class Form:
    """A way to compute a result: ``prepare`` makes what is kept between runs, outside of what is timed."""

    prepare: Callable[[], Run]
    given: Sequence[Tensor]  # weights and input, alive all the time


class Workload:
    """A seeded RDN and the proposals of a reference frame and of its window."""

    def __init__(self, *, queries: int, T: int, K: int, dim: int, heads: int, seed: int, device: torch.device) -> None:
        self.config = RDNConfig.from_mapping(
            {**TINY, "proposals": queries, "T": T, "K": K, "fc_channels": dim, "heads": heads, "N_b": 2}
        )
        self.device, self._generator = device, torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.method = RDN(self.config, num_classes=1).eval()
        for relation in self.relations:
            self._as_if_trained(relation)
        self.method.to(device)
        self.frames = [self._frame(K) for _ in range(2 * T + 1)]
        self.reference = self._frame(queries)
        self.pool_features = torch.cat([f.features for f in self.frames])
        self.pool_boxes = torch.cat([f.boxes for f in self.frames])

    @property
    def relations(self) -> list[ObjectRelation]:
        return [m for m in self.method.modules() if isinstance(m, ObjectRelation)]

    def sizes(self) -> dict[str, int]:
        config = self.config
        return {
            "queries": config.proposals,
            "keys": (2 * config.T + 1) * config.K,
            "T": config.T,
            "K": config.K,
            "N_b": config.N_b,
            "dim": config.fc_channels,
            "heads": config.heads,
        }

    def stage_weights(self) -> list[Tensor]:
        """Parameters that the stages use: modules and the fully connected layers between them, not the first."""
        parts: list[nn.Module] = [*self.relations, *self.method.fcs[1:], self.method.refine_fc]
        return [p for part in parts for p in part.parameters()]

    @torch.no_grad()
    def _as_if_trained(self, relation: ObjectRelation) -> None:
        """Geometry that differs between pairs, logits that differ by a few, values as large as features."""
        dim = self.config.fc_channels
        for layer, deviation in ((relation.geometry, 0.1), (relation.value, dim**-0.5)):
            layer.weight.copy_(deviation * torch.randn(layer.weight.shape, generator=self._generator))
        relation.geometry.bias.fill_(0.5)

    def _frame(self, count: int) -> FrameFeatures:
        """Objects of 16 to 400 px anywhere in the frame, best first."""
        generator = self._generator
        size = 16.0 * 25.0 ** torch.rand(count, 2, generator=generator)
        place = torch.rand(count, 2, generator=generator) * (torch.tensor(_IMAGE[::-1]) - size)
        boxes = torch.cat([place, place + size], dim=1).to(self.device)
        features = torch.randn(count, self.config.fc_channels, generator=generator).relu().to(self.device)
        objectness = torch.rand(count, generator=generator).sort(descending=True).values.to(self.device)
        return FrameFeatures(boxes, objectness, features, _IMAGE, Resized(np.empty((0, 0, 3), np.uint8), 1.0, 1.0))


def stage_forms(work: Workload) -> Mapping[str, Form]:
    """All relation stages of one reference frame: (Q, D) features ready for the predictor."""
    given = [*work.stage_weights(), work.reference.features, work.reference.boxes]
    pool = [work.pool_features, work.pool_boxes]
    return {
        "straightforward": Form(lambda: lambda: straightforward_stages(work), [*given, *pool]),
        "scratch": Form(lambda: lambda: stages_from_scratch(work), [*given, *pool]),
        "streamed": Form(lambda: streamed_stages(work), [*given, *pool]),
    }


def module_forms(work: Workload) -> Mapping[str, Form]:
    """One module: (Q, D) attention of the reference proposals to the pool."""
    module, reference = work.relations[0], work.reference
    given = [*module.parameters(), work.pool_features, work.pool_boxes, reference.features, reference.boxes]

    def literal() -> Tensor:
        return relation_reference(module, reference.features, reference.boxes, work.pool_features, work.pool_boxes)

    def scratch() -> Tensor:
        kv = module.project_keys(work.pool_features, work.pool_boxes)
        return module.attend(reference.features, reference.boxes, kv)

    def cached() -> Run:
        kv = module.project_keys(work.pool_features, work.pool_boxes)
        return lambda: module.attend(reference.features, reference.boxes, kv)

    return {
        "straightforward": Form(lambda: literal, given),
        "scratch": Form(lambda: scratch, given),
        "cached": Form(cached, given),
    }


def straightforward_stages(work: Workload) -> Tensor:
    """The equations of ``rdn.basic`` and ``rdn.full`` one after the other, pairs embedded in full."""
    method, reference, floor = work.method, work.reference, work.relations[0].floor
    features = reference.features
    embedding = pair_embedding(reference.boxes, work.pool_boxes, floor)
    for index, module in enumerate(method.unrefined_readers[: work.config.N_b]):
        if index:
            features = F.relu(method.fcs[index](features))
        features = features + relation_of_pairs(module, features, work.pool_features, embedding)
    del embedding
    chosen = [f.top(count_best(work.config.K, work.config.r)) for f in work.frames]
    refined, boxes = torch.cat([f.features for f in chosen]), torch.cat([f.boxes for f in chosen])
    refined = refined + relation_reference(method.refine, refined, boxes, work.pool_features, work.pool_boxes)
    refined = F.relu(method.refine_fc(refined))
    return features + relation_reference(method.distil, features, reference.boxes, refined, boxes)


def stages_from_scratch(work: Workload) -> Tensor:
    """RDN's own forward path on a window that it sees for the first time, as in training."""
    method = work.method
    pool = method.gather([method.support(f) for f in work.frames], None, work.config)
    return method.relate(work.reference.features, work.reference.boxes, pool)


def streamed_stages(work: Workload) -> Run:
    """A stream in its steady state. The frame that leaves enters again, so that the window stays what it was."""
    windows, T = RelationWindows(work.method, [work.config]), work.config.T
    for frame in work.frames:
        windows.push(frame)
    for reference in range(T + 1):  # those of the video's beginning
        windows.related(work.reference, reference)
        windows.leave(reference)
    entering, answered = cycle(work.frames), count(T + 1)

    def step() -> Tensor:
        windows.push(next(entering))
        reference = next(answered)
        (features,) = windows.related(work.reference, reference)
        windows.leave(reference)
        return features

    return step
