"""Knobs, registry, records, storage, fingerprints: what every room builds on."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

import vodbench_methods
from vodbench import registry
from vodbench.data_source import DataSource
from vodbench.errors import OutOfReachError, UserError, nearest
from vodbench.fingerprint import fingerprint
from vodbench.knobs import MethodConfig, knob
from vodbench.records import Accuracy, TrialRecord
from vodbench.storage import exists, filesystem, read_bytes, read_text, write_bytes, write_text


@dataclass(frozen=True, kw_only=True)
class Config(MethodConfig):
    T: int = knob(18, "supports each side", kind="inference", symbol="T", low=1)
    r: float = knob(20.0, "share kept", kind="inference", symbol="r%", above=0, high=100)
    N_b: int = knob(2, "modules", low=0, high=4)
    backbone: str = knob("tiny", "network", choices=("tiny", "resnet50"))
    order: Literal["post", "pre"] = knob("post", "order")
    frozen: bool = knob(True, "frozen")
    sizes: tuple[float, ...] = knob((1.0, 2.0), "sizes")
    weights: str | None = knob(None, "file")


@pytest.mark.parametrize(
    ("name", "value"),
    [("T", 0), ("T", -3), ("T", 1.5), ("T", "3"), ("T", True), ("T", None), ("r", 0), ("r", 100.1), ("r", math.nan),
     ("r", math.inf), ("N_b", 5), ("backbone", "resnet51"), ("order", "both"), ("frozen", 1), ("sizes", 3),
     ("sizes", ["a"]), ("weights", 3)],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_with_what_is_accepted(name: str, value: object) -> None:
    with pytest.raises(UserError) as caught:
        Config.from_mapping({name: value})
    text = str(caught.value)
    assert text.startswith(f"{name} = {value!r} is not accepted")
    assert Config.knobs()[name].help in text
    assert "\n" not in text


def test_an_unknown_knob_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown knob 'backbon': did you mean 'backbone'"):
        Config.from_mapping({"backbon": "tiny"})
    with pytest.raises(UserError, match="unknown knob"):
        Config().replace(N=1)


def test_values_become_their_declared_type() -> None:
    config = Config.from_mapping({"T": 3.0, "r": 100, "sizes": [1, 2], "weights": "a.pth"})
    assert (config.T, config.r, config.sizes, config.weights) == (3, 100.0, (1.0, 2.0), "a.pth")
    assert isinstance(config.T, int)
    assert isinstance(config.r, float)


def test_settings_split_by_kind_and_survive_a_round_trip() -> None:
    config = Config(T=3, r=50)
    assert config.inference_settings() == {"T": 3, "r": 50.0}
    assert set(config.training_settings()) == {"N_b", "backbone", "order", "frozen", "sizes", "weights"}
    assert Config.from_mapping(config.to_mapping()) == config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.T = 4  # type: ignore[misc]


def test_an_unknown_method_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown method 'rdm': did you mean 'rdn'"):
        registry.method_spec("rdm")


def test_a_name_registered_twice_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Twice:
        value = "vodbench_methods:METHODS"

    assert vodbench_methods.METHODS
    registry.table.cache_clear()
    monkeypatch.setattr(registry, "entry_points", lambda group: [Twice()])
    try:
        with pytest.raises(UserError, match="registered twice"):
            registry.table("methods")
    finally:
        registry.table.cache_clear()


@pytest.mark.parametrize("kind", ["methods", "datasets"])
def test_every_row_of_every_table_loads_and_bears_its_name(kind: registry.Kind) -> None:
    load = registry.method_spec if kind == "methods" else registry.dataset_spec
    assert registry.table(kind)
    for name in registry.table(kind):
        assert load(name).name == name
        assert load(name).summary


@pytest.mark.parametrize(("root", "message"), [("nowhere", "does not exist"), ("empty", "holds nothing")])
def test_a_data_root_nobody_recognises_is_refused(tmp_path: Path, root: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        DataSource(root=str(tmp_path / root)).open()


def test_a_scheme_nobody_implements_is_refused() -> None:
    with pytest.raises(UserError, match="cannot be opened"):
        filesystem("gopher://host/file")


def test_a_server_that_is_tried_at_once_and_refuses_is_an_error_of_one_line(refusing_port: int) -> None:
    """FTP's file system connects when it is made."""
    with pytest.raises(OutOfReachError, match=r"cannot be reached \(.*\); check the address and the network"):
        filesystem(f"ftp://127.0.0.1:{refusing_port}/file")


def test_records_round_trip_and_refuse_another_schema() -> None:
    record = TrialRecord(
        fingerprint="f", study="s", method="m", paper="p", config={"T": 1}, knobs={}, seed=0, status="complete",
        accuracy=Accuracy(protocol="voc", map=0.5, low=0.4, high=0.6, per_class={"cat": None}),
    )  # fmt: skip
    assert TrialRecord.from_json(record.to_json()) == record
    with pytest.raises(UserError, match="schema 9 is not"):
        TrialRecord.from_json(record.to_json().replace('"schema": 1', '"schema": 9'))
    with pytest.raises(UserError, match="damaged"):
        TrialRecord.from_json('{"schema": 1, "surprise": 2}')


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = str(tmp_path / "a" / "file.txt")
    write_text(url, "old")

    def broken(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="disk full"):
        write_text(url, "new")
    assert read_text(url) == "old"
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["file.txt"]


def test_storage_reads_what_it_wrote_in_memory_too() -> None:
    write_bytes("memory://contracts/x.bin", b"\x00\x01")
    assert exists("memory://contracts/x.bin")
    assert read_bytes("memory://contracts/x.bin") == b"\x00\x01"
    with pytest.raises(UserError, match="does not exist"):
        read_bytes("memory://contracts/y.bin")


def test_fingerprints_depend_on_values_not_on_order() -> None:
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert fingerprint("ab", "c") != fingerprint("a", "bc")


def test_nearest_names_all_that_is_accepted() -> None:
    assert nearest("rdm", ["rdn", "thp"]) == "did you mean 'rdn'? accepted: rdn, thp"
    assert nearest("zzz", []) == "accepted: none"
