"""Arrow's own S3 client for reading shards: a fifth of the processor time that s3fs takes for a request.

It reads as s3fs is set up to read, whose endpoint, region, login and patience it takes over. Where s3fs has a setting
that it does not know, and for a minute after it failed, there is none and s3fs reads alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import pyarrow as pa
from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

_PAUSE_SECONDS = 60.0
_ATTEMPTS = 2  # s3fs tries on, with more patience
# Options of s3fs that Arrow's client is given as well, or that change nothing in how a file is read.
_OPTIONS = frozenset(
    {"anon", "key", "secret", "token", "username", "password", "profile", "endpoint_url", "use_ssl"}
    | {"client_kwargs", "config_kwargs", "max_concurrency", "fixed_upload_size", "skip_instance_cache"}
    | {"use_listings_cache", "listings_expiry_time", "max_paths"}
    | {"default_block_size", "default_fill_cache", "default_cache_type"}
)
_CLIENT_OPTIONS = frozenset(
    {"endpoint_url", "region_name", "use_ssl", "aws_access_key_id", "aws_secret_access_key", "aws_session_token"}
)
_CONFIG_OPTIONS = frozenset({"connect_timeout", "read_timeout", "retries", "max_pool_connections", "region_name"})

_paused: dict[Any, float] = {}  # s3fs file system -> until when it reads alone


def is_ready(fs: Any, path: str) -> bool:
    """Whether the file is in S3, and this client can ask for it and has not failed lately."""
    if not _is_s3fs(fs) or not _is_plain(path) or time.monotonic() < _paused.get(fs, 0.0):
        return False
    return _client(fs, os.getpid()) is not None


def open_natively(fs: Any, path: str) -> pa.NativeFile | None:
    """The file, or None where fsspec has to open it."""
    client = _client(fs, os.getpid()) if is_ready(fs, path) else None
    if client is None:
        return None
    try:
        return client.open_input_file(path)
    except (pa.ArrowException, OSError, ValueError):
        pause(fs)  # s3fs is asked the same, and says in its words what is wrong
        return None


def pause(fs: Any) -> None:
    """This client failed: s3fs reads alone for a while. A new client then asks for the login anew, which may expire."""
    _paused[fs] = time.monotonic() + _PAUSE_SECONDS
    _client.cache_clear()


def _is_s3fs(fs: Any) -> bool:
    return type(fs).__module__ == "s3fs.core" and type(fs).__name__ == "S3FileSystem"


def _is_plain(path: str) -> bool:
    """Neither a version of an object nor an access point, which s3fs knows by their names."""
    return "?" not in path and not path.startswith("arn:")


@lru_cache(maxsize=8)
def _client(fs: Any, process: int) -> S3FileSystem | None:
    """The client for an s3fs file system; ``process``: the threads of a client do not outlive a fork."""
    settings = native_settings(fs)
    return None if settings is None else S3FileSystem(**settings)


def native_settings(fs: Any) -> dict[str, Any] | None:
    """Arguments of Arrow's client that make it ask as this s3fs does; None where that cannot be had."""
    given = {name for name, value in fs.storage_options.items() if value not in (None, {}, ())}
    if given - _OPTIONS or fs.client_kwargs.keys() - _CLIENT_OPTIONS or fs.config_kwargs.keys() - _CONFIG_OPTIONS:
        return None
    client = fs.s3
    login = {"anonymous": True} if fs.anon else _login(fs)
    address = urlsplit(client.meta.endpoint_url)
    config = client.meta.config
    if login is None or config.s3 or config.proxies or _has_proxy(address.scheme, address.netloc):
        return None
    certificates = os.environ.get("AWS_CA_BUNDLE") or os.environ.get("REQUESTS_CA_BUNDLE")
    return {
        **login,
        "endpoint_override": address.netloc,
        "scheme": address.scheme,
        "region": client.meta.region_name.removeprefix("aws-global") or "us-east-1",
        "connect_timeout": config.connect_timeout,
        "request_timeout": config.read_timeout,
        "retry_strategy": AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        **({"tls_ca_file_path": certificates} if certificates else {}),
    }


def _login(fs: Any) -> Mapping[str, Any] | None:
    """The keys that s3fs signs with: those it was given, else those it found (environment, profile, role)."""
    from fsspec.asyn import sync

    given = fs.client_kwargs
    key = fs.key or given.get("aws_access_key_id")
    secret = fs.secret or given.get("aws_secret_access_key")
    token = fs.token or given.get("aws_session_token")
    if key is None and secret is None and token is None:
        found = sync(fs.loop, fs.session.get_credentials)
        if found is None:
            return None
        frozen = sync(fs.loop, found.get_frozen_credentials)
        key, secret, token = frozen.access_key, frozen.secret_key, frozen.token
    if not key or not secret:
        return None
    return {"access_key": key, "secret_key": secret, "session_token": token}


def _has_proxy(scheme: str, host: str) -> bool:
    return scheme in getproxies() and not proxy_bypass(host)
