"""Relations between proposals: geometry, the object relation module, and a slow reference to test it against."""

from vodbench_methods.relation.geometry import Floor, GeometricWeights, evenly
from vodbench_methods.relation.module import KeyValues, ObjectRelation, SharedGeometry, softmax

__all__ = ["Floor", "GeometricWeights", "KeyValues", "ObjectRelation", "SharedGeometry", "evenly", "softmax"]
