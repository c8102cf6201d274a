"""How sure the choice of the best of several candidates is, from their paired bootstrap.

The candidate with the highest mAP on these snippets owes part of its height to luck: it was chosen for it (the winner's
curse), and its own interval knows nothing of that. ``after_choice`` repeats the choice in every resample and sees how
far the chosen candidate stands above its own centre (the optimism of Efron and Tibshirani, An Introduction to the
Bootstrap, 1993, ch. 17, here of a choice among settings); mAP and interval are lowered by that.

The candidates' distances are those seen, which are wider than the true ones: where many are equally good, some optimism
stays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vodbench.evaluation.bootstrap import interval
from vodbench.evaluation.overlap import Doubles
from vodbench.trials.judging import Resampled


@dataclass(frozen=True)
class Estimate:
    """mAP with its 95% interval."""

    map: float
    low: float
    high: float


def best_probability(samples: Doubles) -> Doubles:
    """(n,) share of the (n, B) resamples in which each candidate is the best; equals share a resample."""
    samples = _defined(samples)
    best = samples == samples.max(axis=0)
    share: Doubles = (best / best.sum(axis=0)).mean(axis=1)
    return share


def after_choice(resampled: Resampled) -> Estimate:
    """What to expect of the candidate with the highest mAP, given that it was chosen for it.

    The interval is as wide as the chosen candidate's mAP varies when the choice is made again in each resample. With
    one candidate nothing is chosen: its mAP and its own interval.
    """
    samples = _defined(resampled.samples)
    # A resample repeats snippets, which shifts every mAP a little: the choice goes by the spread around that.
    centre = samples.mean(axis=1)
    spread = samples - centre[:, None]
    chosen = np.argmax(resampled.map[:, None] + spread, axis=0)
    above = spread[chosen, np.arange(spread.shape[1])]  # (B,) of the one chosen in each resample, above its centre
    optimism = float(above.mean())
    best = int(resampled.map.argmax())
    low, high = interval(centre[best] + above - 2 * optimism)
    return Estimate(map=float(resampled.map[best]) - optimism, low=low, high=high)


def _defined(samples: Doubles) -> Doubles:
    """Without the resamples in which no snippet has an object."""
    kept: Doubles = samples[:, ~np.isnan(samples).any(axis=0)]
    return kept
