"""HVR-Net's multi-level triplets: videos, then proposals, and the loss on them (Han et al. 2020, Sec. 3.2, Eq. 6).

A triplet of videos is a target V, V+ of the same category and V- of another; every video of a group is a target once.
A triplet of proposals is an anchor of the target's key frame, P+ of its category and P- of another. "Hard" is the least
similar of the same and the most similar of the other category, by cosine similarity. Nothing here passes gradients but
the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_TINY = 1e-12  # under the root of a distance: its gradient at zero is zero, not NaN


@dataclass(frozen=True, slots=True)
class Video:
    """What a video of a batch is known by. Videos of different groups never meet."""

    group: int
    name: str
    category: int | None  # None: not drawn for a category, so it is in no triplet


@torch.no_grad()
def video_triplets(features: Tensor, videos: Sequence[Video], *, hard: bool) -> list[list[int]]:
    """For each of V videos with ``features`` (V, D): its own number, then those of V+ and V- as far as there are any.

    Hard: V+ is the least similar, V- the most similar. Otherwise both are drawn from torch's global generator.
    """
    similarity = _cosine(features)
    return [
        [
            target,
            *_chosen(_positives(target, videos), -similarity[target], hard),
            *_chosen(_negatives(target, videos), similarity[target], hard),
        ]
        for target in range(len(videos))
    ]


def _positives(target: int, videos: Sequence[Video]) -> list[int]:
    own = videos[target]
    if own.category is None:
        return []
    return [i for i, v in enumerate(videos) if i != target and (v.group, v.category) == (own.group, own.category)]


def _negatives(target: int, videos: Sequence[Video]) -> list[int]:
    own = videos[target]
    if own.category is None:
        return []
    return [
        i
        for i, v in enumerate(videos)
        if v.group == own.group and v.category not in (own.category, None) and v.name != own.name
    ]


def _chosen(candidates: list[int], score: Tensor, hard: bool) -> list[int]:
    """The candidate of the highest score, or any; none where there is none."""
    if not candidates:
        return []
    # Drawn on the CPU, so that a seed gives the same videos on every device.
    place = score[candidates].argmax() if hard else torch.randint(len(candidates), ())
    return [candidates[int(place)]]


@dataclass(frozen=True, slots=True)
class ProposalTriplets:
    """P+ and P- of each of n proposals, as row numbers; they mean nothing where ``has_positive`` / ``has_negative``
    say no, as for every background proposal."""

    positive: Tensor  # (n,) int64
    negative: Tensor  # (n,) int64
    has_positive: Tensor  # (n,) bool
    has_negative: Tensor  # (n,) bool
    sources: Tensor  # (n, n) bool: which proposals each attends to in the inter-video module


def in_reach(video: Tensor, triplets: Sequence[Sequence[int]]) -> Tensor:
    """(n, n) bool: whether proposal j lies in a video of the triplet of proposal i's. ``video`` (n,) int64.

    A video that is in no triplet reaches nothing, not even itself.
    """
    member = torch.zeros(len(triplets), len(triplets), dtype=torch.bool, device=video.device)
    for target, of_target in enumerate(triplets):
        member[target, list(of_target)] = len(of_target) > 1
    return member[video][:, video]


@torch.no_grad()
def mine(features: Tensor, labels: Tensor, reach: Tensor, *, background_negatives: bool) -> ProposalTriplets:
    """Proposal triplets among n proposals with ``features`` (n, D), ``labels`` (n,) and ``reach`` (n, n).

    An object's sources are its P+ and P-. A background proposal is no anchor; its sources are the two most similar
    objects (the published code's choice for it), so that having sources does not give away what is an object.
    """
    similarity = _cosine(features)
    objects = labels > 0
    same = labels[:, None] == labels[None]
    others = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positives = reach & same & others & objects[:, None]
    negatives = reach & ~same & objects[:, None] & (objects[None] | background_negatives)
    positive, has_positive = _extreme(-similarity, positives)
    negative, has_negative = _extreme(similarity, negatives)
    sources = nearest(similarity, reach & objects[None] & ~objects[:, None], 2)
    for index, present in ((positive, has_positive), (negative, has_negative)):
        (rows,) = torch.where(present)
        sources[rows, index[rows]] = True
    return ProposalTriplets(positive, negative, has_positive, has_negative, sources)


def nearest(similarity: Tensor, allowed: Tensor, count: int) -> Tensor:
    """(n, m) bool: the ``count`` most similar of the allowed columns of each row, fewer where there are fewer."""
    chosen = similarity.masked_fill(~allowed, -torch.inf).topk(min(count, allowed.shape[1]), dim=1).indices
    return torch.zeros_like(allowed).scatter_(1, chosen, True) & allowed


def _extreme(score: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """The column of the highest score among the allowed of each row, and whether there is any."""
    if not len(score):
        return torch.zeros(0, dtype=torch.int64, device=score.device), allowed.any(dim=1)
    return score.masked_fill(~allowed, -torch.inf).argmax(dim=1), allowed.any(dim=1)


def relation_loss(
    features: Tensor, triplets: ProposalTriplets, video: Tensor, num_videos: int, *, margin: float, literal: bool
) -> Tensor:
    """Mean over videos of the mean over their anchors of ``max(d(a, P+) - d(a, P-) + margin, 0)``, d Euclidean.

    Anchors have both a P+ and a P-; a video without any counts zero. ``literal`` is Eq. 6 as printed, with the signs
    of both distances turned: it asks the proposals of one category to lie apart.
    """
    (anchors,) = torch.where(triplets.has_positive & triplets.has_negative)
    near = _distance(features[anchors], features[triplets.positive[anchors]])
    far = _distance(features[anchors], features[triplets.negative[anchors]])
    hinge = F.relu((far - near if literal else near - far) + margin)
    owner = video[anchors]
    counts = torch.bincount(owner, minlength=num_videos)
    return (hinge / counts[owner]).sum() / max(num_videos, 1)


def _distance(a: Tensor, b: Tensor) -> Tensor:
    return ((a.float() - b.float()).square().sum(dim=1) + _TINY).sqrt()


def _cosine(features: Tensor) -> Tensor:
    """(n, n) cosine similarities of the rows."""
    normal = F.normalize(features.float(), dim=1)
    return normal @ normal.T
