"""The front against the definition, applied pair by pair."""

from __future__ import annotations

import numpy as np
import pytest

from vodbench.front.pareto import non_dominated


def by_definition(gain: np.ndarray, cost: np.ndarray) -> list[bool]:
    def beats(j: int, i: int) -> bool:
        as_good = gain[j] >= gain[i] and cost[j] <= cost[i]
        return bool(as_good and (gain[j] > gain[i] or cost[j] < cost[i]))

    return [not any(beats(j, i) for j in range(len(gain))) for i in range(len(gain))]


@pytest.mark.parametrize("size", [0, 1, 2, 7, 40])
@pytest.mark.parametrize("levels", [3, 1000])  # few levels: many ties on one or both objectives
def test_front_is_the_definition(size: int, levels: int) -> None:
    for seed in range(40):
        drawn = np.random.default_rng(seed)
        gain, cost = drawn.integers(0, levels, size) / 7.0, drawn.integers(0, levels, size) / 3.0
        assert non_dominated(gain, cost).tolist() == by_definition(gain, cost)


def test_a_missing_figure_is_never_on_the_front() -> None:
    gain = np.array([np.nan, 0.5, 0.9])
    cost = np.array([1.0, 2.0, np.nan])
    assert non_dominated(gain, cost).tolist() == [False, True, False]
