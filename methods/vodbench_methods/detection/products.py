"""When a matrix product gives a row, or a column, the same bits whatever others are computed with it.

Work of several settings is shared by taking rows or columns of one larger product. The CPU's matrix kernels add the
terms of an element in one order for all products but very small ones, for which they have other kernels. So products
that may be shared are never made smaller than this, by computing rows or columns that nobody looks at; where a device
promises nothing, nothing is shared. What rests on it is compared bit by bit: settings together with each by itself.
"""

from __future__ import annotations

import torch

MIN_ROWS = 8
MIN_COLUMNS = 32


def rows_are_exact(count: int, device: torch.device) -> bool:
    """Whether ``count`` rows come out of a product the same among any number of others."""
    return device.type == "cpu" and count >= MIN_ROWS
