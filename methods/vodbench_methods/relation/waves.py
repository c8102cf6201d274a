"""Sines and cosines of every pair's distance: what dominates the geometry, and how it is had cheaply on a CPU.

An angle is reduced to r in [-pi, pi], and both waves come from its half: with ``z = r^2``, ``S(z) r = 2 sin(r / 2)``
and ``C(z) = cos(r / 2)``,

    sin(r) = S(z) r C(z),        cos(r) = 2 C(z)^2 - 1.

S and C interpolate at five Chebyshev nodes: the sine is off by 1e-7, the cosine by 2e-7, about as much as float32
rounds. It takes 60% of the time of ``torch.sin`` and ``torch.cos``, which reduce the angle twice.

The reduction takes n = round(angle / 2 pi) turns off in two parts: n has 8 bits and the first part of 2 pi as many, so
their product and its difference from the angle are exact. What remains is the rounding of the angle itself to float32
(3e-5 at the 690 rad of centres that coincide), the same as in the literal form.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

NUM_FREQUENCIES = 8

# Coefficients of z^0 .. z^4, interpolating for |r| <= 3.15.
_SINE = (0.999999996, -0.0416666444, 0.000520815353, -3.09510573e-06, 1.01731293e-08)
_COSINE = (0.999999952, -0.124999757, 0.00260397024, -2.1645716e-05, 9.04056494e-08)

_TURN_COARSE = 6.28125
_TURN_FINE = 2 * math.pi - _TURN_COARSE


def frequencies(device: torch.device | None = None) -> Tensor:
    """(8,) float64: 100 / 1000^(k/8), radians a unit of log distance."""
    k = torch.arange(NUM_FREQUENCIES, dtype=torch.float64, device=device)
    return 100.0 / 1000.0 ** (k / NUM_FREQUENCIES)


class PairWaves:
    """(n, 32, K) float32: 8 sines, 8 cosines of x, then of y, for up to ``rows`` queries at a time.

    The memory is used again by the next call, so that it stays in the processor's cache. ``beside`` (m, K) stands
    behind the waves of each query: they are (n, 32 + m, K) then.
    """

    def __init__(self, rows: int, device: torch.device, beside: Tensor) -> None:
        self.rows = rows
        more, num_keys = beside.shape
        self._all = torch.empty(rows, 4 * NUM_FREQUENCIES + more, num_keys, device=device)
        self._waves = self._all[:, : 4 * NUM_FREQUENCIES].unflatten(1, (2, 2, NUM_FREQUENCIES))  # type: ignore[no-untyped-call]
        self._all[:, 4 * NUM_FREQUENCIES :] = beside
        self._angle = torch.empty(rows, 2, NUM_FREQUENCIES, num_keys, device=device)
        self._frequency = frequencies(device)[:, None].float()
        self._reduced = device.type == "cpu"  # elsewhere one kernel a wave is cheaper than one an operation
        if self._reduced:
            self._scratch = torch.empty_like(self._angle)
            self._constants = [[torch.tensor(c) for c in series] for series in (_SINE, _COSINE)]

    def __call__(self, log_distances: Tensor) -> Tensor:
        """Waves of (n, 2, K) log distances."""
        count = len(log_distances)
        waves, angle = self._waves[:count], self._angle[:count]
        sine, cosine = waves[:, :, 0], waves[:, :, 1]
        torch.mul(log_distances[:, :, None], self._frequency, out=angle)
        if self._reduced:
            self._reduce(angle, self._scratch[:count])
            self._sine_and_cosine(angle, self._scratch[:count], sine, cosine)
        else:
            torch.sin(angle, out=sine)
            torch.cos(angle, out=cosine)
        return self._all[:count]

    def _reduce(self, angle: Tensor, turns: Tensor) -> None:
        """Take whole turns off ``angle``, in place; ``turns`` is scratch."""
        torch.mul(angle, 0.5 / math.pi, out=turns).round_()
        angle.add_(turns, alpha=-_TURN_COARSE).add_(turns, alpha=-_TURN_FINE)

    def _sine_and_cosine(self, angle: Tensor, square: Tensor, sine: Tensor, cosine: Tensor) -> None:
        """Of reduced angles; ``square`` is scratch. Constants are tensors: one pass an addition and multiplication."""
        torch.mul(angle, angle, out=square)
        for series, out in zip(self._constants, (sine, cosine), strict=True):
            torch.add(series[-2], square, alpha=float(series[-1]), out=out)
            for constant in reversed(series[:-2]):
                torch.addcmul(constant, out, square, out=out)
        sine.mul_(angle).mul_(cosine)
        torch.addcmul(cosine.new_tensor(-1.0), cosine, cosine, value=2.0, out=cosine)
