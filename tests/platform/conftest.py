"""Fixtures of the platform's tests."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from vodbench import registry


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The plug-in ``plugin/vodbench_plain.py``: detects and streams without training."""
    with _installed("vodbench_plain", tmp_path_factory.mktemp("site")) as module:
        yield module


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The plug-in ``plugin/vodbench_learner.py``: trains in milliseconds, in two stages."""
    with _installed("vodbench_learner", tmp_path_factory.mktemp("site")) as module:
        yield module


@contextmanager
def _installed(name: str, site: Path) -> Iterator[ModuleType]:
    """A module of ``plugin/`` as an installed plug-in, for this process and those that it starts."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[vodbench.methods]\n{name} = {name}:METHODS\n[vodbench.datasets]\n{name} = {name}:DATASETS\n"
    )
    folders = [str(site), str(Path(__file__).parent / "plugin")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*folders, *sys.path])
        patch.setenv("PYTHONPATH", os.pathsep.join([*folders, os.environ.get("PYTHONPATH", "")]))
        registry.table.cache_clear()
        yield importlib.import_module(name)
    registry.table.cache_clear()
