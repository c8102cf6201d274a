"""``vodbench bench data``: what it counts, and that it leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vodbench.cli import app
from vodbench.data_source import DataSource
from vodbench.errors import UserError
from vodbench.spec import ClipSpec
from vodbench_datasets.clips.bench import command
from vodbench_datasets.clips.blocks import decode_block, read_block
from vodbench_datasets.clips.pipeline import plan_of
from vodbench_datasets.clips.throughput import Flow, decoding, distinct_frames, encoded_frames
from vodbench_datasets.generated import GeneratorConfig, generate


def test_frames_are_those_that_clips_decode(tmp_path: Path) -> None:
    """A frame that a clip shows twice is decoded once; the same frame in another clip again."""
    generate(str(tmp_path), GeneratorConfig(snippets=1, val_snippets=1, frames=3, size=48))
    data = DataSource(root=str(tmp_path)).open()
    clips = ClipSpec(num_supports=2, offset_low=-9, offset_high=9)
    frames = encoded_frames(data, clips, 20, seed=0)  # type: ignore[arg-type]
    plan = plan_of(data, clips, split="train", seed=0)  # type: ignore[arg-type]
    decoded = decode_block(read_block(data, "train", [plan[number] for number in range(20)]))
    assert len(frames) == sum(map(distinct_frames, decoded)) < 60
    flow = decoding(frames)
    assert flow.frames_per_second > 0
    assert flow.cpu_ms_a_frame > 0


def test_the_median_is_one_measurement() -> None:
    flows = [Flow(frames_per_second=speed, cpu_ms_a_frame=speed + 1) for speed in (5.0, 1.0, 3.0, 4.0)]
    assert Flow.median(flows) == flows[2]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"clips": 31}, "--clips 31"), ({"supports": -1}, "--supports -1"), ({"size": 8}, "--size 8")],
)
def test_bad_numbers(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        command(**wrong)


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    also = tmp_path / "store"
    arguments = ["bench", "data", "--clips", "32", "--size", "48", "--repeats", "1", "--also", str(also), "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout.splitlines()[-1])
    for place in ("local", "local2"):
        fraction = figures[f"{place}_frames_per_second"] / figures["decode_frames_per_second"]
        assert figures[f"fraction_of_decode_{place}"] == pytest.approx(fraction)
        cpu = figures[f"{place}_cpu_ms_a_frame"] / figures["decode_cpu_ms_a_frame"]
        assert figures[f"cpu_over_decode_{place}"] == pytest.approx(cpu)
        assert figures[f"first_clip_seconds_{place}"] > 0
    assert figures["object_store_mib"] > 0
    assert list(also.iterdir()) == []
