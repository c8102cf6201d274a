"""What fails work from outside: a killed process, a node that went away, storage that was out of reach or full.

It says nothing of the work, which may be tried again as it is.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

from vodbench.errors import InterruptedWorkError, OneLineError
from vodbench.redaction import redact_line

# What a system, and s3fs for a store's own errors (503: busy, 500: I/O), say of something that may pass.
_PASSING = frozenset(
    {
        errno.EBUSY,
        errno.EIO,
        errno.EREMOTEIO,
        errno.EAGAIN,
        errno.EPIPE,
        errno.ESTALE,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.ENOMEM,
        errno.ETIMEDOUT,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
    }
)
# What libraries raise that is no ``OSError``, told by name: none of them is imported for this.
_NETWORK = frozenset(
    {
        ("aiohttp.client_exceptions", "ClientError"),
        ("botocore.exceptions", "ConnectionError"),
        ("botocore.exceptions", "HTTPClientError"),
        ("botocore.exceptions", "IncompleteReadError"),
        ("azure.core.exceptions", "ServiceRequestError"),
        ("azure.core.exceptions", "ServiceResponseError"),
        ("google.auth.exceptions", "TransportError"),
        ("requests.exceptions", "ConnectionError"),
        ("requests.exceptions", "Timeout"),
    }
)
_REASON_LENGTH = 300
_PROCESSES = frozenset(
    {
        "LocalRayletDiedError",
        "NodeDiedError",
        "ObjectLostError",
        "OutOfMemoryError",
        "RayActorError",
        "WorkerCrashedError",
    }
)


def from_outside(error: BaseException) -> bool:
    """Whether the error, or one that it came from, is of what was around the work and not of the work."""
    return any(_is_outside(each) for each in _chain(error))


def reason_of(error: BaseException) -> str:
    """One line that says why, without secrets: a ``OneLineError`` as it is, anything else with its type.

    Ray wraps what a worker raised; the innermost cause is what happened.
    """
    cause = getattr(error, "cause", None) or error.__cause__
    if isinstance(cause, BaseException) and not isinstance(error, OneLineError):
        return reason_of(cause)
    text = redact_line(str(error)) or "no message"
    line = text if isinstance(error, OneLineError) else f"{type(error).__name__}: {text}"
    return line if len(line) <= _REASON_LENGTH else line[: _REASON_LENGTH - 1] + "…"


def _is_outside(error: BaseException) -> bool:
    if isinstance(error, (InterruptedWorkError, ConnectionError, TimeoutError)):
        return True
    if isinstance(error, OSError) and error.errno in _PASSING:
        return True
    bases = {(base.__module__, base.__name__) for base in type(error).__mro__}
    return bool(bases & _NETWORK) or any(m.startswith("ray.") and name in _PROCESSES for m, name in bases)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes; Ray keeps what a worker raised in ``cause``."""
    waiting, seen = [error], set[int]()
    while waiting:
        each = waiting.pop()
        if id(each) not in seen:
            seen.add(id(each))
            yield each
            causes = (getattr(each, "cause", None), each.__cause__)
            waiting += [cause for cause in causes if isinstance(cause, BaseException)]
