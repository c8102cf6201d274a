"""What the weights of a stage depend on, as a name: trials that agree in it share one checkpoint.

The chain starts at the data; each stage adds its own settings to the fingerprint of the stage it starts from. Not part
of it: inference knobs, the stage's name, the number of workers, threads and devices (they change round-off, not what
is being computed), and the code's revision (``TRAINING_SCHEMA`` is raised when the computation changes).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vodbench.errors import UserError
from vodbench.fingerprint import fingerprint
from vodbench.knobs import MethodConfig
from vodbench.registry import method_spec
from vodbench.spec import Stage

TRAINING_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """A stage with its place in the chain; ``parent`` names the weights it starts from (None: fresh ones).

    ``until``: iterations after which it pauses, to be judged before it goes on (None: it is trained to its end).
    """

    stage: Stage
    index: int
    fingerprint: str
    parent: str | None
    until: int | None = None

    @property
    def target(self) -> int:
        """Iterations that are asked for."""
        return self.stage.schedule.iterations if self.until is None else self.until


def plan_stages(
    method: str, config: MethodConfig, data_fingerprint: str, seed: int, split: str = "train"
) -> tuple[PlannedStage, ...]:
    """The stages that ``method`` with ``config`` is trained in, each with its fingerprint.

    Raises ``UserError`` for an unknown method, a configuration of another method, a method without stages, or a batch
    that is not made of whole groups of clips.
    """
    spec = method_spec(method)
    if not isinstance(config, spec.config):
        raise UserError(
            f"{type(config).__name__} does not configure '{method}': give a {spec.config.__name__}, for example "
            f"{spec.config.__name__}.from_mapping(...)"
        )
    planned: list[PlannedStage] = []
    parent: str | None = None
    for index, stage in enumerate(spec.stages(config)):
        _check_batch(stage)
        name = fingerprint(
            TRAINING_SCHEMA,
            {
                "method": stage.method,
                "settings": _without_later(stage.config.training_settings()),
                "schedule": _without_later(dataclasses.asdict(stage.schedule)),
                "clips": _without_later(dataclasses.asdict(stage.clips)),
                "parent": parent,
                "data": data_fingerprint,
                "split": split,
                "seed": seed,
            },
        )
        planned.append(PlannedStage(stage, index, name, parent))
        parent = name
    if not planned:
        raise UserError(f"method '{method}' has no training stages; it cannot be trained")
    return tuple(planned)


# Fields that records and configurations got later, with the values that leave everything as it was without them: a
# stage that does not use them, and the weights it gave, keep their name.
_LATER: Mapping[str, Any] = {
    "flow": False,
    "own_frame": False,
    "frames": "all",
    "training_frames": "all",
    "optimizer": "sgd",
}


def _without_later(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in _LATER or value != _LATER[name]}


def _check_batch(stage: Stage) -> None:
    size, group = stage.schedule.batch_size, stage.clips.group_size
    if size % group:
        raise UserError(
            f"stage '{stage.name}' of {stage.method}: a batch of {size} clips is not made of whole groups of "
            f"{stage.clips.categories} categories x {stage.clips.videos} videos; give a multiple of {group}"
        )


def training_fingerprint(
    method: str, config: MethodConfig, data_fingerprint: str, seed: int, split: str = "train"
) -> str:
    """The name of the finished weights: that of the last stage."""
    return plan_stages(method, config, data_fingerprint, seed, split)[-1].fingerprint
