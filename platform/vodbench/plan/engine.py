"""Machines of a simulated sweep: nodes of slots, work that progresses on them, and what makes it stand still.

Work is fluid: each piece has seconds left at full speed, and a speed that changes when something else begins or ends.

- Where a node's runtime is being measured, its work stands still (``vodbench.timing.gate``). Workers of a training wait
  for each other, so that one node holds up all of them; those of an accuracy pass do not.
- What reads more in all than the storage delivers is slowed down, each by the same share.
- A node that fails takes its slots away for a while, and its work learns of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import simpy

Process: TypeAlias = Generator[simpy.Event, Any, Any]

_NOTHING_LEFT = 1e-6  # seconds: below that, work is done whatever rounding says


@dataclass(eq=False)
class Piece:
    """One piece of work in progress. ``left``: seconds at full speed. ``demand``: bytes/s it reads at full speed."""

    left: float
    slots: Counter[int]  # node -> slots
    done: simpy.Event
    demand: float = 0.0
    together: bool = False  # its workers wait for each other
    measures: int | None = None  # the node that it has for itself
    useful: bool = True  # its slots compute; else they are held while something starts
    speed: float = 0.0
    worked: float = 0.0


@dataclass
class Ledger:
    """Slot-seconds by what became of them; their sum is slots x time."""

    useful: float = 0.0
    measuring: float = 0.0
    starting: float = 0.0
    standing: float = 0.0  # held, but nothing moved: a measurement beside it, or slow storage
    lost: float = 0.0  # computed, and computed again after a failure
    idle: float = 0.0
    down: float = 0.0

    @property
    def total(self) -> float:
        return float(sum(vars(self).values()))


@dataclass(frozen=True, kw_only=True)
class Machines:
    """``storage_bytes_s``: what all readers get together; None: no limit."""

    nodes: int
    slots_a_node: int
    storage_bytes_s: float | None = None

    @property
    def slots(self) -> int:
        return self.nodes * self.slots_a_node


@dataclass(eq=False)
class _Request:
    slots: int
    granted: simpy.Event


@dataclass(eq=False)
class Engine:
    """The state of all nodes. ``hold`` and ``run`` are used by processes of ``env``."""

    env: simpy.Environment
    machines: Machines
    ledger: Ledger = field(default_factory=Ledger)

    def __post_init__(self) -> None:
        count, each = self.machines.nodes, self.machines.slots_a_node
        self._free = dict.fromkeys(range(count), each)
        self._down: set[int] = set()
        self._queue: list[_Request] = []
        self._pieces: list[Piece] = []
        self._holders: list[Counter[int]] = []
        self.gates = [simpy.Resource(self.env, 1) for _ in range(count)]
        self._since = 0.0
        self._changed = self.env.event()
        self.env.process(self._progress())

    # ---- slots ------------------------------------------------------------------------------------------

    def hold(self, slots: int) -> simpy.Event:
        """An event that gives (node -> slots) when so many are free: first come, first served."""
        request = _Request(slots, self.env.event())
        self._queue.append(request)
        self._grant()
        return request.granted

    def give_back(self, held: Counter[int]) -> None:
        self._advance()
        self._holders.remove(held)
        for node, slots in held.items():
            self._free[node] += slots
        self._grant()
        self._reconsider()

    def _grant(self) -> None:
        while self._queue and self._queue[0].slots <= self._available():
            request = self._queue.pop(0)
            self._advance()
            held = self._placed(request.slots)
            self._holders.append(held)
            request.granted.succeed(held)
            self._reconsider()

    def _available(self) -> int:
        return sum(free for node, free in self._free.items() if node not in self._down)

    def _placed(self, slots: int) -> Counter[int]:
        """On as few nodes as it takes: the fullest one that has room for all, else the emptiest ones."""
        up = {node: free for node, free in self._free.items() if free and node not in self._down}
        fitting = [node for node, free in up.items() if free >= slots]
        order = [min(fitting, key=lambda n: (up[n], n))] if fitting else sorted(up, key=lambda n: (-up[n], n))
        held: Counter[int] = Counter()
        for node in order:
            held[node] = min(up[node], slots - held.total())
            self._free[node] -= held[node]
        return +held

    # ---- work -------------------------------------------------------------------------------------------

    def run(self, piece: Piece) -> simpy.Event:
        """Let it progress from now; the event succeeds when it is done."""
        self._advance()
        self._pieces.append(piece)
        self._reconsider()
        return piece.done

    def stop(self, piece: Piece) -> None:
        """Take it away unfinished; ``piece.worked`` says how far it came."""
        self._advance()
        if piece in self._pieces:
            self._pieces.remove(piece)
        self._reconsider()

    def piece(self, seconds: float, slots: Counter[int] | None = None, **kind: Any) -> Piece:
        return Piece(left=seconds, slots=slots or Counter(), done=self.env.event(), **kind)

    # ---- failures ---------------------------------------------------------------------------------------

    def set_down(self, node: int, *, down: bool) -> None:
        self._advance()
        (self._down.add if down else self._down.discard)(node)
        self._grant()
        self._reconsider()

    def is_down(self, node: int) -> bool:
        return node in self._down

    def settle(self) -> None:
        """Count up to now."""
        self._advance()

    # ---- time -------------------------------------------------------------------------------------------

    def _progress(self) -> Process:
        """Sleep until the next piece ends, or until something changes."""
        while True:
            self._changed = self.env.event()
            ends = [piece.left / piece.speed for piece in self._pieces if piece.speed > 0]
            yield self._changed | self.env.timeout(min(ends)) if ends else self._changed
            self._advance()
            for piece in [piece for piece in self._pieces if piece.left <= _NOTHING_LEFT]:
                self._pieces.remove(piece)
                piece.done.succeed()
            self._set_speeds()

    def _reconsider(self) -> None:
        self._set_speeds()
        if not self._changed.triggered:
            self._changed.succeed()

    def _set_speeds(self) -> None:
        measured = {piece.measures for piece in self._pieces if piece.measures is not None}
        for piece in self._pieces:
            blocked = sum(slots for node, slots in piece.slots.items() if node in measured)
            if piece.measures is not None or not blocked:
                piece.speed = 1.0
            else:
                piece.speed = 0.0 if piece.together else 1 - blocked / piece.slots.total()
        limit = self.machines.storage_bytes_s
        wanted = sum(piece.demand * piece.speed for piece in self._pieces)
        if limit is not None and wanted > limit:
            for piece in self._pieces:
                if piece.demand:
                    piece.speed *= limit / wanted

    def _advance(self) -> None:
        """Count what happened since the last change."""
        elapsed, self._since = self.env.now - self._since, self.env.now
        if elapsed <= 0:
            return
        held = Counter[int]()
        for holder in self._holders:
            held.update(holder)
        self.ledger.idle += elapsed * self._available()
        self.ledger.down += elapsed * sum(self._free[node] for node in self._down)
        moving = 0.0
        for piece in self._pieces:
            piece.worked += elapsed * piece.speed
            piece.left -= elapsed * piece.speed
            kind = "useful" if piece.useful else "starting"
            if piece.slots and piece.measures is None:
                done = elapsed * piece.speed * piece.slots.total()
                setattr(self.ledger, kind, getattr(self.ledger, kind) + done)
                moving += done
            if piece.measures is not None:
                self._count_measuring(piece.measures, elapsed, held)
        self.ledger.standing += elapsed * held.total() - moving

    def _count_measuring(self, node: int, elapsed: float, held: Counter[int]) -> None:
        """Measuring uses one slot that nobody reserved: a free one, or that of work that stands still beside it."""
        self.ledger.measuring += elapsed
        if self._free[node] > 0:
            if node in self._down:
                self.ledger.down -= elapsed
            else:
                self.ledger.idle -= elapsed
        else:
            self.ledger.standing -= elapsed
