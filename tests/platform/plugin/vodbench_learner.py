"""A method of two stages and an endless data set, small enough to train in milliseconds.

They are registered as an installed plug-in would be (an entry point on the path), because training workers are
processes of their own and find them the same way.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from vodbench.errors import UserError
from vodbench.knobs import MethodConfig, knob
from vodbench.spec import (
    ClassInfo,
    Clip,
    ClipFrame,
    ClipSpec,
    DatasetSpec,
    MethodSpec,
    Schedule,
    SnippetInfo,
    Stage,
    Truth,
)
from vodbench.training.loop import StageTrainer
from vodbench.training.peers import Peers


@dataclass(frozen=True, kw_only=True)
class LearnerConfig(MethodConfig):
    width: int = knob(4, "channels", low=1)
    iterations: int = knob(20, "steps of each stage", low=1)
    batch: int = knob(4, "clips a step", low=1)
    rate: float = knob(0.05, "learning rate", above=0)
    normal: bool = knob(True, "batch norm and noise; without them the loss is a plain mean over clips")
    explode: bool = knob(False, "make the loss infinite at step 3 of the first stage")
    T: int = knob(3, "an inference knob", kind="inference", low=1)


class LearnerMethod(nn.Module):
    """Regresses the mean of an image through a convolution with batch norm; noise comes from torch's generator."""

    def __init__(self, config: LearnerConfig, num_classes: int, name: str) -> None:
        super().__init__()
        self.config, self.name = config, name
        norm = nn.BatchNorm2d(config.width) if config.normal else nn.Identity()
        self.body = nn.Sequential(nn.Conv2d(3, config.width, 3), norm, nn.ReLU())
        self.head = nn.Linear(config.width, num_classes)
        self.frozen = nn.BatchNorm2d(3)
        self.unused = nn.Linear(2, 2)
        if name == "learner-full":
            self.extra = nn.Linear(num_classes, num_classes)
        self.steps = 0

    def begin_stage(self, stage: Stage) -> None:
        self.frozen.eval().requires_grad_(False)
        if stage.name == "full":
            self.body[0].requires_grad_(False)

    def load_initial(self, weights: Mapping[str, torch.Tensor]) -> None:
        fits = {k: v for k, v in weights.items() if k in self.state_dict()}
        if not fits:
            raise UserError("nothing fits")
        self.load_state_dict(fits, strict=False)

    def losses(self, clips: Sequence[Clip]) -> dict[str, torch.Tensor]:
        self.steps += 1
        images = torch.stack([torch.from_numpy(c.reference.image).permute(2, 0, 1).float() / 255 for c in clips])
        features = self.body(self.frozen(images)).mean((2, 3))
        if self.config.normal:
            features = features * (torch.rand_like(features) < 0.8)
        out = self.head(features)
        if self.name == "learner-full":
            out = self.extra(out)
        target = images.mean((1, 2, 3))[:, None]
        fit = ((out - target) ** 2).mean()
        if self.config.explode and self.steps == 4:
            fit = fit * float("inf")
        return {"fit": fit, "small": 1e-3 * (out**2).mean()}


def schedule(config: LearnerConfig) -> Schedule:
    return Schedule(
        iterations=config.iterations,
        batch_size=config.batch,
        learning_rate=config.rate,
        warmup_iterations=3,
        milestones=(config.iterations * 2 // 3,),
        clip_gradient_norm=1.0,
    )


def stages(config: LearnerConfig, name: str) -> tuple[Stage, ...]:
    base = Stage(name="base", method="learner-base", config=config, clips=ClipSpec(), schedule=schedule(config))
    if name == "learner-base":
        return (base,)
    clips = ClipSpec(num_supports=1, offset_low=-2, offset_high=2)
    return (base, Stage(name="full", method=name, config=config, clips=clips, schedule=schedule(config)))


def spec(name: str) -> MethodSpec:
    return MethodSpec(
        name=name,
        summary="for tests",
        paper="none",
        config=LearnerConfig,
        presets={"paper": {}, "tiny": {"iterations": 6}},
        build=lambda config, num_classes: LearnerMethod(config, num_classes, name),  # type: ignore[arg-type, return-value]
        stages=lambda config: stages(config, name),  # type: ignore[arg-type]
        latency_frames=lambda config: 0,
    )


class LearnerData:
    """Clip n is random pixels of seed (seed, n), ``delay`` seconds apart; ``bad`` is a clip that does not decode."""

    name = "learner"
    classes = (ClassInfo("a", "ant"), ClassInfo("b", "bee"))
    fingerprint = "learner-data"
    splits = ("train",)

    def __init__(self, root: str, delay: float = 0.0, bad: int = -1, crash: int = -1) -> None:
        self.root, self.delay, self.bad, self.crash = root, delay, bad, crash

    def snippets(self, split: str) -> list[SnippetInfo]:
        if split not in self.splits:
            raise UserError(f"unknown split '{split}': accepted: train")
        return [SnippetInfo("s", 1)]

    def training_clips(
        self, clips: ClipSpec, *, split: str, seed: int, start: int, stop: int, rank: int = 0, world: int = 1
    ) -> Iterator[Clip]:
        for number in range(start, stop):
            if number % world == rank:
                time.sleep(self.delay)
                if number == self.bad:
                    raise UserError(f"'{self.root}/{number}.jpg' does not decode")
                if number == self.crash:
                    raise ZeroDivisionError("a bug in the reader")
                yield make_clip(seed, number)


def make_clip(seed: int, number: int) -> Clip:
    rng = np.random.default_rng([seed, number])
    nothing: Any = np.zeros(0)
    frame = ClipFrame(
        0,
        rng.integers(0, 256, (6, 6, 3)).astype(np.uint8),
        Truth(np.zeros((0, 4), np.float32), nothing, nothing, nothing, nothing),
    )
    return Clip(number, "s", frame, (), bool(rng.random() < 0.5))


def train_in_group(rank: int, world: int, configs: Sequence[LearnerConfig], meeting: str, out: str) -> None:
    """One process of a group without Ray: trains the base stage of each configuration and saves the weights."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    torch.save([train_base(config, Peers(rank, world)) for config in configs], f"{out}/{rank}.pt")
    torch.distributed.destroy_process_group()


def train_base(config: LearnerConfig, peers: Peers) -> dict[str, torch.Tensor]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    method = LearnerMethod(config, 2, "learner-base")
    (stage,) = stages(config, "learner-base")
    clips = (make_clip(7, n) for n in range(config.iterations * config.batch) if n % peers.world == peers.rank)
    StageTrainer(method, stage, seed=5, peers=peers).run(clips)  # type: ignore[arg-type]
    return method.state_dict()


BASE, FULL = spec("learner-base"), spec("learner-full")
DATA = DatasetSpec("learner", "for tests", lambda root: root.endswith("learner-data"), LearnerData)
METHODS = {"learner-base": "vodbench_learner:BASE", "learner-full": "vodbench_learner:FULL"}
DATASETS = {"learner": "vodbench_learner:DATA"}
