"""Sines and cosines of every pair's distance: what dominates the geometry, and how it is had cheaply on a CPU.

An angle is reduced to r in [-1/2, 1/2] turns, give or take 0.05, and both waves come from its half: with ``z = r^2``,
``S(z) r = 2 sin(pi r)`` and ``C(z) = cos(pi r)``,

    sin(2 pi r) = S(z) r C(z),        cos(2 pi r) = 2 C(z)^2 - 1.

S and C interpolate at five Chebyshev nodes: the sine is off by 2.4e-7, the cosine by 4.8e-7, as much as float32 rounds.
It takes 60% of the time of ``torch.sin`` and ``torch.cos``, which reduce each angle anew.

The reduction is exact where it matters. Rounding an angle of 690 rad (a centre that coincides) to float32 costs 3e-5,
so the distance and the highest frequencies are split into a part of few bits, whose product has no rounding, and a
small rest: turns = d_0 f_0 + (d - d_0) f + d_0 (f - f_0).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

NUM_FREQUENCIES = 8

# Coefficients of z^0 .. z^4, interpolating for |r| <= 0.55.
_SINE = (6.283185237663748, -10.335414065425804, 5.100023469938766, -1.1956968453129089, 0.15348413963389876)
_COSINE = (0.9999998793587519, -4.934782250680176, 4.058183254076451, -1.3303413101838821, 0.2165158733620463)

_NUM_SPLIT = 3  # frequencies whose angles are reduced in parts; the others stay below 52 rad, where float32 is fine
_DISTANCE_STEP = 2.0**-8  # of d_0; |d_0| < 16 leaves it 12 bits
_FREQUENCY_STEP = 2.0**-8  # of f_0, in turns; f_0 < 16 leaves it 12 bits


def frequencies(device: torch.device | None = None) -> Tensor:
    """(8,) float64: 100 / 1000^(k/8), radians a unit of log distance."""
    k = torch.arange(NUM_FREQUENCIES, dtype=torch.float64, device=device)
    return 100.0 / 1000.0 ** (k / NUM_FREQUENCIES)


class PairWaves:
    """(n, 32, K) float32: 8 sines, 8 cosines of x, then of y, for up to ``rows`` queries at a time.

    The memory is used again by the next call, so that it stays in the processor's cache.
    """

    def __init__(self, rows: int, num_keys: int, device: torch.device) -> None:
        self._waves = torch.empty(rows, 2, 2, NUM_FREQUENCIES, num_keys, device=device)
        self._angle = torch.empty(rows, 2, NUM_FREQUENCIES, num_keys, device=device)
        self._reduced = device.type == "cpu"  # elsewhere one kernel a wave is cheaper than one an operation
        frequency = frequencies(device)[:, None]
        if self._reduced:
            frequency /= 2 * math.pi
            self._square = torch.empty_like(self._angle)
            self._constants = [[torch.tensor(c) for c in series] for series in (_SINE, _COSINE)]
            self._coarse = frequency.clone()
            self._coarse[:_NUM_SPLIT] = _rounded(self._coarse[:_NUM_SPLIT], _FREQUENCY_STEP)
            self._fine = (frequency - self._coarse)[:_NUM_SPLIT].float()
            self._coarse = self._coarse.float()
        self._frequency = frequency.float()

    def __call__(self, log_distances: Tensor) -> Tensor:
        """Waves of (n, 2, K) log distances."""
        count = len(log_distances)
        waves, angle = self._waves[:count], self._angle[:count]
        sine, cosine = waves[:, :, 0], waves[:, :, 1]
        if self._reduced:
            self._reduce(log_distances[:, :, None], angle, self._square[:count])
            self._from_turns(angle, self._square[:count], sine, cosine)
        else:
            torch.mul(log_distances[:, :, None], self._frequency, out=angle)
            torch.sin(angle, out=sine)
            torch.cos(angle, out=cosine)
        return waves.flatten(1, 3)

    def _reduce(self, distance: Tensor, turns: Tensor, whole: Tensor) -> None:
        """``turns`` in [-0.55, 0.55] (the small parts add 0.047 where |d| <= 8); ``whole`` is scratch."""
        coarse = _rounded(distance, _DISTANCE_STEP)
        split = slice(0, _NUM_SPLIT)
        torch.mul(coarse, self._coarse[split], out=turns[:, :, split])
        torch.mul(distance, self._coarse[_NUM_SPLIT:], out=turns[:, :, _NUM_SPLIT:])
        torch.round(turns, out=whole)
        turns.sub_(whole)
        turns[:, :, split].addcmul_(distance - coarse, self._frequency[split]).addcmul_(coarse, self._fine)

    def _from_turns(self, turns: Tensor, square: Tensor, sine: Tensor, cosine: Tensor) -> None:
        torch.mul(turns, turns, out=square)
        for series, out in zip(self._constants, (sine, cosine), strict=True):
            torch.add(series[-2], square, alpha=float(series[-1]), out=out)
            for constant in reversed(series[:-2]):
                torch.addcmul(constant, out, square, out=out)
        sine.mul_(turns).mul_(cosine)
        torch.addcmul(cosine.new_tensor(-1.0), cosine, cosine, value=2.0, out=cosine)


def _rounded(values: Tensor, step: float) -> Tensor:
    return (values / step).round_().mul_(step)
