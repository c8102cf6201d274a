"""The contracts: what a data set, a method and a stream of detections must offer.

Everything that crosses a room's wall is one of these records, so a method author reads this file and nothing
else. Nothing heavy is imported here.

Conventions
-----------
boxes       (N, 4) float32, xyxy, pixels of the *original* frame, 0-based. Corners are inclusive pixels as in
            ILSVRC; only the ``ilsvrc`` and ``voc`` protocols count a box's width as ``x2 - x1 + 1``.
labels      (N,) int64, 1..C in the order of ``Dataset.classes``; 0 is the background and never appears.
image       (H, W, 3) uint8, RGB.
flow        (H, W, 2) float32, x before y: displacement in pixels of the original frame, NaN where it is unknown.
snippet     one annotated video; a still image (ILSVRC DET) is a snippet of one frame.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from vodbench.errors import UserError, unknown
from vodbench.knobs import MethodConfig

if TYPE_CHECKING:
    import torch

Floats: TypeAlias = npt.NDArray[np.float32]
Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]
Image: TypeAlias = npt.NDArray[np.uint8]


# ---- data ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ClassInfo:
    """One category: ``id`` as annotated (a WordNet id in ILSVRC trees) and a readable ``name``."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Truth:
    """The annotated objects of one frame; all arrays share their first dimension M (0 is fine)."""

    boxes: Floats  # (M, 4)
    labels: Ints  # (M,)
    track_ids: Ints  # (M,) unique within a snippet
    occluded: Bools  # (M,)
    generated: Bools  # (M,) interpolated by the annotators rather than drawn

    @staticmethod
    def empty() -> Truth:
        flags = np.zeros(0, np.bool_)
        return Truth(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64), flags, flags)


@dataclass(frozen=True, slots=True)
class Frame:
    """One stored frame: the encoded image, untouched, and its annotation."""

    snippet: str
    index: int  # 0-based position in the snippet
    encoded: bytes  # the JPEG (or PNG) file's bytes
    truth: Truth
    deteriorations: Mapping[str, float] = field(default_factory=dict)  # name -> strength in (0, 1], where known
    motion: bytes = b""  # a record that exact flow is computed from; filled where flow was asked for


@dataclass(frozen=True, slots=True)
class SnippetInfo:
    """A snippet as listed, before any frame is read."""

    id: str
    num_frames: int
    still: bool = False


CLIP_FRAMES = ("all", "stills", "videos", "unlabelled")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSpec:
    """What a training stage wants drawn around each reference frame.

    ``num_supports`` frames at offsets drawn without replacement from [offset_low, offset_high] without 0 (with it where
    ``own_frame`` says so), then clamped to the snippet's ends (a still image stands in for its own supports). With
    ``whole_snippet`` they are drawn from all other frames of the snippet instead, whatever the range; where there are
    too few, some come again. The clip shares one flip decision.

    With ``categories`` and ``videos`` (K and N of HVR-Net, both or neither) clips come in groups of K x N: clip n is
    part of group ``n // (K * N)``, whose clips show K different categories, for each of them N different videos, in
    their reference frames. Only then a clip says which category it was drawn for.

    With ``flow`` the support frames carry exact flow, which generated video knows and other data does not.

    ``frames`` says which frames are references: ``all`` training frames of the data set (those with a box), or of them
    those that are ``stills`` or belong to ``videos``; or ``unlabelled``: frames of videos chosen by their place alone,
    in clips that carry no annotation.
    """

    num_supports: int = 0
    offset_low: int = 0
    offset_high: int = 0
    flip_probability: float = 0.5
    whole_snippet: bool = False
    categories: int = 0
    videos: int = 0
    flow: bool = False
    own_frame: bool = False
    frames: str = "all"

    def __post_init__(self) -> None:
        if self.frames not in CLIP_FRAMES:
            raise unknown("choice of training frames", self.frames, CLIP_FRAMES)
        if self.categories and self.frames not in ("all", "videos"):
            raise UserError(f"clips in groups are drawn from videos with labels; frames = '{self.frames}' has none")
        if self.flow and not self.num_supports:
            raise UserError("flow of clips without support frames is not accepted: give num_supports 1 or more")
        if min(self.categories, self.videos) < 0 or (self.categories == 0) != (self.videos == 0):
            raise UserError(
                f"clips in groups of {self.categories} categories x {self.videos} videos are not accepted: give 1 or "
                "more of both, or 0 of both for clips one by one"
            )

    @property
    def group_size(self) -> int:
        """Clips that belong together: K * N, or 1."""
        return max(1, self.categories * self.videos)


