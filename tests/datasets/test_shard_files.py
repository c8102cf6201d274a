"""Which bytes of a shard are read, and through which client."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry
from pyarrow.fs import LocalFileSystem

from vodbench.errors import UserError
from vodbench.spec import ClassInfo, Frame, SnippetInfo, Truth
from vodbench_datasets.clips.pipeline import RayClips
from vodbench_datasets.shards import file, load_index, native, open_shards, write_shards
from vodbench_datasets.shards.file import bridged
from vodbench_datasets.shards.native import native_settings, open_natively

IMAGE_BYTES = 50_000
FRAMES = 40


class Source(RayClips):
    """One snippet of large images, each of one value; frame 7 shows another class."""

    name, root, fingerprint, splits = "source", "nowhere", "f", ("train",)
    classes = (ClassInfo("n1", "cat"), ClassInfo("n2", "dog"))

    def snippets(self, split: str) -> list[SnippetInfo]:
        return [SnippetInfo("a", FRAMES)]

    def training_frames(self, split: str) -> list[tuple[str, int]]:
        return [("a", 7), ("a", 39), ("a", 0)]

    def read(self, split, snippet, indices=None, *, with_images=True):  # type: ignore[no-untyped-def]
        return [frame(index) for index in indices]


def frame(index: int) -> Frame:
    truth = Truth(
        boxes=np.array([[1, 2, 3, index]], np.float32),
        labels=np.array([2 if index == 7 else 1]),
        track_ids=np.array([0]),
        occluded=np.array([False]),
        generated=np.array([False]),
    )
    return Frame("a", index, bytes([index]) * IMAGE_BYTES, truth, {})


def counted(reads: list[int]) -> type[MemoryFileSystem]:
    class Opened(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            reads.append(len(data))
            return data

    class Counting(MemoryFileSystem):  # type: ignore[misc]
        """An object store that notes the size of every read."""

        protocol = "counting"
        cachable = False

        def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
            opened = super()._open(path, mode, **options)
            return Opened(opened.getvalue()) if mode == "rb" else opened

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return str(super()._strip_protocol(path.replace("counting://", "memory://")))

    return Counting


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Bytes of every read from the shards in ``counting://shards``."""
    reads: list[int] = []
    monkeypatch.setitem(_registry, "counting", counted(reads))
    write_shards(Source(), "counting://shards")
    yield reads
    fsspec.filesystem("memory").rm("/shards", recursive=True)


# ---- row groups ----


@pytest.mark.parametrize("gap", [0, 1, 3])
def test_small_holes_are_bridged_and_no_others(gap: int) -> None:
    for count in range(1, 5):
        for groups in combinations(range(9), count):
            filled = bridged(groups, gap)
            assert filled == sorted(set(filled))
            assert set(groups) <= set(filled) <= set(range(groups[0], groups[-1] + 1))
            holes = [(low, high) for low, high in pairwise(groups) if high - low - 1 > gap]
            between = {group for low, high in holes for group in range(low + 1, high)}
            assert set(filled) == set(range(groups[0], groups[-1] + 1)) - between
    assert bridged([], gap) == []


def test_a_clip_from_afar_is_one_request_of_what_it_spans(reads: list[int]) -> None:
    shards = open_shards("counting://shards")
    shards.read("train", "a", [20])
    reads.clear()
    frames = shards.read("train", "a", [22, 13, 19])
    assert [each.encoded for each in frames] == [frame(index).encoded for index in (22, 13, 19)]
    (size,) = (size for size in reads if size > IMAGE_BYTES)
    assert 11 * IMAGE_BYTES < size < 13 * IMAGE_BYTES  # frames 12 to 23: groups of four


def test_frames_far_apart_are_not_read_with_all_between(reads: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "_REQUEST_BYTES", 5 * IMAGE_BYTES)
    shards = open_shards("counting://shards")
    shards.read("train", "a", [20])
    reads.clear()
    shards.read("train", "a", [0, 39])
    assert len([size for size in reads if size > IMAGE_BYTES]) == 2
    assert sum(reads) < 9 * IMAGE_BYTES


