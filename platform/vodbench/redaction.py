"""Passwords, tokens and keys: hidden in whatever is said, refused in whatever is written down.

What a study leaves behind (its folder, MLflow, a report, logs) holds no secret, for two reasons. Studies, settings and
the addresses of data and results are refused with a secret in them, since they are written down. And every text that
somebody else worded, such as a database's error, goes through ``redact``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from vodbench.errors import UserError

HIDDEN = "***"

# user:password@ of an address. The password may hold anything but spaces and quotes, as people forget to encode it;
# digits up to a slash are a port.
_USER_INFO = re.compile(r"(://[^\s/:@'\"]*):(?!\d+/)([^\s'\"]+)@")
_NAME = r"passw|pwd|secret|credential|signature|token\b|(?:api|access|account|private)_?key\b"
_QUERY = re.compile(rf"([?&][^=&\s'\"]*(?:{_NAME})[^=&\s'\"]*=)([^&\s'\"]+)", re.IGNORECASE)
_SETTING = re.compile(_NAME, re.IGNORECASE)
_VARIABLE = re.compile(r"(?:PASSWORD|PASSWD|SECRET|TOKEN|(?:API|SECRET|ACCOUNT|ACCESS|STORAGE)_KEY|CONNECTION_STRING)$")
_SHORTEST = 4  # characters of a secret that is looked for: shorter ones are parts of common words


def redact(text: str, *addresses: str) -> str:
    """``text`` without secrets: those of any address in it, of ``addresses``, and of the environment.

    A secret is hidden wherever it stands, since whoever worded the text may have quoted it by itself.
    """
    held = {*_of_environment(), *(secret for said in (text, *addresses) for secret in _of_address(said))}
    for secret in sorted(held, key=len, reverse=True):
        if len(secret) >= _SHORTEST:
            text = text.replace(secret, HIDDEN)
    return _hide(text)


def redact_line(text: str, *addresses: str) -> str:
    """``redact`` on one line."""
    return " ".join(redact(text, *addresses).split())


def refuse_address(url: str) -> None:
    """``UserError`` for an address with a password or key in it: addresses of data and results are written down."""
    if _hide(url) != url:
        scheme = url.partition("://")[0].rpartition(":")[2].upper()
        raise UserError(
            f"'{redact(url)}' holds a secret, and addresses are written down with the results; leave it out and set it "
            f"as FSSPEC_{scheme}_PASSWORD=... (FSSPEC_{scheme}_ and the option's name) or in fsspec's configuration"
        )


def refuse_settings(values: Mapping[str, Any], where: str) -> None:
    """``UserError`` when a secret is anywhere in plain values, in an address or under a telling name."""
    for place, value in _strings(values):
        if _hide(value) != value or _SETTING.search(place.rpartition(".")[2]):
            raise UserError(
                f"{where}: '{place}' is a secret, and settings are written down with the results; leave it out and set "
                "it where its library looks for it in the environment (AWS_*, FSSPEC_*, ...)"
            )


def _hide(text: str) -> str:
    return _QUERY.sub(rf"\1{HIDDEN}", _USER_INFO.sub(rf"\1:{HIDDEN}@", text)) if "://" in text else text


def _of_address(address: str) -> Iterator[str]:
    """Its secrets, as they are written there and decoded."""
    found = [match[2] for pattern in (_USER_INFO, _QUERY) for match in pattern.finditer(address)]
    for secret in found:
        if secret != HIDDEN:
            yield secret
            yield unquote(secret)


def _of_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        if "://" in value:
            yield from _of_address(value)
        elif _VARIABLE.search(name) and not value.startswith(("/", "~")):  # a path to it is no secret
            yield value


def _strings(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """(dotted place, text) of every text in nested plain values."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _strings(inner, f"{place}.{name}".lstrip("."))
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            yield from _strings(inner, f"{place}.{number}")
