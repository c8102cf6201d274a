"""What the streams of all methods share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from vodbench.errors import UserError
from vodbench.knobs import MethodConfig
from vodbench.spec import Clock, FrameEncoder, Image
from vodbench_methods.detection.records import FrameFeatures

Config = TypeVar("Config", bound=MethodConfig)
Found = TypeVar("Found")  # what a frame's answer is: detections, or the boxes that linking takes
FoundOut = TypeVar("FoundOut", covariant=True)


class Answer(Protocol[FoundOut]):
    """Turns a frame's final features into its answer."""

    def __call__(self, frame: FrameFeatures, features: Tensor, relation: Tensor | None = None) -> FoundOut:
        """
        Args:
            features: (n, D) of ``frame``'s n proposals, ready for the predictor.
            relation: (n, k) attention on the k proposals that the next frame lends, mean over heads; None where there
                is none.
        """
        ...


class AnswerStream(Protocol[Found]):
    """A ``Stream`` of such answers."""

    def push(self, image: Image) -> list[Found]: ...

    def close(self) -> list[Found]: ...


class EncodedFrames(Generic[Found]):
    """What the streams of a ``FrameEncoder`` share: a frame is encoded once, when it is pushed."""

    def __init__(self, encoder: FrameEncoder, config: Any, clock: Clock) -> None:
        self._encoder, self._config, self._clock = encoder, config, clock

    @torch.inference_mode()
    def push(self, image: Image) -> list[Found]:
        return self.push_encoded(self._encoder.encode(image, self._config, self._clock))

    def push_encoded(self, encoded: Any) -> list[Found]:
        """As ``push`` for a frame that ``encode`` has seen already (possibly for another stream)."""
        raise NotImplementedError


class SingleFrameStream(EncodedFrames[Found]):
    """The answer to a frame is final at once; ``relate`` makes its final features of the encoded ones, if anything."""

    def __init__(
        self,
        encoder: FrameEncoder,
        config: Any,
        clock: Clock,
        answer: Answer[Found],
        relate: Callable[[FrameFeatures], Tensor] | None = None,
    ) -> None:
        super().__init__(encoder, config, clock)
        self._answer, self._relate = answer, relate

    @torch.inference_mode()
    def push_encoded(self, encoded: FrameFeatures) -> list[Found]:
        features = encoded.features
        if self._relate is not None:
            with self._clock.stage("relation"):
                features = self._relate(encoded)
        with self._clock.stage("post"):
            return [self._answer(encoded, features)]

    def close(self) -> list[Found]:
        return []


def inference_config(own: Config, given: MethodConfig | None) -> Config:
    """The configuration a stream runs with: ``given`` where it is one of ``own``'s kind with the same training knobs.

    ``UserError`` naming the knobs that the weights were not trained with.
    """
    if given is None:
        return own
    if not isinstance(given, type(own)):
        raise UserError(f"a {type(given).__name__} does not fit a method of {type(own).__name__}; give its own kind")
    trained, asked = own.training_settings(), given.training_settings()
    other = [name for name in trained if trained[name] != asked[name]]
    if other:
        changes = ", ".join(f"{name} = {asked[name]!r} (trained with {trained[name]!r})" for name in other)
        raise UserError(f"a stream may differ in inference knobs only, but {changes}; train with these settings first")
    return given
