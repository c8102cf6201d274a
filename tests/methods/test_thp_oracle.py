"""THP's oracle through the platform: detected with annotations, timed by the schedule that was found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vodbench.checkpoints import Checkpoint, save_checkpoint
from vodbench.data_source import DataSource
from vodbench.detections import read_detections
from vodbench.evaluation import evaluate, truth_set
from vodbench.images import decode
from vodbench.knobs import MethodConfig
from vodbench.registry import method_spec
from vodbench.spec import Detections, Truth
from vodbench.streaming import detect_configs
from vodbench.timing import measure_runtime, rounds
from vodbench_datasets.generated import GeneratorConfig, generate
from vodbench_methods.thp import oracle as thp_oracle
from vodbench_methods.thp.config import THPConfig
from vodbench_methods.thp.model import THP
from vodbench_methods.thp.steps import Steps


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> DataSource:
    root = str(tmp_path_factory.mktemp("data") / "tree")
    generate(root, GeneratorConfig(snippets=1, val_snippets=2, frames=6, size=64), workers=1)
    return DataSource(root=root)


def config_of(**changes: object) -> THPConfig:
    spec = method_spec("thp")
    config = spec.config.from_mapping({**spec.presets["tiny"], "short_side": 64, "score_threshold": 0.0, **changes})
    assert isinstance(config, THPConfig)
    return config


def untrained(config: MethodConfig, classes: int) -> THP:
    torch.manual_seed(0)
    method = method_spec("thp").build(config, classes)
    assert isinstance(method, THP)
    return method.eval()


def counted(call: Callable[..., Any], calls: list[int]) -> Callable[..., Any]:
    def counting(*given: Any) -> Any:
        calls.append(1)
        return call(*given)

    return counting


def test_accuracy_sees_the_annotations_and_runtime_the_schedule(
    source: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_chance(found: Detections, truth: Truth, num_classes: int, protocol: str) -> float:
        """Of both, so that it tells annotations apart where untrained weights find nothing."""
        return float((1e3 * found.scores.sum() + truth.boxes.sum()) % 1)

    monkeypatch.setattr(thp_oracle, "frame_map", by_chance)
    dataset, oracle, plain = source.open(), config_of(keys="oracle"), config_of(keys="interval", key_frame_interval=3)
    method = untrained(plain, len(dataset.classes))
    weights = str(tmp_path / "model.pt")
    save_checkpoint(
        weights,
        Checkpoint(
            method="thp",
            config=plain,
            classes=dataset.classes,
            weights=method.state_dict(),
            fingerprint="untrained",
            stage="only",
            data_fingerprint="none",
            seed=0,
            revision="test",
        ),
    )
    outs = [str(tmp_path / f"{name}.parquet") for name in ("oracle", "plain")]
    detect_configs(weights, list(zip((oracle, plain), outs, strict=True)), source, "val")
    found, of_plain = (read_detections(out) for out in outs)

    keys = []
    for info in dataset.snippets("val"):
        stream = method.guided_stream(oracle)
        for row, frame in zip(found.rows_of(info.id), dataset.read("val", info.id), strict=True):
            (own,) = stream.push_annotated(decode(frame.encoded, ""), frame.truth)
            assert (own.boxes == found.detections(int(row)).boxes).all()
        keys += stream.keys
    assert set(keys) == {False, True}
    assert found.stage_share() == {}, "what it took to choose is not what the choice costs"
    accuracy = evaluate(truth_set(dataset, "val"), of_plain, bootstrap=0)
    assert accuracy.key_frame_share == pytest.approx(1 / 3)

    monkeypatch.setattr(rounds, "MIN_CPU_SHARE", 0.0)
    monkeypatch.setattr(rounds, "MAX_PRESSURE", 1e9)
    timed: list[int] = []
    monkeypatch.setattr(Steps, "between", counted(Steps.between, timed))
    runtime = measure_runtime(method, oracle, source, "val", num_snippets=2, repeats=1, name="thp")
    assert runtime.num_frames == len(keys)
    # To choose, both answers to each frame are computed; in the passes that are timed, one of them.
    chosen, passes = len(keys) - 2, 2  # each snippet once; and the longest one again to warm up and to count
    assert len(timed) == chosen + keys.count(False) + passes * keys[:6].count(False)
