"""When a row or a column of an array comes out with the same bits, whatever others are computed with it.

Work of several settings is shared by taking rows or columns of one larger array. On a CPU

- matrix products add the terms of an element in one order, but for very small ones, which have other kernels;
- functions such as a logarithm may round otherwise in the remainder of a vectorised loop.

So arrays that may be shared are never made smaller than ``MIN_ROWS`` by ``MIN_COLUMNS``, and leave no remainder, by
rows and columns that nobody looks at. Where a device promises nothing, nothing is shared. What rests on it is compared
bit by bit, settings together with each by itself: in the contract suite, and in every run of ``bench sweep``.
"""

from __future__ import annotations

from math import gcd

import torch

MIN_ROWS = 8
MIN_COLUMNS = 32
_MIN_DEPTH = 8
_VECTOR = 32  # numbers that a vectorised loop takes at a time: two registers of 512 bits


def products_are_exact(depth: int, device: torch.device) -> bool:
    """Whether products of ``MIN_ROWS`` by ``MIN_COLUMNS`` or more are, with sums of ``depth`` terms."""
    return device.type == "cpu" and depth >= _MIN_DEPTH


def rows_are_exact(count: int, device: torch.device) -> bool:
    """Whether ``count`` rows come out of a product the same among any number of others."""
    return device.type == "cpu" and count >= MIN_ROWS


def room_for(count: int, width: int) -> int:
    """At least ``count`` and ``MIN_ROWS`` rows of ``width`` numbers that leave no remainder."""
    step = max(MIN_ROWS, _VECTOR // gcd(_VECTOR, width))
    return max(1, -(-count // step)) * step
