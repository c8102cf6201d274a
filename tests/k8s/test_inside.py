"""What an image is asked from inside the cluster before a sweep is launched."""

from __future__ import annotations

from typing import Any

import fsspec
import pytest

import vodbench.sweeps.running  # noqa: F401  # before ``connect`` is replaced: it keeps the one that it finds
from vodbench.errors import UserError
from vodbench.launch.inside import check_here
from vodbench.studies import Study, parse_study
from vodbench.tracking import server

OUT = "memory://bucket/studies/s"


def study(method: str = "faster-rcnn") -> Study:
    return parse_study(
        {"name": "s", "title": "t", "preset": "tiny", "data": {"generate": {}}, "methods": [{"method": method}]}, "s"
    )


@pytest.fixture(autouse=True)
def connected(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tracking servers that were asked; that one answers is tested with tracking."""
    asked: list[str] = []
    monkeypatch.setattr(server, "connect", asked.append)
    return asked


def test_a_study_that_can_run_here_leaves_nothing_in_the_bucket(connected: list[str]) -> None:
    check_here(study(), OUT, "http://mlflow:5000")
    assert connected == ["http://mlflow:5000"]
    assert [path for path in fsspec.filesystem("memory").find("/bucket") if path] == []


def test_a_method_that_the_image_has_not(connected: list[str]) -> None:
    with pytest.raises(UserError, match="unknown method 'faster-rcn': did you mean 'faster-rcnn'"):
        check_here(study("faster-rcn"), OUT, "http://mlflow:5000")
    assert connected == []


def test_a_bucket_that_denies(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: Any, **__: Any) -> None:
        raise RuntimeError("AccessDenied: not\nfor you")

    monkeypatch.setattr("vodbench.launch.inside.write_text", denied)
    with pytest.raises(UserError, match=r"cannot be written to \(RuntimeError: AccessDenied: not for you\); check the"):
        check_here(study(), OUT, "http://mlflow:5000")
