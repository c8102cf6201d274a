"""How much video a study goes through: counted where the data can be opened, as published where it cannot."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vodbench.data_source import DataSource
from vodbench.errors import UserError
from vodbench.registry import data_tool
from vodbench.spec import SnippetInfo
from vodbench.studies import Study
from vodbench.sweeps.platform_steps import evenly_spaced

_SAMPLED = 8  # snippets whose first frame's size stands for all


@dataclass(frozen=True, kw_only=True)
class Video:
    """The frames that a study reads. ``frame_bytes``: of one encoded frame, None where nobody knows."""

    source: str
    judged_snippets: int  # that accuracy is taken on
    judged_frames: int
    timed_frames: int  # of the snippets that runtime is taken on
    frame_bytes: float | None = None


# 555 snippets with 176,126 frames: the official list of the validation split. 53 kB a frame: the published archive of
# 86 GB over the 1.6 million frames of its three splits.
IMAGENET_VID_SNIPPETS, IMAGENET_VID_FRAMES, IMAGENET_VID_FRAME_BYTES = 555, 176_126, 53_000.0


def video_of(study: Study) -> Video:
    """The data at the study's root; else what it will generate; else ImageNet VID, which the papers use."""
    if study.data.root is not None:
        return _opened(study, study.data.root)
    if study.data.generate is not None:
        made = data_tool("generator_config")(study.data.generate)
        return _evenly("generated video", study, made.val_snippets, made.val_snippets * made.frames)
    return _evenly(
        "ImageNet VID as published", study, IMAGENET_VID_SNIPPETS, IMAGENET_VID_FRAMES, IMAGENET_VID_FRAME_BYTES
    )


def _opened(study: Study, root: str) -> Video:
    dataset = DataSource(root=root, kind=study.data.dataset, options=study.data.options).open()
    listed = [info for info in dataset.snippets(study.data.val) if info.num_frames]
    if not listed:
        raise UserError(f"split '{study.data.val}' of '{root}' has no frames; give another --data, or another split")
    judged = evenly_spaced(listed, study.accuracy.snippets)
    sampled = evenly_spaced(listed, _SAMPLED)
    sizes = [len(dataset.read(study.data.val, info.id, [0])[0].encoded) for info in sampled]
    return Video(
        source=f"'{root}'",
        judged_snippets=len(judged),
        judged_frames=_frames(judged),
        timed_frames=round(_frames(listed) / len(listed) * min(study.runtime.snippets, len(listed))),
        frame_bytes=sum(sizes) / len(sizes),
    )


def _frames(snippets: Iterable[SnippetInfo]) -> int:
    return sum(info.num_frames for info in snippets)


def _evenly(source: str, study: Study, snippets: int, frames: int, frame_bytes: float | None = None) -> Video:
    """Snippets of one length."""
    if not snippets:
        raise UserError(f"study '{study.name}' generates no validation snippets; give data.generate.val_snippets")
    wanted = study.accuracy.snippets
    judged = snippets if wanted == "all" else min(wanted, snippets)
    return Video(
        source=source,
        judged_snippets=judged,
        judged_frames=round(frames * judged / snippets),
        timed_frames=round(frames * min(study.runtime.snippets, snippets) / snippets),
        frame_bytes=frame_bytes,
    )
