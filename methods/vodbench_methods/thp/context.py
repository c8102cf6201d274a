"""What the layers of a partially updated network find where nothing is computed: the key frame's, propagated.

    F^(n) = U^(n) N^(n)(F^(n-1)) + (1 - U^(n)) W(F_k^(n), M^(n))        (Zhu et al., THP, CVPR 2018, Sec. 3.2)

U^(n) and M^(n) are U and the flow M by nearest neighbours, M in cells of layer n. Only layers that read around a
position need it (see ``walk``), so only their inputs are kept of a key frame. The scale map belongs to the last layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vodbench_methods.flow import Convention, warp
from vodbench_methods.flow.warping import sampling_positions
from vodbench_methods.thp.masks import enlarged


@dataclass(frozen=True, slots=True)
class Corners:
    """The four cells that each of m bilinear samples lies between."""

    index: Tensor  # (m, 4) y * width + x
    weights: Tensor  # (m, 4), zero for a cell outside the map


class KeptMaps:
    """Inputs of a key frame's layers that read around a position, in the order of the walk: (N, C, ., .) each."""

    def __init__(self, maps: Sequence[Tensor]) -> None:
        self._maps = list(maps)

    def __getitem__(self, number: int) -> Tensor:
        return self._maps[number]

    def table(self, number: int) -> Tensor:
        """(N * height * width, C): a row a position. Turned once, when first asked for."""
        turned = self._maps[number].contiguous(memory_format=torch.channels_last)
        self._maps[number] = turned
        return turned.permute(0, 2, 3, 1).flatten(0, 2)


class KeyFrameContext:
    """Maps of key frames as the current frames see them.

    flow: (N, 2, h, w) in cells of ``stride`` pixels.
    """

    def __init__(self, kept: KeptMaps, flow: Tensor, stride: int, convention: Convention) -> None:
        self._kept, self._flow, self._stride, self._convention = kept, flow, stride, convention

    def dense(self, number: int, stride: int) -> Tensor:
        """(N, C, height, width): all of the ``number``-th map, which has ``stride`` pixels a cell."""
        kept = self._kept[number]
        # Contiguous: layers are slower in the layout that the warp leaves behind, or do not take it (deformable ones).
        return warp(kept, self._flow_at(stride, *kept.shape[2:]), self._convention).contiguous()

    def corners(self, stride: int, height: int, width: int, positions: Tensor) -> Corners:
        """Where maps of this stride and size are sampled for some positions (y * width + x) of the current frame."""
        x, y = sampling_positions(self._flow_at(stride, height, width), self._convention)
        x, y = x.flatten()[positions, None], y.flatten()[positions, None]
        columns = x.floor() + x.new_tensor((0, 1, 0, 1))
        rows = y.floor() + y.new_tensor((0, 0, 1, 1))
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        weights = (1 - (x - columns).abs()) * (1 - (y - rows).abs()) * inside
        index = rows.long().clamp(0, height - 1) * width + columns.long().clamp(0, width - 1)
        return Corners(index, weights)

    def sampled(self, number: int, corners: Corners) -> Tensor:
        """(m, C) of the ``number``-th map, of one image."""
        return F.embedding_bag(corners.index, self._kept.table(number), per_sample_weights=corners.weights, mode="sum")

    def _flow_at(self, stride: int, height: int, width: int) -> Tensor:
        ratio = self._stride // stride
        return enlarged(self._flow, ratio, height, width) * ratio
