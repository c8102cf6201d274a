"""Attention of many heads, a few heads at a time: their logits stay in a CPU's second cache level from first to last.

A head's logits are written by one product, read and written by the softmax, the geometric weights and their sum, and
read by another product. All heads of a window at once (tens of MB) would come from memory each time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vodbench_methods.relation.geometry import evenly
from vodbench_methods.relation.module import KeyValues, ObjectRelation, softmax
from vodbench_methods.relation.room import Room

_FLOATS_ON_CPU = 2**17
_ROWS = 64  # fewer, and matrix products lose more than the cache gives
# Sums of exponentials between these have all their digits, and room for the values that they are multiplied with.
_LEAST, _MOST = 1e-26, 1e26
_ABSENT = -1e4  # the logit of padding: finite, so that a run of nothing but padding stays free of NaN


def head_blocks(queries: Tensor, num_keys: int) -> list[slice]:
    """Heads to take at a time of queries (H, R, D / H): all at once where there is no such cache to stay in."""
    heads, rows, _ = queries.shape
    size = max(1, _FLOATS_ON_CPU // max(1, rows * num_keys)) if queries.device.type == "cpu" else heads
    return [slice(start, min(start + size, heads)) for start in range(0, heads, size)]


def attended(module: ObjectRelation, logits: Tensor, values: Tensor, geometry: Tensor, copies: Tensor | None) -> Tensor:
    """(R, h D / H) of some heads, with their logits (h, R, n) at hand, in whose memory it works."""
    if not logits.shape[2]:  # attention over nothing adds nothing
        return logits.new_zeros(logits.shape[1], values.shape[0] * values.shape[2])
    shares = softmax(logits)
    shares.view(geometry.shape).mul_(geometry)
    if copies is not None:
        shares.mul_(copies)
    return module.gathered(shares, values)


def exponentials(logits: Tensor, geometry: Tensor) -> Tensor:
    """exp(logits) times geometry (h, R, K), in the logits' memory: shares of attention before they are divided by their
    sum, for any choice among the keys. For float32 without gradients.

    No largest logit is subtracted, as every choice has its own; ``are_told`` says where that is too coarse.
    """
    return logits.exp_().mul_(geometry)


def weighed(shares: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """(h, R, D / H) of values (h, n, D / H) by their ``exponentials`` (h, R, n), and the sums (h, R, 1) of these."""
    total = shares.sum(dim=-1, keepdim=True)
    return torch.bmm(shares, values) / total, total


def are_told(sums: Tensor) -> bool:
    """Whether float32 tells attention from the sums of its ``exponentials``: if no row's largest logit is beyond some
    +-60."""
    least, most = sums.aminmax()
    return bool((least >= _LEAST) & (most <= _MOST))  # not if there is a NaN


def partial_sums(
    queries: Tensor, geometry: Tensor, kv: KeyValues, present: Tensor, room: Room
) -> tuple[Tensor, Tensor]:
    """Attend to equal runs (``groups``) of the keys apart from each other, so that they can be joined later.

    ``queries`` are (H, Q, D / H), ``geometry`` (H, groups, Q, K / groups), ``present`` (K,): 0 for padding, 1 else.
    Returns outputs (Q, groups, H, D / H) and the logarithm of each softmax sum (Q, groups, H), -inf for an empty run:
    attention over any of the runs together is the mean of their outputs weighted by the softmax of the logarithms. For
    inference.
    """
    groups = geometry.shape[1]
    runs = (groups, len(kv) // groups)
    keys, values = (t.unflatten(1, runs) for t in (kv.keys, kv.values))  # type: ignore[no-untyped-call]
    padding = None if bool(present.all()) else present.view(groups, 1, -1)
    size = max(_ROWS, _FLOATS_ON_CPU // max(1, len(kv))) if queries.device.type == "cpu" else queries.shape[1]
    rows_done = []
    for rows in evenly(queries.shape[1], size):
        some = queries[:, None, rows]
        heads_done = [
            _partial_sums(some[heads], geometry[heads, :, rows], keys[heads], values[heads], padding, room)
            for heads in head_blocks(queries[:, rows], len(kv))
        ]
        rows_done.append([torch.cat(parts) for parts in zip(*heads_done, strict=True)])
    outputs, log_sums = (torch.cat(parts, dim=2) for parts in zip(*rows_done, strict=True))
    return outputs.permute(2, 1, 0, 3), log_sums.permute(2, 1, 0)


def _partial_sums(
    queries: Tensor, geometry: Tensor, keys: Tensor, values: Tensor, padding: Tensor | None, room: Room
) -> tuple[Tensor, Tensor]:
    """(h, groups, R, D / H) and (h, groups, R) of queries (h, 1, R, D / H), the rest by head and group as well."""
    heads, groups = keys.shape[:2]
    each = queries.expand(-1, groups, -1, -1).flatten(0, 1)
    logits = room.product(each, keys.flatten(0, 1).transpose(1, 2))
    shares = logits.view(heads, groups, *logits.shape[1:]).float()
    if padding is not None:
        shares.masked_fill_(padding == 0, _ABSENT)
    largest = shares.amax(dim=-1, keepdim=True)
    shares.sub_(largest).exp_().mul_(geometry)
    if padding is not None:
        shares.mul_(padding)
    total = shares.sum(dim=-1, keepdim=True)
    floor = total.clamp(min=torch.finfo(total.dtype).tiny)
    # float16 would lose shares of small geometric weights: normalised first.
    outputs = (
        torch.matmul(shares, values) / floor
        if values.dtype == shares.dtype
        else torch.matmul((shares / floor).to(values.dtype), values)
    )
    return outputs, (largest + total.log())[..., 0]
