"""``vodbench bench relation``: all of its forms on a small workload, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vodbench.errors import UserError
from vodbench_methods.relation import bench
from vodbench_methods.relation.bench import BASE, TOLERANCE, compare, measure_part, peak_and_held_mb
from vodbench_methods.relation.workload import Form, Workload, module_forms, stage_forms


@pytest.fixture
def work() -> Workload:
    return Workload(queries=12, T=2, K=10, dim=64, heads=4, seed=0, device=torch.device("cpu"))


def test_every_form_gives_the_straightforward_result(work: Workload) -> None:
    figures = compare(work, repeats=1, bfloat16=True)
    assert figures["speedup"] == figures["stages_streamed_speedup"] > 0
    assert figures["keys"] == 50
    for part, forms in (("stages", ("scratch", "streamed")), ("module", ("scratch", "cached"))):
        assert figures[f"{part}_largest_output"] > 0.1
        for form in forms:
            assert 0 <= figures[f"{part}_{form}_largest_difference"] <= TOLERANCE
            assert figures[f"bf16_{part}_{form}_largest_difference"] > TOLERANCE, "bfloat16 was not used"
            assert figures[f"{part}_{form}_peak_mb"] > figures[f"{part}_{form}_held_mb"] > 0


def test_a_stream_that_goes_on_stays_right(work: Workload) -> None:
    with torch.inference_mode():
        forms = stage_forms(work)
        expected, step = forms[BASE].prepare()(), forms["streamed"].prepare()
        for _ in range(2 * work.config.T + 3):
            torch.testing.assert_close(step(), expected, atol=TOLERANCE, rtol=0)


def test_memory_counts_what_is_kept_and_what_is_made() -> None:
    given = torch.zeros(1000)

    def prepare() -> bench.Run:
        kept = torch.zeros(3000)
        return lambda: kept + kept  # 3,000 more

    peak, held = peak_and_held_mb(Form(prepare, [given]))
    assert (peak, held) == (4 * 7000 / 1e6, 4 * 4000 / 1e6)


@pytest.mark.parametrize("fault", [1e-3, float("nan")])
def test_a_wrong_result_is_not_timed(work: Workload, fault: float) -> None:
    forms = dict(module_forms(work))
    right = forms["cached"].prepare()

    def wrong() -> Tensor:
        return right() + fault

    forms["cached"] = Form(lambda: wrong, ())
    with torch.inference_mode(), pytest.raises(RuntimeError, match="cached differs by"):
        measure_part("module", forms, forms[BASE].prepare()(), work.device, 1, TOLERANCE)


def test_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sizes = {"queries": 8, "T": 1, "K": 4, "dim": 32, "heads": 4}
    monkeypatch.setenv("VODBENCH_GATE", str(tmp_path))  # wait for nobody
    bench.command(repeats=1, device="cpu", seed=0, json=True, **sizes)
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"speedup", "memory_ratio", "stages_streamed_ms", "module_cached_speedup"} <= set(figures)
    for wrong in ({"queries": 0}, {"heads": 5}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            bench.command(repeats=1, device="cpu", seed=0, json=True, **(sizes | wrong))
