"""Passes that keep features: the same detections as without, and the frames' own work done once."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from vodbench.checkpoints import Checkpoint, save_checkpoint
from vodbench.data_source import DataSource
from vodbench.detections import DetectionSet
from vodbench.features import CacheSettings
from vodbench.features.sharing import KeptFeatures
from vodbench.knobs import MethodConfig
from vodbench.registry import method_spec
from vodbench.spec import ClassInfo
from vodbench.streaming import detect_configs, detect_split

SHRUNK = {
    **{"short_side": 32, "max_side": 48, "proposals": 8, "candidates": 30, "K": 4, "T": 1},
    **{"fc_channels": 16, "heads": 2, "score_threshold": 0.01},
}


def config(method: str = "rdn", **changes: Any) -> MethodConfig:
    spec = method_spec(method)
    known = {name: value for name, value in {**SHRUNK, **changes}.items() if name in spec.config.knobs()}
    return spec.config.from_mapping({**spec.presets["tiny"], **known})


def written(path: Path, method: str = "rdn", seed: int = 0) -> str:
    torch.manual_seed(seed)
    built: Any = method_spec(method).build(config(method), 2)
    checkpoint = Checkpoint(
        method=method,
        config=config(method),
        classes=(ClassInfo("a", "a"), ClassInfo("b", "b")),
        weights=built.state_dict(),
        fingerprint="always the same",
        stage="only",
        data_fingerprint="none",
        seed=seed,
        revision="test",
    )
    save_checkpoint(str(path), checkpoint)
    return str(path)


@pytest.fixture
def weights(tmp_path: Path) -> str:
    return written(tmp_path / "model.pt")


@pytest.fixture
def reads(plain: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The snippets that were read, a name a read."""
    done: list[str] = []
    original = plain.PlainData.read

    def read(self: Any, split: str, snippet: str, *rest: Any, **named: Any) -> Any:
        done.append(snippet)
        return original(self, split, snippet, *rest, **named)

    monkeypatch.setattr(plain.PlainData, "read", read)
    return done


def source(**options: Any) -> DataSource:
    return DataSource(root="nowhere", kind="plain", options=options)


def detected(weights: str, out: Path, cache: CacheSettings | None, **changes: Any) -> DetectionSet:
    return detect_split(weights, config(**changes), source(), "val", str(out), cache=cache)


def assert_equal(got: DetectionSet, wanted: DetectionSet) -> None:
    assert len(wanted.scores), "the comparison needs detections"
    for name in ("boxes", "scores", "labels", "offsets", "frame"):
        assert np.array_equal(getattr(got, name), getattr(wanted, name)), name


def test_later_settings_take_what_earlier_ones_made(weights: str, tmp_path: Path, reads: list[str]) -> None:
    cache = CacheSettings(url=str(tmp_path / "cache"))
    first = detected(weights, tmp_path / "1", cache)
    assert sorted(reads) == ["s0", "s1", "s2"]
    reads.clear()
    second = detected(weights, tmp_path / "2", cache, T=3, K=2)
    assert reads == []
    assert_equal(first, detected(weights, tmp_path / "3", None))
    assert_equal(second, detected(weights, tmp_path / "4", None, T=3, K=2))
    assert first.provenance == detected(weights, tmp_path / "3", None).provenance


def test_other_encoding_settings_weights_and_data_have_entries_of_their_own(
    weights: str, tmp_path: Path, reads: list[str]
) -> None:
    cache = CacheSettings(url=str(tmp_path / "cache"))
    detected(weights, tmp_path / "1", cache)
    reads.clear()
    assert_equal(
        detected(weights, tmp_path / "2", cache, proposals=5), detected(weights, tmp_path / "3", None, proposals=5)
    )
    assert reads.count("s1") == 2
    other = written(tmp_path / "other.pt", seed=1)  # a name that says the same as the first weights'
    assert_equal(detected(other, tmp_path / "4", cache), detected(other, tmp_path / "5", None))
    reads.clear()
    detect_split(weights, config(), source(frames=6), "val", str(tmp_path / "6"), cache=cache)
    assert sorted(reads) == ["s0", "s1", "s2"]


