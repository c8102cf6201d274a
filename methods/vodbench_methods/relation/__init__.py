"""Relations between proposals: geometry, the object relation module, and a slow reference to test it against."""

from vodbench_methods.relation.blocks import attended, attended_by_heads, head_blocks, partial_sums
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
    "attended",
    "attended_by_heads",
    "evenly",
    "head_blocks",
    "partial_sums",
]
