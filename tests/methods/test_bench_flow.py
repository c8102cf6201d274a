"""``vodbench bench flow`` with the small presets, and what it refuses."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from vodbench.cli import app

SMALL = ["bench", "flow", "--preset", "tiny", "--interval", "3", "--window", "1", "--repeats", "1"]


def test_the_last_line_is_one_object_with_the_promised_figures() -> None:
    result = CliRunner().invoke(app, [*SMALL, "--json"])
    assert result.exit_code == 0, result.exception
    figures = json.loads(result.stdout.splitlines()[-1])
    assert figures["dff_speedup"] == figures["per_frame_ms"] / figures["dff_ms"]
    assert figures["flow_share"] == figures["flow_and_warp_ms"] / figures["backbone_ms"] > 0
    assert set(figures["partial_saved_over_ideal"]) == {"10", "30", "60"}
    ideal = figures["partial_ideal"]
    assert 1 > ideal["10"] > ideal["30"] > ideal["60"] > 0
    assert figures["partial_largest_difference"] < 1e-4
    assert figures["fgfa_cache_speedup"] > 0
    assert figures["fgfa_T"] == 1


@pytest.mark.parametrize(("part", "shown"), [("dff", "flow and warp"), ("partial", "computed anew"), ("fgfa", "FGFA")])
def test_one_part_in_words(part: str, shown: str) -> None:
    result = CliRunner().invoke(app, [*SMALL, "--part", part])
    assert result.exit_code == 0, result.exception
    assert shown in result.output
    others = {"flow and warp", "computed anew", "FGFA"} - {shown}
    assert not any(other in result.output for other in others)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--interval", "0"], "--interval 0 is not accepted"),
        (["--repeats", "0"], "--repeats 0 is not accepted"),
        (["--threads", "-1"], "--threads -1 is not accepted"),
        (["--window", "0"], "--window 0 is not accepted"),
        (["--part", "dfff"], "did you mean 'dff'"),
        (["--preset", "papr"], "did you mean 'paper'"),
    ],
)
def test_what_cannot_be_is_refused(options: list[str], message: str) -> None:
    result = CliRunner().invoke(app, [*SMALL, *options])
    assert message in str(result.exception)