def test_damage_is_found_and_made_good(weights: str, tmp_path: Path, reads: list[str]) -> None:
    cache = CacheSettings(url=str(tmp_path / "cache"))
    wanted = detected(weights, tmp_path / "1", cache)
    (victim, other, _) = sorted((tmp_path / "cache").rglob("*.features"))
    whole = victim.read_bytes()
    victim.write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    other.write_bytes(other.read_bytes()[:-1])
    reads.clear()
    assert_equal(detected(weights, tmp_path / "2", cache), wanted)
    assert len(reads) == 2
    reads.clear()
    assert_equal(detected(weights, tmp_path / "3", cache), wanted)
    assert reads == []


def test_a_cache_that_holds_a_part_gives_that_part(weights: str, tmp_path: Path, reads: list[str]) -> None:
    detected(weights, tmp_path / "1", CacheSettings(url=str(tmp_path / "all")))
    sizes = sorted(path.stat().st_size for path in (tmp_path / "all").rglob("*.features"))
    small, budget = tmp_path / "small", sum(sizes) - sizes[0] // 2
    wanted = detected(weights, tmp_path / "2", CacheSettings(url=str(small), budget_bytes=budget))
    assert len(list(small.rglob("*.features"))) == 2
    reads.clear()
    cache = CacheSettings(url=str(small), budget_bytes=budget)
    assert_equal(detected(weights, tmp_path / "3", cache), wanted)
    assert len(reads) == 1


def test_what_another_process_kept_meanwhile_is_taken_and_the_next_snippet_is_right(
    weights: str, tmp_path: Path, plain: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = CacheSettings(url=str(tmp_path / "cache"))
    wanted = detected(weights, tmp_path / "1", cache)
    monkeypatch.setattr(KeptFeatures, "has", lambda self, config: False)  # when it was asked
    assert_equal(detected(weights, tmp_path / "2", cache), wanted)


def test_half_precision_is_the_same_from_the_first_pass_on(weights: str, tmp_path: Path) -> None:
    cache = CacheSettings(url=str(tmp_path / "cache"), precision="fp16")
    exact = detected(weights, tmp_path / "1", None)
    rounded = detected(weights, tmp_path / "2", cache)
    again = detected(weights, tmp_path / "3", cache)
    assert_equal(again, rounded)
    assert not np.array_equal(rounded.scores, exact.scores)
    assert rounded.provenance == {**exact.provenance, "features": "fp16"}
    for got, other in ((rounded, tmp_path / "1"), (exact, tmp_path / "2")):  # neither passes for the other
        provenance = detected(weights, other, cache if got is rounded else None).provenance
        assert provenance == got.provenance


def test_settings_with_and_without_kept_features_go_together(weights: str, tmp_path: Path) -> None:
    cache = CacheSettings(url=str(tmp_path / "cache"))
    detected(weights, tmp_path / "1", cache)
    wanted = [{"T": 2}, {"proposals": 5}]
    outs = [str(tmp_path / f"together{n}") for n in range(2)]
    configs = [(config(**change), out) for change, out in zip(wanted, outs, strict=True)]
    detect_configs(weights, configs, source(), "val", cache=cache)
    for (one, out), number in zip(configs, range(2), strict=True):
        alone = detect_split(weights, one, source(), "val", str(tmp_path / f"alone{number}"))
        assert_equal(detect_split(weights, one, source(), "val", out), alone)


def test_frames_that_do_not_decode_are_not_kept(weights: str, tmp_path: Path, reads: list[str]) -> None:
    cache = CacheSettings(url=str(tmp_path / "cache"))
    bad = source(bad="s1/2", skip_bad=True)
    first = detect_split(weights, config(), bad, "val", str(tmp_path / "1"), cache=cache)
    reads.clear()
    second = detect_split(weights, config(T=2), bad, "val", str(tmp_path / "2"), cache=cache)
    assert set(reads) == {"s1"}
    assert first.provenance["bad_frames"] == second.provenance["bad_frames"]
    assert_equal(second, detect_split(weights, config(T=2), bad, "val", str(tmp_path / "3")))


def test_a_method_that_takes_images_is_left_alone(plain: ModuleType, tmp_path: Path) -> None:
    path = written(tmp_path / "dff.pt", "dff")
    cache = CacheSettings(url=str(tmp_path / "cache"))
    made = config("dff", key_frame_interval=2)
    with_cache = detect_split(path, made, source(), "val", str(tmp_path / "1"), cache=cache)
    assert_equal(with_cache, detect_split(path, made, source(), "val", str(tmp_path / "2")))
    assert not list(tmp_path.rglob("*.features"))
