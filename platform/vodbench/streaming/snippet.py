"""One snippet through a method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from vodbench.errors import UserError
from vodbench.knobs import MethodConfig
from vodbench.spec import Detections, Image, Method
from vodbench.timing.attribution import frame_costs
from vodbench.timing.clock import StageClock

StageTimes = dict[str, float]  # stage -> milliseconds


class SnippetError(RuntimeError):
    """A method failed on a frame; the message names the snippet and the frame."""


def detect_snippet(
    method: Method, config: MethodConfig, images: Iterable[Image], clock: StageClock | None = None
) -> tuple[list[Detections], list[StageTimes]]:
    """Stream one snippet.

    Args:
        method: in evaluation mode.
        config: may differ from the method's own in inference knobs.
        images: (H, W, 3) uint8 RGB, in order; drawn one at a time.
        clock: counts the stages; ``NullClock``-like when None.

    Returns:
        Detections and stage times (empty without a clock) of each frame, in order. What ``close`` took is shared out
        among the frames as in ``frame_costs``.

    Raises:
        SnippetError: from what the method raised, naming the frame it was given last.
        AssertionError: the stream returned more or fewer frames than it took.
    """
    found: list[Detections] = []
    returned: list[int] = []
    times: list[StageTimes] = []
    where = "before the first frame"
    with torch.inference_mode():
        try:
            stream = method.stream(config, clock)
            for number, image in enumerate(images):
                where = f"frame {number}"
                final = stream.push(image)
                found.extend(final)
                returned.append(len(final))
                times.append(clock.take_ms() if clock else {})
            where = f"at the end, after {len(returned)} frames"
            found.extend(stream.close())
        except (UserError, AssertionError):
            raise
        except Exception as error:
            raise SnippetError(f"{where}: {type(error).__name__}: {error}") from error
    assert len(found) == len(returned), (
        f"{type(method).__name__}: its stream took {len(returned)} frames and returned detections of {len(found)}"
    )
    return found, _shared_out(times, returned, clock.take_ms() if clock else {})


def _shared_out(times: Sequence[StageTimes], returned: Sequence[int], closing: Mapping[str, float]) -> list[StageTimes]:
    """Stage times a frame, with those of ``close`` distributed."""
    names = dict.fromkeys(name for stages in (*times, closing) for name in stages)
    costs = {n: frame_costs([t.get(n, 0.0) for t in times], returned, closing.get(n, 0.0)) for n in names}
    return [{name: float(costs[name][i]) for name in names} for i in range(len(times))]
