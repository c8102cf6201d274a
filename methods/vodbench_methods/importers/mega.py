"""Published checkpoints of mega.pytorch (Chen et al., CVPR 2020): its Faster R-CNN ("base"), RDN, DFF and FGFA.

A file is ``{model, optimizer, scheduler, iteration}``; ``model`` is a state dict, with ``module.`` before a key when
a distributed run saved it. The network behind it keeps Caffe's conventions. Each is a named setting of the detector
(``CONVENTIONS``), so that imported weights give the detections they were published with.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from vodbench.errors import UserError
from vodbench.registry import method_spec
from vodbench.spec import MethodSpec
from vodbench_methods.detection.anchors import cell_anchors
from vodbench_methods.detection.config import DetectorConfig
from vodbench_methods.importers import mega_flow
from vodbench_methods.importers.published import Imported, Source, count, needed, read_file, state_dict, translated

CONVENTIONS: Mapping[str, Any] = MappingProxyType(
    {
        "channel_order": "bgr",
        "pixel_mean": (102.9801, 115.9465, 122.7717),
        "pixel_std": (1.0, 1.0, 1.0),
        "frozen_batch_norm": True,
        "batch_norm_eps": 0.0,
        "stride_in_1x1": True,
        "inclusive_boxes": True,
        "rounded_anchors": True,
        "roi_sampling": 0,
        "roi_aligned": False,
    }
)
RELATION_CONVENTIONS: Mapping[str, Any] = MappingProxyType(
    {"relation_order": "pre", "relation_floor": "add", "video_ends": "replicate"}
)

_PROJECT = "mega.pytorch"
_EXTRACTOR = "roi_heads.box.feature_extractor."
_PREDICTOR = "roi_heads.box.predictor."
_ANCHORS = "rpn.anchor_generator.cell_anchors.0"
_BACKBONES = {6: "resnet50", 23: "resnet101"}  # by the number of blocks in conv4
_PROJECTIONS = {"geometry": "Wgs", "query": "Wqs", "key": "Wks", "value": "Wvs"}
_PREFIXES = (  # ours -> published; the first that fits counts
    ("backbone.layer4.", f"{_EXTRACTOR}head.layer4."),
    ("backbone.layer", "backbone.body.layer"),
    ("backbone.", "backbone.body.stem."),
    ("reduction.", f"{_EXTRACTOR}conv."),
    ("rpn.", "rpn.head."),
    ("predictor.", _PREDICTOR),
    ("head.fcs.0.", f"{_EXTRACTOR}fc6."),
    ("head.fcs.1.", f"{_EXTRACTOR}fc7."),
    ("fcs.", f"{_EXTRACTOR}fcs."),
)


@dataclass(frozen=True, slots=True)
class _Layout:
    """What the keys of a file say about the network."""

    name: str
    method: str
    settings: Mapping[str, Any]
    num_basic: int = 0  # N_b
    flow: bool = False  # a flow network beside the base


def import_mega(path: str, settings: Mapping[str, Any] | None = None) -> Imported:
    """Read a mega.pytorch checkpoint. ``settings`` override knobs that the file does not tell, such as T or K.

    Raises ``UserError`` when ``path`` is no such file, holds a network that no method here is, or when its keys or
    shapes are not those of the layout: all missing and unexpected ones are listed.
    """
    published = state_dict(read_file(path, _PROJECT), "model", path, _PROJECT)
    layout = _layout(published, path)
    num_classes = len(needed(published, f"{_PREDICTOR}cls_score.weight", path, _PROJECT)) - 1
    spec = method_spec(layout.method)
    config = spec.config.from_mapping({**_detector_settings(spec), **layout.settings, **(settings or {})})
    with torch.device("meta"):  # only names and shapes are needed
        module = spec.build(config, num_classes)
    assert isinstance(module, nn.Module)
    sources = {name: _source(name, tuple(value.shape), layout) for name, value in module.state_dict().items()}
    expected = f"{_PROJECT}'s layout '{layout.name}'"
    weights = translated(published, sources, expected, path, ignored={_ANCHORS})
    assert isinstance(config, DetectorConfig)
    _check_anchors(published, config, path)
    return Imported(layout.method, config, num_classes, weights)


def _layout(published: Mapping[str, Tensor], path: str) -> _Layout:
    """Which network it is, and the settings that the shapes show. ``UserError`` for one that is no method here."""
    settings: dict[str, Any] = {"backbone": _backbone(published, path)}
    if f"{_EXTRACTOR}conv.weight" in published:
        settings["conv5_reduction"] = len(published[f"{_EXTRACTOR}conv.weight"])
    if f"{_EXTRACTOR}fc6.weight" in published:
        settings["fc_channels"] = len(published[f"{_EXTRACTOR}fc6.weight"])
        found = mega_flow.found(published)
        if found is not None:
            return _Layout(found.layout, found.method, settings | found.settings, flow=True)
        return _Layout("base (fc6, fc7)", "faster-rcnn", settings)
    num_layers, num_modules = (count(published, f"{_EXTRACTOR}{part}.") for part in ("fcs", "Wgs"))
    if num_modules == 0 or num_modules - num_layers not in (0, 1):
        raise UserError(
            f"checkpoint '{path}' holds {num_layers} fcs and {num_modules} relation modules (Wgs), which is neither "
            "mega.pytorch's base (fc6, fc7; DFF and FGFA likewise) nor its RDN (as many, or one module more); these "
            "can be imported"
        )
    settings |= RELATION_CONVENTIONS
    settings["fc_channels"] = len(needed(published, f"{_EXTRACTOR}fcs.0.weight", path, _PROJECT))
    settings["heads"] = len(needed(published, f"{_EXTRACTOR}Wgs.0.weight", path, _PROJECT))
    num_basic = num_modules if num_modules == num_layers else num_modules - 2
    settings["N_b"] = num_basic
    if num_modules == num_layers:
        return _Layout(f"RDN base ({num_basic} modules)", "rdn-basic", settings, num_basic)
    return _Layout(f"RDN ({num_basic} basic modules, advanced stage)", "rdn", settings, num_basic)


def _backbone(published: Mapping[str, Tensor], path: str) -> str:
    blocks = count(published, "backbone.body.layer3.")
    width = needed(published, "backbone.body.layer1.0.conv2.weight", path, _PROJECT).shape
    if blocks not in _BACKBONES or width[:2] != (64, 64):
        raise UserError(
            f"checkpoint '{path}' has {blocks} blocks in layer3 and a first 3x3 convolution of {list(width[:2])} "
            "channels; ResNet-50 (6 blocks) and ResNet-101 (23 blocks) of [64, 64] can be imported"
        )
    return _BACKBONES[blocks]


def _detector_settings(spec: MethodSpec) -> dict[str, Any]:
    """Those of the Faster R-CNN behind every layout; a method for several detectors has other defaults."""
    known = spec.config.knobs()
    defaults = method_spec("faster-rcnn").config().to_mapping()
    return {name: value for name, value in {**defaults, **CONVENTIONS}.items() if name in known}


def _source(name: str, shape: tuple[int, ...], layout: _Layout) -> Source:
    """Where one of our weights comes from."""
    beside = mega_flow.source(name, shape) if layout.flow else None
    return beside or Source(_published_name(name.removeprefix(mega_flow.DETECTOR), layout.num_basic), shape)


def _published_name(name: str, num_basic: int) -> str:
    """The published name of one of a detector's weights."""
    relation = re.fullmatch(r"(relations\.(\d+)|refine|distil)\.(geometry|query|key|value)\.(weight|bias)", name)
    if relation:
        place, index, projection, kind = relation.groups()
        number = int(index) if index else num_basic + (place == "distil")
        return f"{_EXTRACTOR}{_PROJECTIONS[projection]}.{number}.{kind}"
    if name.startswith("refine_fc."):
        return name.replace("refine_fc.", f"{_EXTRACTOR}fcs.{num_basic}.")
    prefixes: Iterator[str] = (name.replace(ours, theirs, 1) for ours, theirs in _PREFIXES if name.startswith(ours))
    return next(prefixes)


def _check_anchors(published: Mapping[str, Tensor], config: DetectorConfig, path: str) -> None:
    """The file keeps its base anchors; ours must be the same boxes in the same order."""
    if _ANCHORS not in published:
        return
    ours = cell_anchors(config.anchor_sizes, config.anchor_ratios, config.feature_stride, rounded=True)
    theirs = published[_ANCHORS].float().numpy()
    if theirs.shape != ours.shape or abs(theirs - ours).max() > 1e-3:
        raise UserError(
            f"checkpoint '{path}' was trained with other anchors, starting {theirs[:2].round(1).tolist()}; give them "
            "with --set anchor_sizes=[...] and --set anchor_ratios=[...]"
        )
