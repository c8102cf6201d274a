"""The relation module read literally from the papers: slow, large, and what the fast one is tested against.

The embedding of every pair is made in full and the raw key features are weighted per head before they are projected
by a grouped 1x1 convolution, as in the public implementations.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vodbench_methods.relation.geometry import (
    EMBEDDING_DIM,
    Floor,
    centres_and_sizes,
    log_distances,
)
from vodbench_methods.relation.module import ObjectRelation


def pair_embedding(queries: Tensor, keys: Tensor, floor: Floor) -> Tensor:
    """(Q, K, 64): 8 sines then 8 cosines for each of the four relative coordinates."""
    _, query_sizes = centres_and_sizes(queries)
    _, key_sizes = centres_and_sizes(keys)
    sizes = (query_sizes[:, None] / key_sizes[None]).log()
    position = torch.cat([log_distances(queries, keys, floor).transpose(1, 2), sizes], dim=2)
    count = EMBEDDING_DIM // 8
    wavelength = 1000.0 ** (torch.arange(count, device=queries.device) * 8.0 / EMBEDDING_DIM)
    angle = 100.0 * position[..., None] / wavelength
    return torch.cat([angle.sin(), angle.cos()], dim=3).flatten(2)


def relation_reference(
    module: ObjectRelation, features: Tensor, boxes: Tensor, key_features: Tensor, key_boxes: Tensor
) -> Tensor:
    """What ``module.attend(features, boxes, module.project_keys(key_features, key_boxes))`` must return: (Q, D)."""
    return relation_of_pairs(module, features, key_features, pair_embedding(boxes, key_boxes, module.floor))


def relation_of_pairs(module: ObjectRelation, features: Tensor, key_features: Tensor, embedding: Tensor) -> Tensor:
    """The same with the (Q, K, 64) embedding at hand: modules that see the same boxes may share it."""
    heads, dim = module.num_heads, features.shape[1]
    geometric = F.linear(embedding, module.geometry.weight, module.geometry.bias)
    geometric = geometric.clamp(min=1e-6) if module.floor == "max" else geometric.relu() + 1e-6  # (Q, K, H)
    query = module.query(features).view(-1, heads, dim // heads)
    key = module.key(key_features).view(-1, heads, dim // heads)
    logits = torch.einsum("qhd,khd->qhk", query, key) / math.sqrt(dim / heads)
    attention = (geometric.permute(0, 2, 1).log() + logits).softmax(dim=2)
    gathered = attention @ key_features  # (Q, H, D): the raw features, once per head
    grouped = F.conv2d(gathered.flatten(1)[:, :, None, None], module.value.weight[:, :, None, None], None, groups=heads)
    return grouped.flatten(1) + module.value.bias