def test_annotations_are_read_without_images(reads: list[int]) -> None:
    shards = open_shards("counting://shards")
    assert shards.training_labels("train") == [(2,), (1,), (1,)]
    assert [each.truth.boxes[0, 3] for each in shards.read("train", "a", [30, 3], with_images=False)] == [30, 3]
    assert max(reads) < 64 * 1024 + 1  # the end of the file, where the footer is


# ---- shards with groups of 16 frames, from before ----


def test_any_frame_of_older_shards_is_read(golden: Path) -> None:
    root = str(golden / "shards_before_motion")
    assert load_index(root).group_frames == 16
    for wanted in combinations(range(18), 2):
        frames = open_shards(root).read("train", "a", wanted) if wanted[0] in (0, 15) else []
        assert [each.encoded for each in frames] in ([], [b"image %d" % index for index in wanted])
    assert open_shards(root).training_labels("train") == [(1,), (1,)]


def test_another_size_of_groups_than_was_written_is_an_alteration(tmp_path: Path) -> None:
    write_shards(Source(), str(tmp_path))
    index = tmp_path / "index.json"
    index.write_text(index.read_text().replace('"group_frames":4', '"group_frames":8'))
    with pytest.raises(UserError, match="was altered since it was written"):
        open_shards(str(tmp_path))


# ---- Arrow's client ----


class Client:
    """Arrow's client over local files, which breaks when told to."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.breaks = False

    def open_input_file(self, path: str) -> pa.NativeFile:
        if self.breaks:
            raise OSError("AWS Error NETWORK_CONNECTION during HeadObject operation")
        self.opened.append(path)
        return LocalFileSystem().open_input_file(path)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    """Stands for Arrow's client, of every file system."""
    client = Client()
    fake: Callable[..., Client] = lambda fs, process: client  # noqa: E731
    fake.cache_clear = lambda: None  # type: ignore[attr-defined]
    monkeypatch.setattr(native, "_client", fake)
    monkeypatch.setattr(native, "_is_s3fs", lambda fs: True)
    monkeypatch.setattr(native, "_paused", {})
    return client


def test_shards_are_read_through_it(client: Client, tmp_path: Path) -> None:
    write_shards(Source(), str(tmp_path))
    assert open_shards(str(tmp_path)).read("train", "a", [5])[0].encoded == frame(5).encoded
    assert client.opened == [str(tmp_path / "train-00000.parquet")]


def test_when_it_cannot_open_fsspec_reads_and_it_rests(client: Client, tmp_path: Path) -> None:
    write_shards(Source(), str(tmp_path))
    client.breaks = True
    assert open_shards(str(tmp_path)).read("train", "a", [5])[0].encoded == frame(5).encoded
    client.breaks = False
    assert open_shards(str(tmp_path)).read("train", "a", [5])[0].encoded == frame(5).encoded
    assert client.opened == []
    native._paused.clear()
    open_shards(str(tmp_path)).read("train", "a", [5])
    assert len(client.opened) == 1


def test_when_it_breaks_in_the_middle_fsspec_reads_on_and_it_comes_back(client: Client, tmp_path: Path) -> None:
    write_shards(Source(), str(tmp_path))
    shards = open_shards(str(tmp_path))
    shards.read("train", "a", [5])
    client.breaks = True
    shards._files[0]._file.close()  # as a connection that went away: the next read fails
    for _ in range(2):
        assert shards.read("train", "a", [38])[0].encoded == frame(38).encoded
    assert len(client.opened) == 1
    client.breaks = False
    native._paused.clear()  # a minute later
    assert shards.read("train", "a", [38])[0].encoded == frame(38).encoded
    assert len(client.opened) == 2


