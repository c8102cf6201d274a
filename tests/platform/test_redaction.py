"""Secrets: hidden in texts whatever form they take there, refused in what is written down."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from command_line import Run

import vodbench.cli
from vodbench.errors import UserError
from vodbench.interruption import reason_of
from vodbench.redaction import redact, redact_line, refuse_address, refuse_settings
from vodbench.storage import exists
from vodbench.studies import parse_study
from vodbench.training.keeper import Folder, ProgressFile


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("postgresql+psycopg2://ann:hunter2@db:5432/m", "postgresql+psycopg2://ann:***@db:5432/m"),
        ("http://:hunter2@host", "http://:***@host"),
        ("http://ann:hun@ter/2@host/x", "http://ann:***@host/x"),
        ("cannot open 'sftp://ann:hunter2@host/a', retry", "cannot open 'sftp://ann:***@host/a', retry"),
        ("two: s3://a:secret1@b\nand http://c:secret2@d", "two: s3://a:***@b\nand http://c:***@d"),
        ("http://h/m?sslpassword=deep&x=1", "http://h/m?sslpassword=***&x=1"),
        ("https://h/o?X-Amz-Signature=abcd1234&X-Amz-Date=2026", "https://h/o?X-Amz-Signature=***&X-Amz-Date=2026"),
        ("https://h/o?access_token=abcd1234#top", "https://h/o?access_token=***"),
    ],
)
def test_secrets_of_addresses_are_hidden(text: str, clean: str) -> None:
    assert redact(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////a/b.db",
        "http://host:5000/path@2x",
        "http://127.0.0.1:5057/#/experiments/1",
        "s3://bucket/key:with@signs",
        "runs/demo: T=3, key_frame_interval=10 (of ann@example.org)",
        "https://h/o?page=2&tokens=512",
    ],
)
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert redact(text) == text
    refuse_address(text)


def test_a_secret_is_hidden_where_it_stands_alone() -> None:
    address = "postgresql+psycopg2://ann:hun%40ter2@db/m?sslpassword=deep"
    said = redact_line(f"cannot open {address}\n(password hun@ter2, hun%40ter2, deep)", address)
    assert said == "cannot open postgresql+psycopg2://ann:***@db/m?sslpassword=*** (password ***, ***, ***)"


def test_secrets_of_the_environment_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted+key/1")
    monkeypatch.setenv("PGPASSWORD", "planted2")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:planted3@host")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/a/path")
    monkeypatch.setenv("SHORT_TOKEN", "a")
    said = redact("planted+key/1 and planted2 and planted3 at /a/path")
    assert said == "*** and *** and *** at /a/path"


def test_an_address_with_a_secret_is_refused_with_what_to_do_instead() -> None:
    with pytest.raises(UserError, match=re.escape("'sftp://ann:***@host/x'")) as error:
        exists("sftp://ann:hunter2@host/x")
    assert "FSSPEC_SFTP_PASSWORD" in str(error.value)
    assert "hunter2" not in str(error.value)
    with pytest.raises(UserError, match="FSSPEC_SFTP_PASSWORD"):
        exists("simplecache::sftp://ann:hunter2@host/x")


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"data": {"root": "sftp://ann:hunter2@host/x"}}, "data.root"),
        ({"data": {"options": {"storage": {"secret": "hunter2"}}}}, "data.options.storage.secret"),
        ({"data": {"options": {"api_key": "hunter2"}}}, "data.options.api_key"),
        ({"methods": [{"method": "m", "settings": {"w": "http://a:hunter2@h/w.pt"}}]}, "methods.0.settings.w"),
    ],
)  # fmt: skip
def test_a_study_with_a_secret_is_refused(values: dict[str, Any], place: str) -> None:
    study = {"name": "s", "title": "t", "methods": [{"method": "m"}], **values}
    with pytest.raises(UserError, match=re.escape(f"study 'x': '{place}' is a secret")) as error:
        parse_study(study, "'x'")
    assert "hunter2" not in str(error.value)


def test_settings_whose_names_only_look_like_secrets_are_accepted() -> None:
    refuse_settings({"num_tokens": 4, "tokenizer": "words", "key_frame_interval": 10, "channel_order": "rgb"}, "x")


def raised(message: str) -> RuntimeError:
    """As a library raises it, with a traceback."""
    try:
        raise RuntimeError(message)
    except RuntimeError as error:
        return error


def test_what_a_trial_or_a_training_failed_of_holds_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-key")
    error = raised("GET http://ann:hunter2@host/x with planted-key")
    assert reason_of(error) == "RuntimeError: GET http://ann:***@host/x with ***"
    progress = ProgressFile(Folder(str(tmp_path), "f"), "attempt")
    progress.fail(error)
    (written,) = [file.read_text() for file in tmp_path.rglob("failure.json")]
    assert "Traceback" in written
    assert "hunter2" not in written
    assert "planted-key" not in written


def test_a_bug_of_ours_is_a_traceback_without_secrets(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: Any) -> None:
        raise raised("GET http://ann:hunter2@host/x")

    monkeypatch.setattr(vodbench.cli, "app", broken)
    status, _, said = run("methods")
    assert status == 1
    assert said.startswith("Traceback (most recent call last):")
    assert "RuntimeError: GET http://ann:***@host/x" in said
    assert "hunter2" not in said