@dataclass(frozen=True, slots=True)
class ClipFrame:
    """A decoded frame of a training clip, in original pixels, *before* the flip (``transforms.flip_flow``).

    ``flow`` (of a support frame, where ``ClipSpec.flow`` asks for it): from each pixel of the clip's *reference* frame
    to where this frame shows the same thing, so ``reference[p]`` looks like ``image[p + flow[p]]``. NaN where this
    frame does not show it (hidden or outside here) and where no one knows (something unknown is in front).
    """

    index: int
    image: Image
    truth: Truth
    flow: Floats | None = None


@dataclass(frozen=True, slots=True)
class Clip:
    """A reference frame and its support frames, drawn from one snippet; ``number`` counts clips over the run."""

    number: int
    snippet: str
    reference: ClipFrame
    supports: tuple[ClipFrame, ...]
    flip: bool  # the method mirrors images and boxes of the whole clip when true
    category: int | None = None  # the label that a clip of a group was drawn for; the reference frame shows it


class Dataset(Protocol):
    """Annotated video that can be listed and read through fsspec."""

    name: str  # the DATASETS table's name, e.g. "ilsvrc"
    root: str  # path or URL as given

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        """Categories; label k means ``classes[k - 1]``."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes when lists, classes or annotations change; stable across machines and paths."""
        ...

    @property
    def splits(self) -> tuple[str, ...]: ...

    def snippets(self, split: str) -> Sequence[SnippetInfo]:
        """All snippets of a split, in listed order. ``UserError`` for an unknown split."""
        ...

    def read(
        self, split: str, snippet: str, indices: Sequence[int] | None = None, *, with_images: bool = True
    ) -> list[Frame]:
        """Frames of one snippet in the order asked for (all, in order, when None).

        Without images, ``Frame.encoded`` is empty and only annotations are read.
        """
        ...

    def training_clips(
        self, clips: ClipSpec, *, split: str, seed: int, start: int, stop: int, rank: int = 0, world: int = 1
    ) -> Iterator[Clip]:
        """Clips number ``start``..``stop - 1`` of an endless, reshuffled pass over the training frames.

        Clip n is the same whatever ``start``, ``rank`` and ``world`` are; a worker gets those with
        ``n // clips.group_size % world == rank``, in order. Read and shuffled by Ray Data, decoded in the calling
        process. ``UserError`` at once when such clips cannot be drawn from the split.
        """
        ...

    def snippet_frames(self, split: str, snippets: Sequence[str], *, world: int = 1) -> Iterator[Frame]:
        """All frames of these snippets: whole snippets in the order given, frames in theirs, encoded.

        Read ahead by Ray Data; ``world`` says how many evaluation workers do so at a time, which bounds what each may
        keep in memory. ``UserError`` for an unknown snippet, and where a frame cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class DatasetSpec:
    """A row of a DATASETS table: how to recognise and open one kind of data."""

    name: str
    summary: str
    accepts: Callable[[str], bool]  # does this root look like mine? (used when the kind is "auto")
    open: Callable[..., Dataset]  # open(root, **options)


# ---- detections ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Detections:
    """What a method found in one frame, in original pixels, by descending score."""

    boxes: Floats  # (N, 4)
    scores: Floats  # (N,) in [0, 1]
    labels: Ints  # (N,)

    @staticmethod
    def empty() -> Detections:
        return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


class Clock(Protocol):
    """Times the parts of a method. ``with clock.stage("backbone"): ...``; stages do not nest."""

    def stage(self, name: str) -> AbstractContextManager[None]: ...


class Stream(Protocol):
    """One video going through a method, frame by frame. Every frame's expensive features are computed once."""

    def push(self, image: Image) -> list[Detections]:
        """Take the next frame; return the detections that became final, in frame order (maybe none)."""
        ...

    def close(self) -> list[Detections]:
        """The video ended: return what is still owed. The stream is not used again."""
        ...


@runtime_checkable
class EncodedStream(Stream, Protocol):
    """A stream of a ``FrameEncoder``: takes frames that were encoded already."""

    def push_encoded(self, encoded: Any) -> list[Detections]:
        """As ``push(image)`` for ``encoded = method.encode(image, ...)``, which is left unchanged."""
        ...


@runtime_checkable
class IllustratedStream(Stream, Protocol):
    """A stream that can show what it worked with, for ``vodbench predict --show``."""

    @property
    def shows(self) -> tuple[str, ...]:
        """Names of its pictures, e.g. "flow"."""
        ...

    def pictures(self) -> Mapping[str, Image]:
        """Each of them for the frame pushed last: (h, w, 3) uint8 RGB of any size, which stands for the whole frame."""
        ...


class GuidedStream(Protocol):
    """A stream that looks at the annotations of the video: not a method, but a bound on what one could reach."""

    def push_annotated(self, image: Image, truth: Truth) -> list[Detections]:
        """As ``Stream.push``, with the frame's annotation."""
        ...

    def close(self) -> list[Detections]: ...

    def replayed(self, clock: Clock | None = None) -> Stream:
        """A stream that answers the frames seen so far the same, and does only what their answers need: to be timed."""
        ...


