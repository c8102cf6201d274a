"""Ports for what the tests start."""

from __future__ import annotations

import random
import socket

# Below those that a system hands out by itself, which go to any other process between the question and the use; above
# those that Ray's workers take.
_LOW, _HIGH = 20_000, 32_000


def free_port() -> int:
    """One that nothing on this machine listens on."""
    while True:
        port = random.SystemRandom().randrange(_LOW, _HIGH)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
