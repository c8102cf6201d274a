"""Optuna's samplers by the names that a study file gives them."""

from __future__ import annotations

import warnings

import optuna

from vodbench.studies.searching import Search


def make_sampler(search: Search) -> optuna.samplers.BaseSampler:
    """The sampler of that name, for two objectives, conditional knobs and constraints.

    - ``random``: no model.
    - ``tpe``: multivariate and grouped, which conditional knobs need.
    - ``nsga2``: its generations are sized so that a sweep has some.
    - ``gp``: a Gaussian process over the knobs that all points have, by expected hypervolume improvement; conditional
      knobs and those of single methods are drawn by TPE, since such a process knows a fixed space only.
    """
    trials = search.trials or 50
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if search.sampler == "random":
            return optuna.samplers.RandomSampler(seed=search.seed)
        if search.sampler == "nsga2":
            generations = 4  # at least: Optuna's default of 50 a generation never gets past the first in a short sweep
            population = min(50, max(4, trials // generations))
            return optuna.samplers.NSGAIISampler(seed=search.seed, population_size=population)
        tpe = optuna.samplers.TPESampler(seed=search.seed, multivariate=True, group=True)
        if search.sampler == "tpe":
            return tpe
        return optuna.samplers.GPSampler(
            seed=search.seed,
            independent_sampler=tpe,
            n_startup_trials=min(10, max(4, trials // 4)),  # Optuna's default of 10 may be all of a short sweep
            warn_independent_sampling=False,
        )
