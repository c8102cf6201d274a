"""Methods that start from a trained single-frame detector begin with its answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from vodbench.registry import method_spec, table
from vodbench.spec import Detections
from vodbench_methods.detection.warm_start import WarmStartConfig, narrowed
from vodbench_methods.hvrnet.non_local import NonLocal
from vodbench_methods.propagation.config import FlowNetworkConfig
from vodbench_methods.relation import ObjectRelation
from vodbench_methods.selsa.aggregation import SemanticAggregation

NUM_CLASSES = 3
# Methods that propagate features start from a detector too, but have no relations.
METHODS = [
    name
    for name in sorted(table("methods"))
    if issubclass(method_spec(name).config, WarmStartConfig)
    and not issubclass(method_spec(name).config, FlowNetworkConfig)
]

# Layers that the detector lacks, which start as the identity, and the other order of attention and ReLU.
FURTHER: dict[str, dict[str, Any]] = {
    "hvrnet": {"intra_modules": 4, "inter_modules": 2},
    "rdn": {"N_b": 3},
    "rdn-basic": {"N_b": 3},
    "relation-network": {"relation_order": "pre"},
    "selsa": {"modules": 3},
}


@pytest.fixture(params=METHODS)
def method_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def add_nothing(method: nn.Module) -> None:
    """Let every relation give zero."""
    given = [
        relation.value if isinstance(relation, ObjectRelation) else relation.output
        for relation in method.modules()
        if isinstance(relation, ObjectRelation | SemanticAggregation | NonLocal)
    ]
    assert given, "relations of a new kind: say here which layer gives what they add"
    for layer in given:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def found(method: Any, tiny: Any) -> list[Detections]:
    stream = method.stream()
    return [d for image in tiny.images(4) for d in stream.push(image)] + stream.close()


@pytest.mark.parametrize("further", [False, True])
def test_with_relations_that_add_nothing_it_is_the_detector(tiny: Any, further: bool) -> None:
    config = tiny.config(**FURTHER[tiny.spec.name] if further else {})
    single = method_spec("faster-rcnn")
    torch.manual_seed(3)
    detector: Any = single.build(narrowed(config, single.config), NUM_CLASSES)
    method = tiny.spec.build(config, NUM_CLASSES)
    method.load_initial(detector.state_dict())
    add_nothing(method)
    for got, expected in zip(found(method.eval(), tiny), found(detector.eval(), tiny), strict=True):
        assert len(got.boxes) == len(expected.boxes) > 0
        np.testing.assert_allclose(got.boxes, expected.boxes, atol=1e-4, rtol=0)
        np.testing.assert_allclose(got.scores, expected.scores, atol=1e-5, rtol=0)
        np.testing.assert_array_equal(got.labels, expected.labels)
