"""What a study says of its feature cache, and where that is."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from vodbench.data_source import DataSource
from vodbench.errors import UserError
from vodbench.studies import Study, parse_study
from vodbench.sweeps.folder import StudyFolder
from vodbench.sweeps.platform_steps import cache_settings
from vodbench.sweeps.running import plan_sweep
from vodbench.sweeps.steps import TrialContext


def study(**changes: Any) -> Study:
    values = {"name": "kept", "title": "t", "data": {"root": "nowhere", "dataset": "plain"}}
    return parse_study({**values, "methods": [{"method": "faster-rcnn"}], **changes}, "kept")


def context(**changes: Any) -> TrialContext:
    return TrialContext(study(**changes), DataSource(root="nowhere"), "data", "/out")


@pytest.mark.parametrize(
    ("changes", "url"),
    [
        ({}, None),  # a grid is detected in one pass
        ({"search": {"sampler": "tpe", "trials": 9}}, "/out/features"),
        ({"workers": {"concurrent_trials": 2}}, "/out/features"),
        ({"cache": {"dtype": "fp16"}}, "/out/features"),
        ({"cache": {"url": "s3://bucket/features"}}, "s3://bucket/features"),
        ({"cache": {"dtype": "off"}, "search": {"sampler": "tpe", "trials": 9}}, None),
    ],
)
def test_features_are_kept_where_that_can_be_of_use(changes: dict[str, Any], url: str | None) -> None:
    settings = cache_settings(context(**changes))
    assert (None if settings is None else settings.url) == url


def test_precision_and_budget_are_as_said() -> None:
    settings = cache_settings(context(cache={"url": "x", "dtype": "fp16", "budget_gb": 0.5}))
    assert settings is not None
    assert (settings.precision, settings.budget_bytes) == ("fp16", 500_000_000)


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        ({"dtype": "fp8"}, r"cache\.dtype"),
        ({"budget_gb": 0}, r"cache\.budget_gb"),
        ({"budget": 5}, "did you mean 'budget_gb'"),
    ],
)
def test_mistakes_are_found_first(cache: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        study(cache=cache)


def test_workers_are_told_a_place_that_they_reach(plain: ModuleType, tmp_path: Path) -> None:
    plan = plan_sweep(study(cache={"url": "features"}), str(tmp_path))
    assert plan.context.study.cache.url == os.path.abspath("features")
    with pytest.raises(UserError, match="which workers cannot reach"):
        plan_sweep(study(cache={"url": "memory://features"}), str(tmp_path))


def test_a_folder_holds_rounded_or_exact_results_not_both(tmp_path: Path) -> None:
    folder = StudyFolder(str(tmp_path))
    folder.claim(study(), "data")
    folder.claim(study(cache={"dtype": "off"}), "data")
    with pytest.raises(UserError, match=r"belongs to another study: cache\.dtype is 'exact' there and 'fp16' here"):
        folder.claim(study(cache={"dtype": "fp16"}), "data")
