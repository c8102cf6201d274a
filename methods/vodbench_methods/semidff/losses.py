"""What stage 2 of semi-DFF minimises (Han et al., ACM MM 2018). No loss knows a label.

T: temperature. K: classes of a softmax. In every function the mean is taken within an image first, then over images.

The paper names the three terms of the semantic loss, and the authors' code computes four distillation losses; they are
told apart here by what they say: ``inter_class`` is the head's soft cross entropy over C + 1 classes, ``attention`` the
RPN's over two (the RPN is the attention of a two-stage detector), ``bbox`` the mean square of box offsets of both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vodbench_methods.detection.rpn import RpnOutput

# Of the RPN's offsets, which this RPN predicts unscaled: the authors' code learns and compares them divided by their
# standard deviations 0.1, 0.1, 0.4, 0.4. Proposals' offsets come in such units (``box_weights``).
ANCHOR_UNITS = (10.0, 10.0, 2.5, 2.5)


def cells_inside(sizes: Sequence[tuple[int, int]], shape: tuple[int, int], stride: int, device: torch.device) -> Tensor:
    """(N, h, w) cells that start within their image of ``sizes`` (height, width), not in the batch's padding."""
    limits = torch.tensor(sizes, device=device)
    rows = torch.arange(shape[0], device=device) * stride < limits[:, :1]
    columns = torch.arange(shape[1], device=device) * stride < limits[:, 1:]
    return rows[:, :, None] & columns[:, None, :]


def feature_regression(predicted: Tensor, target: Tensor, inside: Tensor, *, absolute: bool = False) -> Tensor:
    """Mean square (or absolute) difference of (N, C, h, w) maps: 1 / (C H W), of the cells ``inside`` (N, h, w)."""
    difference = (predicted - target).float()
    per_cell = (difference.abs() if absolute else difference.square()).mean(dim=1)
    return _mean_where(per_cell, inside)


def steady_target(maps: tuple[Tensor, Tensor], times: tuple[Tensor, Tensor], now: Tensor) -> Tensor:
    """Where maps (N, C, h, w) of two earlier frames lead: the later one, plus the change between them carried on.

    Predicted features at this target have no second difference, which is what steadiness asks for (Jayaraman & Grauman,
    CVPR 2016). The paper does not say more of its "steady" loss. times, now: (N,) frame numbers of each image; where
    both maps are of one frame, nothing changed and its map is the target.
    """
    swap = times[0] > times[1]
    earlier, later = (torch.where(_columns(swap), b, a) for a, b in (maps, maps[::-1]))
    first, second = torch.minimum(*times), torch.maximum(*times)
    steps = (now - second) / (second - first).clamp(min=1)
    return later + _columns(steps).to(later.dtype) * (later - earlier)


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) of (..., K) logits: (...), zero where both agree.

    The cross entropy less the teacher's own entropy, which no weight changes; T^2 keeps gradients of one size whatever
    T is (Hinton et al. 2015). At T = infinity it is its limit, the squared distance of centred logits over 2 K.
    """
    dtype = torch.promote_types(student.dtype, torch.float32)
    student, teacher = student.to(dtype), teacher.to(dtype)
    if math.isinf(temperature):
        difference = student - teacher
        return (difference - difference.mean(dim=-1, keepdim=True)).square().mean(dim=-1) / 2
    log_student = F.log_softmax(student / temperature, dim=-1)
    log_teacher = F.log_softmax(teacher / temperature, dim=-1)
    return temperature**2 * (log_teacher.exp() * (log_teacher - log_student)).sum(dim=-1)


def attention_loss(student: RpnOutput, teacher: RpnOutput, inside: Tensor, temperature: float) -> Tensor:
    """Soft cross entropy of object against background, over the anchors of the cells ``inside`` (N, h, w)."""
    each = soft_cross_entropy(_two_classes(student.logits), _two_classes(teacher.logits), temperature)
    return _mean_where(each, _anchors(inside, student))


def inter_class_loss(student: Tensor, teacher: Tensor, counts: Sequence[int], temperature: float) -> Tensor:
    """Soft cross entropy of (sum n, C + 1) logits of the same proposals, ``counts`` of them in each image."""
    return _mean_of_images(soft_cross_entropy(student, teacher, temperature), counts)


def anchor_box_loss(student: RpnOutput, teacher: RpnOutput, inside: Tensor) -> Tensor:
    """Mean square of the differences of the anchors' four offsets, over the anchors of the cells ``inside``."""
    difference = (student.deltas - teacher.deltas) * student.deltas.new_tensor(ANCHOR_UNITS)
    return _mean_where(difference.square().mean(dim=-1), _anchors(inside, student))


def proposal_box_loss(student: Tensor, teacher: Tensor, counts: Sequence[int]) -> Tensor:
    """The same of (sum n, 4 * (C + 1)) offsets of the proposals, those of every class."""
    return _mean_of_images((student - teacher).float().square().mean(dim=-1), counts)


def _two_classes(logits: Tensor) -> Tensor:
    """A sigmoid's logits as those of a softmax over background and object."""
    return torch.stack((torch.zeros_like(logits), logits), dim=-1)


def _anchors(inside: Tensor, output: RpnOutput) -> Tensor:
    """(N, L): the anchors of cells (N, h, w)."""
    cells = inside.flatten(1)
    return cells.repeat_interleave(output.logits.shape[1] // cells.shape[1], dim=1)


def _mean_where(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over images of each image's mean over ``mask``; both (N, ...)."""
    values, mask = values.flatten(1), mask.flatten(1)
    return ((values * mask).sum(dim=1) / mask.sum(dim=1)).mean()


def _mean_of_images(values: Tensor, counts: Sequence[int]) -> Tensor:
    """Mean over images of the mean of each one's values; an image without proposals counts as 0."""
    weights = [values.new_full((count,), 1 / (count * len(counts))) for count in counts if count]
    return (values * torch.cat((values.new_zeros(0), *weights))).sum()


def _columns(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
