"""``vodbench predict``: detect in a video and draw the result."""

from __future__ import annotations

from typing import Annotated

import typer

from vodbench.cli import shared
from vodbench.data_source import DataSource
from vodbench.errors import UserError

EPILOG = shared.example(
    "vodbench predict street.mp4 --run runs/rdn --out annotated.mp4 --score 0.3",
    "vodbench predict --data data/generated --snippet val_0003 --run runs/rdn --out annotated.mp4 --upscale 3",
    "vodbench predict street.mp4 --run runs/thp --out annotated.mp4 --show flow,mask",
)


def command(
    video: Annotated[str | None, typer.Argument(help="A video file, or a folder of images.")] = None,
    run: Annotated[str, typer.Option(help="A trial's or training's folder, or a checkpoint file.")] = ...,  # type: ignore[assignment]
    out: Annotated[str, typer.Option(help="The annotated video to write (.mp4, .mkv, .mov, .avi).")] = "annotated.mp4",
    score: Annotated[float, typer.Option(help="Draw detections of at least this score.")] = 0.3,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps")] = "auto",
    data: Annotated[str | None, typer.Option(help="Instead of VIDEO: the data set that --snippet is in.")] = None,
    snippet: Annotated[str | None, typer.Option(help="Instead of VIDEO: a snippet of --data.")] = None,
    fps: Annotated[float | None, typer.Option(help="Frame rate; the video's own, or 25 for images.")] = None,
    upscale: Annotated[int, typer.Option(help="Enlarge the output so that names fit into tiny frames.")] = 1,
    show: Annotated[str | None, typer.Option(help="Pictures beside each frame, e.g. flow,mask (DFF, THP).")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Change an inference knob: NAME=VALUE.")] = None,
) -> None:
    """Detect objects in a video and write it with boxes, class names and scores. Sound is dropped."""
    # Everything that can be wrong is looked at before anything is loaded or written.
    from vodbench.checkpoints import resolve_run
    from vodbench.device import describe_device, pick_device
    from vodbench.video import predict_video
    from vodbench.video_files import check_output, open_frames, open_snippet

    if (video is None) == (data is None or snippet is None) or (data is None) != (snippet is None):
        raise UserError("give either VIDEO (a file or a folder of images), or --data and --snippet")
    check_output(out, *([] if video is None else [video]))
    source = DataSource(root=str(data))
    frames = open_snippet(source, str(snippet), fps) if video is None else open_frames(video, fps)
    place = pick_device(device)
    checkpoint, config = resolve_run(run)
    config = config.replace(**shared.parse_settings(set_ or ()))
    shared.announce(
        f"predict {frames.name} with {checkpoint.method}",
        config=config.to_mapping(),
        seed=checkpoint.seed,
        device=describe_device(place),
        data=checkpoint.data_fingerprint,
    )
    if frames.has_audio:
        shared.console.print("the sound of the video is not copied")
    with shared.progress() as bar:
        task = bar.add_task("frames", total=frames.num_frames)
        done = predict_video(
            checkpoint.build(place),
            config,
            checkpoint.classes,
            frames,
            out,
            score=score,
            upscale=upscale,
            show=[name.strip() for name in show.split(",")] if show is not None else (),
            on_progress=lambda number: bar.update(task, completed=number),
        )
    typer.echo(f"{out}: {done.num_frames} frames, {done.num_boxes} boxes of score {score:g} or more")
