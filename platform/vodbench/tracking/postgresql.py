"""A PostgreSQL that hangs is given up.

Its client library waits for ever for the answer to a statement. Its own bounds miss what hangs most often, a server
that is paused or waits for its disk: ``connect_timeout`` is of the connecting alone, ``statement_timeout`` is kept by
the server, and for keepalives and ``tcp_user_timeout`` the system beneath a hanging server still answers.
"""

from __future__ import annotations

import select
from typing import Any

# Far above what a statement of Optuna or MLflow takes, waiting for another's included. Optuna tries each five times.
SILENCE_SECONDS = 10.0


def give_up_on_silence() -> None:
    """From now on, connections of this process to PostgreSQL end when they were waited for so long."""
    try:
        from psycopg2.extensions import set_wait_callback
    except ImportError:  # another driver, or none, which is said by whoever needs it
        return
    set_wait_callback(_wait)


def _wait(connection: Any) -> None:
    """psycopg2 calls it wherever it would wait; what it raises closes the connection."""
    from psycopg2 import OperationalError
    from psycopg2.extensions import POLL_OK, POLL_READ

    while (state := connection.poll()) != POLL_OK:
        ready = select.poll()
        ready.register(connection.fileno(), select.POLLIN if state == POLL_READ else select.POLLOUT)
        if not ready.poll(1000 * SILENCE_SECONDS):
            silence = TimeoutError(f"no answer in {SILENCE_SECONDS:.0f} s")
            raise OperationalError(str(silence)) from silence
