"""What the generator makes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, TypeAlias

from vodbench.errors import UserError
from vodbench_datasets.generated.appearance import MAX_CLASSES

Range: TypeAlias = tuple[float, float]

# Field names of the strengths below, in the order of every record.
DETERIORATIONS = (
    "motion_blur",
    "defocus",
    "occlusion",
    "rare_pose",
    "scale_change",
    "camera_shake",
    "leaving_entering",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorConfig:
    """Sizes, seed and difficulty of a generated data set.

    A burst picks one deterioration, a run of frames and a peak strength drawn from that deterioration's range in
    [0, 1]; strength rises to the peak and falls again. (0, 0) switches a deterioration off. Strength 1 means:

    motion_blur       a smear of 16% of ``size``          rare_pose         turned by 90 degrees, foreshortened to 35%
    defocus           Gaussian of sigma 3.5% of ``size``  scale_change      2.5 times smaller, or 1.8 times larger
    occlusion         the object is covered altogether    leaving_entering  the object is outside the picture
    camera_shake      jumps of 8% of ``size`` a frame, and the smear they make
    """

    snippets: int = 120  # training snippets
    val_snippets: int = 24
    stills: int = 0  # training images that are no video, with nothing to spoil them: what ImageNet DET is to VID
    frames: int = 24  # of every snippet
    size: int = 128  # height and width in pixels
    classes: int = 5  # the first of ``appearance.CLASSES``; 1 and 2 look alike, as do 3 and 4
    seed: int = 0
    tracks: tuple[int, int] = (1, 3)  # objects of a snippet, both ends included
    radius: Range = (0.10, 0.19)  # of an object, as a share of ``size``
    speed: Range = (0.004, 0.022)  # of an object, as a share of ``size`` a frame
    # Factor on an object's speed, turning and growing, even on a logarithmic scale: (0.02, 1) mixes all but resting
    # objects with those of full speed. What a burst does to it stays as it is.
    liveliness: Range = (1.0, 1.0)
    bursts: tuple[int, int] = (3, 5)  # of a snippet, both ends included
    burst_frames: tuple[int, int] = (4, 8)  # length of a burst, both ends included
    motion_blur: Range = (0.5, 1.0)
    defocus: Range = (0.5, 1.0)
    occlusion: Range = (0.4, 0.85)
    rare_pose: Range = (0.5, 1.0)
    scale_change: Range = (0.5, 1.0)
    camera_shake: Range = (0.4, 1.0)
    leaving_entering: Range = (0.5, 1.0)
    noise: float = 4.0  # standard deviation of the sensor's noise, in grey levels
    jpeg_quality: int = 90
    flow: bool = True  # record the motion of every layer, from which exact flow between any two frames follows

    def __post_init__(self) -> None:
        self._at_least(1, "frames", "classes", "jpeg_quality")
        self._at_least(0, "snippets", "val_snippets", "stills", "seed", "noise")
        self._at_least(48, "size")
        if self.snippets + self.val_snippets == 0:
            raise UserError("snippets and val_snippets are both 0; ask for at least one snippet")
        if self.classes > MAX_CLASSES:
            raise UserError(f"classes is {self.classes}; the generator has 1 to {MAX_CLASSES}")
        if self.jpeg_quality > 100:
            raise UserError(f"jpeg_quality is {self.jpeg_quality}; give 1 to 100")
        for name, low, high in (("tracks", 1, 8), ("bursts", 0, 100), ("burst_frames", 1, 1000)):
            self._range(name, low, high)
        for name in DETERIORATIONS:
            self._range(name, 0.0, 1.0)
        self._range("radius", 0.05, 0.3)
        self._range("speed", 0.0, 0.2)
        self._range("liveliness", 0.001, 10.0)

    @staticmethod
    def field_names() -> tuple[str, ...]:
        return tuple(field.name for field in fields(GeneratorConfig))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as JSON keeps them (ranges are lists)."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def _at_least(self, bound: int, *names: str) -> None:
        for name in names:
            if getattr(self, name) < bound:
                raise UserError(f"{name} is {getattr(self, name)}; give {bound} or more")

    def _range(self, name: str, low: float, high: float) -> None:
        first, last = getattr(self, name)
        if not low <= first <= last <= high:
            raise UserError(f"{name} is ({first}, {last}); give (low, high) with {low} <= low <= high <= {high}")
