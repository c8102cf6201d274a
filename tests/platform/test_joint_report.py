"""The report of several studies: its differences against an independent computation, and what it says when data is
missing or does not compare."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Run

from vodbench.errors import UserError
from vodbench.evaluation import compare, evaluate
from vodbench.evaluation.bootstrap import interval
from vodbench.front.joint import joint_front
from vodbench.report.joint import compare_methods, render_joint_report
from vodbench.trials import configurations, stored_trials
from vodbench.trials.judging import EVERY_FRAME, RESAMPLES, judged

BETTER = [{"method": "rdn", "config": {"T": 3}, "ms": 20.0, "lost": 0.1, "seed": seed} for seed in (0, 1)]
WORSE = [{"method": "faster-rcnn", "config": {"x": 1}, "ms": 10.0, "lost": 0.5}]


@pytest.fixture(scope="module")
def folders(studies: Any, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("joint")
    made = [("base", WORSE), ("better", BETTER)]
    return [str(studies.make(root / name, trials, title=f"A <b>{name}</b>")) for name, trials in made]


def test_judging_together_is_the_mean_over_seeds_on_shared_resamples(studies: Any, folders: list[str]) -> None:
    both = configurations(stored_trials(folders))
    resampled = judged(both)[EVERY_FRAME]
    worse = studies.detections("faster-rcnn", 0, 0.5)
    better = [studies.detections("rdn", seed, 0.1) for seed in (0, 1)]
    accuracies = [evaluate(studies.truth, found, bootstrap=0).map for found in better]
    np.testing.assert_allclose(resampled.map, [evaluate(studies.truth, worse, bootstrap=0).map, np.mean(accuracies)])
    assert resampled.samples.shape == (2, RESAMPLES)
    single = [compare(studies.truth, found, worse, bootstrap=RESAMPLES) for found in better]
    difference = resampled.difference(1, 0)
    assert difference.mean == pytest.approx(np.mean([d.mean for d in single]), abs=1e-12)
    assert min(d.low for d in single) <= difference.low < difference.high <= max(d.high for d in single)
    assert resampled.interval(0) == interval(resampled.samples[0])


def test_one_seed_is_the_paired_comparison_of_two_methods(studies: Any, tmp_path: Path) -> None:
    folder = studies.make(tmp_path / "s", [*WORSE, BETTER[0]])
    (group,) = joint_front(stored_trials([str(folder)])).groups
    compared = compare_methods(group, ["faster-rcnn", "rdn"])
    assert [point.configuration.method for point in compared.best] == ["faster-rcnn", "rdn"]
    found = [studies.detections("rdn", 0, 0.1), studies.detections("faster-rcnn", 0, 0.5)]
    expected = compare(studies.truth, *found, bootstrap=RESAMPLES)
    assert compared.matrix[1][0] == expected
    assert compared.kinds[EVERY_FRAME][1] == expected
    assert compared.matrix[0][0] is None
    deteriorated = studies.truth.frames_with("any")
    on_those = compare(studies.truth, *found, frames=deteriorated, bootstrap=RESAMPLES)
    assert compared.kinds["deteriorated"][1] == on_those


def test_the_page_is_self_contained_and_shows_what_was_computed(studies: Any, folders: list[str]) -> None:
    page = render_joint_report(folders)
    assert not re.search(r"<script[^>]+src=", page)
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r'(src|href)="https?://', markup)
    assert "A &lt;b&gt;better&lt;/b&gt;" in page
    assert "<b>better" not in page
    difference = judged(configurations(stored_trials(folders)))[EVERY_FRAME].difference(1, 0)
    assert f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]" in markup
    assert "Differences are left out" not in page


def test_without_the_data_the_page_says_so(folders: list[str], studies: Any, tmp_path: Path) -> None:
    gone = {"data": {"root": str(tmp_path / "gone")}}
    made = [str(studies.make(tmp_path / n, t, **gone)) for n, t in (("a", WORSE), ("b", BETTER))]
    page = render_joint_report(made)
    assert re.search(r"Differences are left out: .*does not exist", page)
    assert "Differences are left out" not in render_joint_report([*made, folders[0]]), (
        "one root that is there is enough"
    )


def test_data_that_has_changed_is_not_judged_against(studies: Any, tmp_path: Path) -> None:
    folder = studies.make(tmp_path / "s", WORSE)
    record = next(folder.glob("trials/*/trial.json"))
    record.write_text(record.read_text().replace(studies.dataset.fingerprint, "another"))
    with pytest.raises(
        UserError, match=f"now holds data {studies.dataset.fingerprint}, the trials were made on another"
    ):
        judged(configurations(stored_trials([str(folder)])))


def test_studies_that_do_not_compare_are_refused_or_shown_apart(
    studies: Any, folders: list[str], tmp_path: Path
) -> None:
    other = str(studies.make(tmp_path / "gpu", [{**WORSE[0], "device": "cuda:0"}]))
    with pytest.raises(UserError, match="not all trials compare"):
        render_joint_report([*folders, other])
    page = render_joint_report([*folders, other], anyway=True)
    assert "(1) Methods against each other" in page
    assert "(2) Methods against each other" in page


def test_the_command_writes_one_page_for_several_runs(
    folders: list[str], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("report", *folders)[:2] == (0, "runs/joint/report.html\n")
    assert "2 studies on one front" in (tmp_path / "runs" / "joint" / "report.html").read_text()