# ---- methods ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Optimisation of one stage. The rate falls by ``decay`` at each milestone; ``optimizer``: sgd, rmsprop or adam."""

    iterations: int
    batch_size: int  # clips a step, summed over workers; whole groups where the clips come in groups
    learning_rate: float
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup_iterations: int = 0
    warmup_factor: float = 1.0 / 3.0
    milestones: tuple[int, ...] = ()
    decay: float = 0.1
    clip_gradient_norm: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One training stage: which method is trained, on which clips, for how long.

    A stage starts from the weights of the stage before it (optimiser state dropped). Stages of different methods
    that agree in ``method``, training settings, schedule, clips and all earlier stages share one checkpoint.
    """

    name: str
    method: str
    config: MethodConfig
    clips: ClipSpec
    schedule: Schedule


class Method(Protocol):
    """A detector with its knobs. Implementations are ``torch.nn.Module`` with a class-agnostic constructor.

    Training and inference share one forward path, so a method cannot be right in one and wrong in the other.
    """

    @property
    def config(self) -> MethodConfig: ...

    def begin_stage(self, stage: Stage) -> None:
        """Set what is trained (``requires_grad``) and which losses apply. Called before the first step."""
        ...

    def load_initial(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Take what fits from an earlier stage's weights (of whichever method); ``UserError`` if nothing does."""
        ...

    def losses(self, clips: Sequence[Clip]) -> dict[str, torch.Tensor]:
        """Scalar losses of a batch, each a mean over clips; their sum is minimised.

        All randomness (RoI sampling) comes from torch's global generator, which the trainer seeds each step.
        """
        ...

    def stream(self, config: MethodConfig | None = None, clock: Clock | None = None) -> Stream:
        """A fresh stream. ``config`` may differ from the method's own in inference knobs only (else ``UserError``)."""
        ...


# In a dataclass that ``encode`` returns, ``features: Tensor = field(metadata=HALF_PRECISION)`` says that a feature
# cache may keep this float32 array as float16 where its user asked for that. All else is kept to the last bit.
HALF_PRECISION: Mapping[str, bool] = MappingProxyType({"vodbench.half_precision": True})


@runtime_checkable
class FrameEncoder(Protocol):
    """What a ``Method`` may offer besides: the work on a frame by itself, so that a sweep does it once for many trials.

    Its streams are ``EncodedStream``, but for those that look at few frames; ``push(image)`` equals
    ``push_encoded(encode(image, config))`` exactly. Where the return annotation of ``encode`` is a dataclass of
    tensors, NumPy arrays, numbers, strings, None, tuples of these and such dataclasses, encoded frames can be kept on
    disk (``vodbench.features``).
    """

    def encoding_settings(self, config: MethodConfig) -> Mapping[str, Any]:
        """The inference settings that ``encode`` depends on: equal ones may share the encoded frame."""
        ...

    def encode(self, image: Image, config: Any, clock: Clock | None = None) -> Any:
        """All that a frame gives, whatever the rest of the configuration is. (H, W, 3) uint8 RGB."""
        ...


class JointStream(Protocol):
    """One video going through a method with several configurations at once."""

    def push_encoded(self, encoded: Any) -> list[list[Detections]]:
        """As ``EncodedStream.push_encoded``: of each frame that became final, the detections by configuration."""
        ...

    def close(self) -> list[list[Detections]]: ...


@runtime_checkable
class JointMethod(FrameEncoder, Protocol):
    """What a ``FrameEncoder`` may offer besides: streams of several configurations that share more than encoded frames.

    Each configuration gets what its own stream finds, to the last bit; frames may become final later than there.
    """

    def joins(self, config: Any) -> Hashable | None:
        """Configurations with equal answers may go through one ``joint_stream``; None: this one goes alone."""
        ...

    def joint_stream(self, configs: Sequence[Any], clock: Clock | None = None) -> JointStream:
        """A fresh stream of these configurations, which may differ from the method's own in inference knobs."""
        ...


@runtime_checkable
class GuidedMethod(Protocol):
    """What a ``Method`` may offer besides: settings that look at annotations.

    ``MethodConfig.guided`` says which do; their ``stream`` is a ``UserError``.
    """

    def guided_stream(self, config: Any, clock: Clock | None = None) -> GuidedStream:
        """A fresh stream of such a configuration."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodSpec:
    """A row of a METHODS table."""

    name: str
    summary: str
    paper: str
    config: type[MethodConfig]
    presets: Mapping[str, Mapping[str, Any]]  # "paper" (the defaults, {}), "tiny" (2 CPU cores), ...
    build: Callable[[MethodConfig, int], Method]  # (config, number of classes C) -> untrained method
    stages: Callable[[MethodConfig], tuple[Stage, ...]]
    # How far detections lag behind the newest frame; None: they are final only when the snippet ends.
    latency_frames: Callable[[MethodConfig], int | None]
