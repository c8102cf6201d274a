"""Box linking: detections of a whole snippet, rescored along the paths they form. Any detector can use it.

- ``seq_nms``: Seq-NMS, on the boxes before NMS, instead of it;
- ``tube``: Viterbi tubes with Detect & Track's rescoring, on the boxes after NMS;
- ``blr``: box linking with relations (RDN), ``tube`` with edges weighted by how frame t's proposals attend to t + 1's.

They are functions from the frames of one snippet (``FrameBoxes``) to which boxes stay with which score (``Linked``);
``link`` makes final detections of them, and ``LinkedStream`` a stream. ``reference`` reads them box by box.

Latency
-------
Linking is offline. The first frame's scores may depend on the last frame, so that nothing is final before the snippet
ends: a linked stream returns everything at ``close``. Its cost falls there too, and its memory grows with the snippet:
some kilobytes of boxes a frame, and 4 P K bytes of relation weights for ``blr`` (P proposals, K lent; 90 kB at 300 and
75), never images or features.
"""

from vodbench_methods.linking.chains import seq_nms
from vodbench_methods.linking.records import FrameBoxes, Linked
from vodbench_methods.linking.stream import (
    LINKINGS,
    BoxStream,
    LinkedStream,
    link,
    linked_stream,
    wants_candidates,
    wants_relations,
)
from vodbench_methods.linking.tubes import blr, tube

__all__ = [
    "LINKINGS",
    "BoxStream",
    "FrameBoxes",
    "Linked",
    "LinkedStream",
    "blr",
    "link",
    "linked_stream",
    "seq_nms",
    "tube",
    "wants_candidates",
    "wants_relations",
]
