"""A training step of HVR-Net: groups of clips, every one of which is a target in turn.

The paper takes one target video a batch; here each of the K x N is one, at the price of the heads alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vodbench.spec import Clip
from vodbench_methods.detection.clip_training import Seen
from vodbench_methods.hvrnet.triplets import Video, in_reach, mine, relation_loss, video_triplets

if TYPE_CHECKING:
    from vodbench_methods.hvrnet.model import HVRNet


def training_losses(method: HVRNet, clips: Sequence[Clip]) -> dict[str, Tensor]:
    """See ``HVRNet.losses``."""
    seen = method.look_at(clips)
    within = related_within_clips(method, seen)
    if not len(method.inter):
        return method.losses_of(seen, within)
    config = method.config
    size = config.clips().group_size
    videos = [Video(clip.number // size, clip.snippet, clip.category) for clip in clips]
    features = video_features(method, seen)
    triplets = video_triplets(features, videos, hard=config.video_triplets == "hard")
    owner = _rows(seen)
    reach = in_reach(owner, triplets)
    labels = torch.cat([sample.labels for sample in seen.samples])
    mined = mine(within, labels, reach, background_negatives=config.background_negatives)
    sources = mined.sources if config.inter_attention == "mined" else reach
    losses = method.losses_of(seen, method.relate_between(within, slice(None), within[:0], sources))
    if config.relation_loss != "off":
        loss = relation_loss(
            within, mined, owner, len(clips), margin=config.margin, literal=config.relation_loss == "literal"
        )
        losses["relation"] = config.gamma * loss
    return losses


def related_within_clips(method: HVRNet, seen: Seen) -> Tensor:
    """(sum n, D) sampled RoIs of the reference frames, each related to its own clip.

    Every frame lends its K_train best proposals, the reference frame too; no annotated box is among them.
    """
    count = len(seen.samples)
    lent = [proposals.top(method.config.K_train) for proposals in seen.proposals]
    boxes = [torch.cat([s.boxes, p.boxes]) for s, p in zip(seen.samples, lent, strict=False)]
    boxes += [p.boxes for p in lent[count:]]
    features = torch.split(method.fcs[0](method.pool(seen.c5, boxes)), [len(b) for b in boxes])
    related = []
    for clip, (sample, rows) in enumerate(zip(seen.samples, features, strict=False)):
        supports = [f for f, owner in zip(features[count:], seen.owner[count:], strict=True) if owner == clip]
        sampled = len(sample.boxes)
        related.append(method.relate_within(rows, slice(sampled, None), method.gather(supports))[:sampled])
    return torch.cat(related)


@torch.no_grad()
def video_features(method: HVRNet, seen: Seen) -> Tensor:
    """(clips, C) mean conv4 features over the places of each frame (not of the padding), then over a clip's frames."""
    stride = method.config.feature_stride
    means = torch.stack(
        [
            c4[:, : -(-height // stride), : -(-width // stride)].float().mean(dim=(1, 2))
            for c4, (height, width) in zip(seen.c4, seen.batch.sizes, strict=True)
        ]
    )
    owner = torch.tensor(seen.owner, device=means.device)
    sums = means.new_zeros(len(seen.samples), means.shape[1]).index_add_(0, owner, means)
    return sums / torch.bincount(owner)[:, None]


def _rows(seen: Seen) -> Tensor:
    """(sum n,) the clip of each sampled RoI."""
    counts = torch.tensor([len(sample.boxes) for sample in seen.samples])
    return torch.arange(len(counts)).repeat_interleave(counts).to(seen.c4.device)
