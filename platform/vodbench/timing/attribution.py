"""What a frame costs, when a method may answer late."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def frame_costs(pushes: Sequence[float], returned: Sequence[int], close: float) -> npt.NDArray[np.float64]:
    """The cost of each frame of one snippet; their sum is the snippet's total.

    A method that looks T frames ahead answers nothing to the first T pushes and catches up in ``close()``: those
    pushes did their frame's own work (backbone, proposals), ``close`` does their share of the rest (relation). So the
    cost of ``close`` goes in equal parts to the pushes that were answered with nothing, and to all when there were
    none. A frame of a look-ahead method then costs the same at a video's start, middle and end, the median is not
    pulled by the snippet's length, and the mean is exactly total / frames.

    Args:
        pushes: (F,) cost of each ``push``, in any unit.
        returned: (F,) how many frames' detections each push returned.
        close: cost of ``close()``, same unit.

    Returns:
        (F,) cost a frame, same unit.
    """
    costs = np.array(pushes, np.float64)
    if not len(costs):
        return costs
    owed = np.asarray(returned) == 0
    if not owed.any():
        owed[:] = True
    costs[owed] += close / owed.sum()
    return costs
