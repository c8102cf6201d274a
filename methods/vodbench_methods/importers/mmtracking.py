"""Published checkpoints of mmtracking (OpenMMLab, 0.x): its SELSA on Faster R-CNN "DC5".

A file is ``{meta, state_dict}``. The network behind it keeps mmdetection's conventions, each a named setting of the
detector (``CONVENTIONS``): proposals and RoIs share one map (conv5 after a 3x3 convolution), every 3x3 of conv5 is
dilated, anchors are centred on x = y = 0, box targets are divided by 0.2. Weights are turned where the order differs:
its background class is the last and has no box, ours is the first and has one that nothing reads (zeros).
Left as it is: mmtracking pads images with zeros to multiples of 16 after resizing, which the last cells of a map see.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from vodbench.errors import UserError
from vodbench.registry import method_spec
from vodbench_methods.importers.published import Imported, Source, count, needed, read_file, state_dict, translated

CONVENTIONS: Mapping[str, Any] = MappingProxyType(
    {
        "channel_order": "rgb",
        "pixel_mean": (123.675, 116.28, 103.53),
        "pixel_std": (58.395, 57.12, 57.375),
        "frozen_batch_norm": True,
        "batch_norm_eps": 1e-5,
        "stride_in_1x1": False,
        "dilate_first_block": True,
        "rpn_input": "conv5",
        "inclusive_boxes": False,
        "anchor_sizes": (64.0, 128.0, 256.0, 512.0),
        "anchor_ratios": (0.5, 1.0, 2.0),
        "anchor_origin": "corner",
        "roi_sampling": 2,
        "roi_aligned": True,
        "box_weights": (5.0, 5.0, 5.0, 5.0),
        "heads": 16,
        "test_frames": 14,
        "own_frame": True,
        "K": 300,
        "score_threshold": 1e-4,
        "max_detections": 100,
    }
)

_PROJECT = "mmtracking"
_BOX_HEAD = "detector.roi_head.bbox_head."
# The width of conv2's 3x3 and the channels that one group of it reads, and the blocks in conv4.
_BACKBONES = {
    (64, 64, 6): "resnet50",
    (64, 64, 23): "resnet101",
    (128, 4, 23): "resnext101_32x4d",
    (256, 4, 23): "resnext101_64x4d",
}
_PROJECTIONS = {"query": "fc_embed", "key": "ref_fc_embed", "value": "ref_fc", "output": "fc"}
_PREFIXES = (  # ours -> published; the first that fits counts
    ("backbone.", "detector.backbone."),
    ("reduction.", "detector.neck.convs.0.conv."),
    ("rpn.conv.", "detector.rpn_head.rpn_conv."),
    ("rpn.cls_logits.", "detector.rpn_head.rpn_cls."),
    ("rpn.bbox_pred.", "detector.rpn_head.rpn_reg."),
    ("fcs.", f"{_BOX_HEAD}shared_fcs."),
)


def import_mmtracking(path: str, settings: Mapping[str, Any] | None = None) -> Imported:
    """Read mmtracking's SELSA. ``settings`` override knobs that the file does not tell, such as ``test_frames``.

    Raises ``UserError`` when ``path`` is no such file, holds another network, or when its keys or shapes are not those
    of the layout: missing and unexpected ones are listed.
    """
    values = read_file(path, _PROJECT)
    published = state_dict(values, "state_dict", path, _PROJECT)
    shown = _shown_settings(published, path)
    num_classes = len(needed(published, f"{_BOX_HEAD}fc_cls.weight", path, _PROJECT)) - 1
    spec = method_spec("selsa")
    config = spec.config.from_mapping({**CONVENTIONS, **shown, **(settings or {})})
    with torch.device("meta"):  # only names and shapes are needed
        module = spec.build(config, num_classes)
    assert isinstance(module, nn.Module)
    sources = {name: _source(name, tuple(value.shape)) for name, value in module.state_dict().items()}
    expected = f"{_PROJECT}'s layout 'SELSA ({shown['modules']} modules, {shown['backbone']})'"
    weights = translated(published, sources, expected, path)
    return Imported("selsa", config, num_classes, weights, _class_names(values, num_classes, path))


def _shown_settings(published: Mapping[str, Tensor], path: str) -> dict[str, Any]:
    """What the shapes say about the network. ``UserError`` for one that is not SELSA."""
    modules = count(published, f"{_BOX_HEAD}aggregator.")
    if not modules:
        flow = " and a flow network (motion), as DFF and FGFA do" if count(published, "motion.") else ""
        raise UserError(
            f"checkpoint '{path}' holds no '{_BOX_HEAD}aggregator'{flow}; mmtracking's SELSA can be imported, whose "
            "layout is detector.{backbone, neck, rpn_head, roi_head.bbox_head.{shared_fcs, aggregator, fc_cls, fc_reg}}"
        )
    neck = needed(published, "detector.neck.convs.0.conv.weight", path, _PROJECT)
    return {
        "backbone": _backbone(published, path),
        "conv5_reduction": neck.shape[0],
        "conv5_reduction_kernel": neck.shape[-1],
        "rpn_channels": len(needed(published, "detector.rpn_head.rpn_conv.weight", path, _PROJECT)),
        "fc_channels": len(needed(published, f"{_BOX_HEAD}shared_fcs.0.weight", path, _PROJECT)),
        "modules": modules,
    }


def _backbone(published: Mapping[str, Tensor], path: str) -> str:
    width, per_group = needed(published, "detector.backbone.layer1.0.conv2.weight", path, _PROJECT).shape[:2]
    blocks = count(published, "detector.backbone.layer3.")
    if (width, per_group, blocks) not in _BACKBONES:
        raise UserError(
            f"checkpoint '{path}' has a backbone of {blocks} blocks in layer3 and {width} channels in groups of "
            f"{per_group}; {', '.join(_BACKBONES.values())} can be imported"
        )
    return _BACKBONES[width, per_group, blocks]


def _source(name: str, shape: tuple[int, ...]) -> Source:
    """Where one of our weights comes from."""
    aggregator = re.fullmatch(r"aggregators\.(\d+)\.(query|key|value|output)\.(weight|bias)", name)
    if aggregator:
        index, projection, kind = aggregator.groups()
        return Source(f"{_BOX_HEAD}aggregator.{index}.{_PROJECTIONS[projection]}.{kind}", shape)
    if name.startswith("predictor.cls_score."):
        return Source(name.replace("predictor.cls_score.", f"{_BOX_HEAD}fc_cls."), shape, _background_first)
    if name.startswith("predictor.bbox_pred."):
        without_background = (shape[0] - 4, *shape[1:])
        return Source(
            name.replace("predictor.bbox_pred.", f"{_BOX_HEAD}fc_reg."), without_background, _boxed_background
        )
    published = next(name.replace(ours, theirs, 1) for ours, theirs in _PREFIXES if name.startswith(ours))
    return Source(published, shape)


def _background_first(rows: Tensor) -> Tensor:
    """(C + 1, ...) with the background last -> with the background first."""
    return torch.cat((rows[-1:], rows[:-1]))


def _boxed_background(rows: Tensor) -> Tensor:
    """(4 C, ...) boxes of the classes -> (4 (C + 1), ...) with a row of zeros for the background's."""
    return torch.cat((rows.new_zeros(4, *rows.shape[1:]), rows))


def _class_names(values: Mapping[str, Any], num_classes: int, path: str) -> tuple[str, ...] | None:
    """The names that the file's ``meta`` keeps, in the order of the labels."""
    meta = values.get("meta")
    names = meta.get("CLASSES") if isinstance(meta, dict) else None
    if names is None:
        return None
    if not isinstance(names, (list, tuple)) or len(names) != num_classes:
        raise UserError(f"checkpoint '{path}' scores {num_classes} classes but its meta names {names!r}; is it whole?")
    return tuple(map(str, names))
