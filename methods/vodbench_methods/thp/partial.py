"""The feature network of a detector, run whole on key frames and in parts on the frames between.

    F_i(p) = N_feat(I_i)(p) where U(p) = 1,  W(F_k, M) S (p) elsewhere      (Zhu et al., THP, CVPR 2018, Sec. 3.2)

layer by layer: see ``context``. Training computes it everywhere under the mask, inference where the mask is 1 alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vodbench_methods.detection.backbones import Backbone
from vodbench_methods.detection.records import Batch
from vodbench_methods.detection.single_frame import SingleFrameDetector
from vodbench_methods.rfcn.model import RFCN
from vodbench_methods.thp.context import KeptMaps, KeyFrameContext
from vodbench_methods.thp.counting import CountingOperations
from vodbench_methods.thp.dense import DenseOperations, MaskedOperations
from vodbench_methods.thp.rows import Matrices
from vodbench_methods.thp.sparse import SparseOperations
from vodbench_methods.thp.walk import Features, Operations, walk


class PartialExtractor:
    """``detector.extract`` that can be done in parts."""

    def __init__(self, detector: SingleFrameDetector) -> None:
        self._detector = detector
        self._stride: int = detector.config.feature_stride
        self._matrices = Matrices()

    def whole(self, batch: Batch) -> tuple[Tensor, KeptMaps]:
        """The (N, C, h, w) maps of ``batch``, and what later frames need of these frames' earlier layers."""
        operations = DenseOperations()
        feature_map = self._walk(operations, batch).values
        return feature_map, KeptMaps(operations.kept)

    def masked(self, batch: Batch, mask: Tensor, propagated: Tensor, context: KeyFrameContext) -> Tensor:
        """``propagated`` (N, C, h, w), computed anew where ``mask`` (N, 1, h, w) in {0, 1} is 1.

        Computes everything, for training. Gradients reach weights, ``propagated`` and ``context``.
        """
        fresh = self._walk(MaskedOperations(mask, self._stride, context), batch).values
        return torch.where(mask > 0, fresh, propagated)

    def updated(self, batch: Batch, mask: Tensor, propagated: Tensor, context: KeyFrameContext) -> Tensor:
        """The same of one image, at the cost of the positions computed; for inference."""
        (cells,) = mask[:, 0].bool()
        positions = cells.flatten().nonzero().squeeze(1)
        if not len(positions):
            return propagated
        size = (batch.tensor.shape[2], batch.tensor.shape[3])
        operations = SparseOperations(cells, self._stride, size, context, self._matrices)
        rows = self._walk(operations, batch).values
        return propagated.flatten(2).index_copy(2, positions, rows.t()[None]).view_as(propagated)

    def multiply_adds(self, batch: Batch, cells: Tensor) -> int:
        """What ``updated`` has to compute of an image of this size, where ``cells`` (h, w) is true."""
        operations = CountingOperations(cells, self._stride, (batch.tensor.shape[2], batch.tensor.shape[3]))
        self._walk(operations, batch)
        return operations.multiply_adds

    def _walk(self, operations: Operations, batch: Batch) -> Features:
        backbone, reduction = self._network()
        return walk(operations, backbone, reduction, batch.tensor, through_c5=reduction is not None)

    def _network(self) -> tuple[Backbone, nn.Conv2d | None]:
        """What ``extract`` is made of: conv4 of Faster R-CNN, reduced conv5 of R-FCN."""
        detector = self._detector
        return detector.inference_backbone(), detector.reduction if isinstance(detector, RFCN) else None
