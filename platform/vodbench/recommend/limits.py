"""What a budget admits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vodbench.errors import UserError
from vodbench.registry import method_spec
from vodbench.trials import Configuration


@dataclass(frozen=True, kw_only=True)
class Limits:
    """A user's limits.

    ``budget_ms``: mean runtime a frame. ``latency_frames``: how many frames later than its own a result may be final;
    None is any number, also the whole snippet. ``contended``: take runtimes of a busy device for what they say.
    """

    budget_ms: float
    latency_frames: int | None = None
    contended: bool = False

    def __post_init__(self) -> None:
        if not self.budget_ms > 0:
            raise UserError(f"--budget-ms {self.budget_ms:g} is not accepted: milliseconds a frame, above 0")

    def trusts(self, configuration: Configuration) -> bool:
        """Whether its runtime counts, its latency is allowed, and it is a method that can be used (no oracle)."""
        latency = configuration.latency_frames
        in_time = self.latency_frames is None or (latency is not None and latency <= self.latency_frames)
        return in_time and (self.contended or not configuration.contended) and not is_guided(configuration)

    def admits(self, configuration: Configuration) -> bool:
        """By the mean; ``may_miss`` and ``may_keep`` say where that is not certain."""
        return self.trusts(configuration) and configuration.mean_ms <= self.budget_ms

    def may_miss(self, configuration: Configuration) -> bool:
        """It is admitted, but the 95% interval of its mean runtime reaches above the budget."""
        return self.admits(configuration) and configuration.high_ms > self.budget_ms

    def may_keep(self, configuration: Configuration) -> bool:
        """It is not admitted, but that interval reaches below the budget."""
        return self.trusts(configuration) and configuration.low_ms <= self.budget_ms < configuration.mean_ms


def no_candidate(configurations: Sequence[Configuration], limits: Limits) -> str:
    """Why none is admitted, and the fastest there is; one line."""
    trusted = [c for c in configurations if limits.trusts(c)]
    asked = f"{limits.budget_ms:g} ms a frame"
    if limits.latency_frames is not None:
        asked += f" and {limits.latency_frames} frames of latency"
    line = f"no setting keeps {asked}"
    if trusted:
        fastest = min(trusted, key=lambda c: c.mean_ms)
        line += (
            f": the fastest is {fastest.name} with {fastest.mean_ms:.1f} ms [{fastest.low_ms:.1f}, "
            f"{fastest.high_ms:.1f}] (mAP {fastest.map:.3f}); allow more, or sweep faster settings"
        )
    admitting = replace(limits, contended=True)
    busy = sum(admitting.admits(c) for c in configurations)
    if busy:
        line += f"; {busy} would, by runtimes taken on a busy device: measure again, or admit them with --contended"
    return line


def is_guided(configuration: Configuration) -> bool:
    """Whether it looks at annotations. A configuration that this version of its method does not take is none."""
    try:
        config = method_spec(configuration.method).config.from_mapping(configuration.config)
    except UserError:
        return False
    return config.guided