def test_what_is_missing_or_damaged_is_said_as_ever(client: Client, tmp_path: Path) -> None:
    write_shards(Source(), str(tmp_path))
    shard = tmp_path / "train-00000.parquet"
    data = shard.read_bytes()
    at = data.index(frame(5).encoded)
    shard.write_bytes(data[:at] + b"x" + data[at + 1 :])
    with pytest.raises(UserError, match=r"cannot be read .*; run 'vodbench data verify'"):
        open_shards(str(tmp_path)).read("train", "a", [5])
    shard.write_bytes(data[:2000])
    native._paused.clear()
    with pytest.raises(UserError, match=r"cannot be read .*; run 'vodbench data verify'"):
        open_shards(str(tmp_path)).read("train", "a", [5])
    shard.unlink()
    native._paused.clear()
    with pytest.raises(UserError, match="is missing; 'vodbench data verify' lists what else is"):
        open_shards(str(tmp_path)).read("train", "a", [5])


# ---- its settings, from those of s3fs ----


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Settings for an s3fs with these options; the environment says nothing but what ``variables`` do."""
    pytest.importorskip("s3fs")
    for name in ("AWS_PROFILE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(fsspec.config, "conf", {})

    def settings(**options: Any) -> Any:
        return native_settings(fsspec.filesystem("s3", skip_instance_cache=True, **options))

    return settings


KEYS = {"key": "k", "secret": "s"}


def test_settings_are_those_of_s3fs(s3: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    said = s3(**KEYS, token="t", endpoint_url="http://gateway:7480", client_kwargs={"region_name": "eu-central-1"})
    assert (said["access_key"], said["secret_key"], said["session_token"]) == ("k", "s", "t")
    assert (said["scheme"], said["endpoint_override"], said["region"]) == ("http", "gateway:7480", "eu-central-1")
    assert (said["connect_timeout"], said["request_timeout"]) == (5, 15)
    assert s3(**KEYS, config_kwargs={"read_timeout": 99})["request_timeout"] == 99
    assert s3(**KEYS)["endpoint_override"].endswith("amazonaws.com")
    monkeypatch.setenv("AWS_CA_BUNDLE", "/certificates.pem")
    assert s3(**KEYS)["tls_ca_file_path"] == "/certificates.pem"


def test_the_login_is_found_where_s3fs_finds_it(
    s3: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert s3() is None
    (tmp_path / "AWS_SHARED_CREDENTIALS_FILE").write_text("[lab]\naws_access_key_id=a\naws_secret_access_key=b\n")
    assert s3(profile="lab")["secret_key"] == "b"
    for name, value in {"ACCESS_KEY_ID": "e", "SECRET_ACCESS_KEY": "f", "SESSION_TOKEN": "g"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    found = s3()
    assert (found["access_key"], found["secret_key"], found["session_token"]) == ("e", "f", "g")
    anonymous = s3(anon=True)
    assert anonymous["anonymous"] is True
    assert "access_key" not in anonymous


@pytest.mark.parametrize(
    "options",
    [
        {"requester_pays": True},
        {"version_aware": True},
        {"cache_regions": True},
        {"s3_additional_kwargs": {"SSECustomerKey": "x"}},
        {"client_kwargs": {"verify": False}},
        {"config_kwargs": {"s3": {"addressing_style": "virtual"}}},
        {"config_kwargs": {"proxies": {"http": "http://proxy"}}},
        {"config_kwargs": {"signature_version": "s3"}},
    ],
    ids=str,
)
def test_settings_it_does_not_know_leave_the_reading_to_s3fs(s3: Callable[..., Any], options: dict[str, Any]) -> None:
    assert s3(**KEYS, endpoint_url="http://gateway") is not None
    assert s3(**KEYS, endpoint_url="http://gateway", **options) is None


def test_behind_a_proxy_s3fs_reads(s3: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    assert s3(**KEYS, endpoint_url="http://gateway") is None
    monkeypatch.setenv("no_proxy", "gateway")
    assert s3(**KEYS, endpoint_url="http://gateway") is not None


def test_other_file_systems_and_versions_are_not_for_it(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_natively(object(), "bucket/shard?versionId=1") is None
    assert open_natively(object(), "arn:aws:s3:eu:1:accesspoint/a/shard") is None
    monkeypatch.undo()
    assert open_natively(fsspec.filesystem("memory"), "bucket/shard") is None
    assert client.opened == []
