"""Relations between proposals: geometry, the object relation module, and a slow reference to test it against."""

from vodbench_methods.relation.blocks import are_told, attended, exponentials, head_blocks, partial_sums, weighed
from vodbench_methods.relation.geometry import Floor, GeometricWeights, evenly
from vodbench_methods.relation.module import KeyValues, ObjectRelation, SharedGeometry
from vodbench_methods.relation.room import Room

__all__ = [
    "Floor",
    "GeometricWeights",
    "KeyValues",
    "ObjectRelation",
    "Room",
    "SharedGeometry",
    "are_told",
    "attended",
    "evenly",
    "exponentials",
    "head_blocks",
    "partial_sums",
    "weighed",
]
