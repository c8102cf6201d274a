"""Fixtures shared by every room's tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# One thread a process: tests run beside Ray workers on few cores, and one thread is also the reproducible setting.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def golden() -> Path:
    """Small reference outputs, kept with the tests."""
    return REPOSITORY / "tests" / "golden"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ``shared`` beside the checkout (real video, larger golden files); tests skip without it."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the folder {folder.name}/ beside the checkout (real video and large golden files)")
    return folder
