"""How the cost of RDN's relation stages grows with T, K, N_b and r.

With Q reference proposals and a window of W = 2T + 1 frames of K proposals each, a step of the stream computes

- the basic stage: Q x WK pairs in each of N_b modules: linear in T, K and N_b;
- the refinement of the frame that enters: its rK proposals against WK, and the window's rWK against its K: linear in T
  and r, quadratic in K;
- the final module: keys and values of the rWK refined proposals (they change with the window), and Q x rWK pairs.

So at fixed other knobs the cost is a constant plus a linear term in T, N_b and r, and a polynomial of degree two in K.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from matplotlib.figure import Figure

from vodbench.device import synchronize
from vodbench.spec import Detections
from vodbench.transforms import Resized
from vodbench_methods.detection.records import FrameFeatures
from vodbench_methods.rdn.config import RDNConfig
from vodbench_methods.rdn.full import RDN
from vodbench_methods.rdn.stream import RDNStream

VALUES: dict[str, tuple[int, ...]] = {
    "T": (3, 6, 12, 24),
    "K": (25, 75, 150, 300),
    "N_b": (1, 2, 3, 4),
    "r": (10, 20, 50, 100),
}
DEGREES = {"K": 2}  # of the polynomial above; 1 for the others
REPEATS = 3
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Growth:
    """Milliseconds a frame of the relation stages against one knob, the others as configured."""

    knob: str
    values: tuple[float, ...]
    milliseconds: tuple[float, ...]

    def fitted(self) -> tuple[tuple[float, ...], float]:
        """(coefficients from the constant on, coefficient of determination) of the least-squares polynomial.

        Of the knob's degree (``DEGREES``), or less where there are not more values than that.
        """
        degree = min(DEGREES.get(self.knob, 1), len(self.values) - 1)
        falling = np.polyfit(self.values, self.milliseconds, degree)
        residual = np.subtract(self.milliseconds, np.polyval(falling, self.values))
        spread = np.var(self.milliseconds)
        return tuple(map(float, falling[::-1])), float(1 - np.var(residual) / spread) if spread else 1.0

    def exponent(self) -> float:
        """Slope in log-log scale: 0 constant, 1 proportional, 2 quadratic."""
        return float(np.polyfit(np.log(self.values), np.log(self.milliseconds), 1)[0])

    def figures(self) -> dict[str, Any]:
        coefficients, determination = self.fitted()
        return {
            "values": list(self.values),
            "milliseconds": list(self.milliseconds),
            "coefficients_ms": list(coefficients),
            "r_squared": determination,
            "exponent": self.exponent(),
        }

    def sentence(self) -> str:
        (constant, *others), determination = self.fitted()
        powers = (f" {value:+.3g} {self.knob}{'^2' if power else ''}" for power, value in enumerate(others))
        times = ", ".join(f"{v:g}: {ms:.1f}" for v, ms in zip(self.values, self.milliseconds, strict=True))
        return (
            f"{self.knob}: {times} ms; about {constant:.1f}{''.join(powers)} ms (R2 {determination:.3f}), "
            f"exponent {self.exponent():.2f}"
        )


def measure_growth(config: RDNConfig, device: torch.device, on_progress: OnProgress) -> list[Growth]:
    """Time the relation stages in a stream's steady state, on made-up proposals."""
    points = [(knob, value) for knob, values in VALUES.items() for value in values if _fits(config, knob, value)]
    times: dict[str, list[tuple[float, float]]] = {}
    for done, (knob, value) in enumerate(points):
        on_progress(f"{knob} = {value}", done, len(points))
        times.setdefault(knob, []).append((value, _relation_ms(config.replace(**{knob: value}), device)))
    on_progress("growth", len(points), len(points))
    return [Growth(knob, *cast(Any, zip(*pairs, strict=True))) for knob, pairs in times.items()]


def _fits(config: RDNConfig, knob: str, value: int) -> bool:
    """A frame has ``proposals`` proposals: more supportive ones than that cannot be lent."""
    return knob != "K" or value <= config.proposals


def _relation_ms(config: RDNConfig, device: torch.device) -> float:
    torch.manual_seed(0)
    # The backbone is never used here: a small one spares building a large one for every point.
    method = RDN(config.replace(backbone="tiny", weights=None), 1).eval().to(device)
    frame = _made_up(config, device)
    stream = cast(RDNStream[Detections], method.stream())
    milliseconds = []
    for number in range(2 * config.T + 1 + REPEATS):
        synchronize(device)
        started = time.perf_counter()
        stream.push_encoded(frame)
        synchronize(device)
        if number > 2 * config.T:
            milliseconds.append(1e3 * (time.perf_counter() - started))
    return float(np.median(milliseconds))


def _made_up(config: RDNConfig, device: torch.device) -> FrameFeatures:
    """A frame of as many proposals as the method encodes, anywhere in the image, best first."""
    count, height = config.encoded_proposals, config.short_side
    corners = torch.rand(count, 2, device=device) * height
    boxes = torch.cat([corners, corners + 16 + torch.rand(count, 2, device=device) * height / 2], dim=1)
    features = torch.randn(count, config.fc_channels, device=device).relu()
    objectness = torch.rand(count, device=device).sort(descending=True).values
    resized = Resized(np.empty((0, 0, 3), np.uint8), 1.0, 1.0)
    return FrameFeatures(boxes, objectness, features, (height, round(height * 5 / 3)), resized)


def draw_growth(curves: Sequence[Growth], path: str) -> None:
    """One panel a knob, with the fitted polynomial."""
    figure = Figure(figsize=(3.2 * len(curves), 3.2), dpi=130, layout="constrained")
    for axes, curve in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves, strict=True):
        coefficients, determination = curve.fitted()
        along = np.linspace(0, max(curve.values), 50)
        shape = "line" if len(coefficients) == 2 else "parabola"
        axes.plot(
            along, np.polyval(coefficients[::-1], along), color="#b8b8b8", label=f"{shape}, R2 {determination:.3f}"
        )
        axes.plot(curve.values, curve.milliseconds, "o", color="#0072B2", label=f"exponent {curve.exponent():.2f}")
        axes.set(xlabel=curve.knob, ylabel="relation stages, ms a frame")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=7)
        axes.grid(alpha=0.25)
    figure.savefig(path)
