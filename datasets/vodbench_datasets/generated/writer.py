"""Generated snippets as files of an ILSVRC tree."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from typing import TypeAlias
from xml.sax.saxutils import escape

import cv2

from vodbench.errors import UserError
from vodbench.images import encode_jpeg
from vodbench.storage import exists, filesystem, join, make_folder, read_text, write_text
from vodbench_datasets.generated.appearance import CLASSES
from vodbench_datasets.generated.bursts import no_strengths
from vodbench_datasets.generated.config import GeneratorConfig
from vodbench_datasets.generated.scene import Rendered, Scene, draw_scene, render
from vodbench_datasets.ilsvrc.deteriorations import record_path
from vodbench_datasets.ilsvrc.motion import motion_path

CONFIG_FILE = "generator.json"

_SPLITS = ("train", "val")
_STILLS = "stills"
_DET_LIST = "ImageSets/DET/DET_train_30classes.txt"  # as published, though there are other classes here
_STREAMS = (*_SPLITS, _STILLS)
_POOL_FRAMES = 500  # fewer frames than this are rendered sooner than processes start
_WRITERS = 8

Files: TypeAlias = list[tuple[str, bytes]]  # path below the root, content


def generate(
    root: str,
    config: GeneratorConfig,
    *,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the data set below ``root``, a folder or URL; its bytes follow from ``config`` alone.

    The lists are written last, so a tree that was interrupted cannot be mistaken for a whole one; the same call again
    makes it whole. A finished tree of the same configuration is left as it is.

    Args:
        workers: processes; None takes one a core, and one only for small data sets.
        on_progress: called with (snippets written, snippets in all).

    Raises:
        UserError: the root holds something else, or data generated with another configuration.
    """
    if _prepare(root, config):
        return
    jobs = [(stream, number) for stream in _STREAMS for number in range(_count(config, stream))]
    for done, files in enumerate(_rendered(config, jobs, _workers(config, workers)), start=1):
        _write(root, files)
        if on_progress:
            on_progress(done, len(jobs))
    infos = [appearance.info for appearance in CLASSES[: config.classes]]
    write_text(join(root, "classes.txt"), "".join(f"{info.id} {info.name}\n" for info in infos))
    for stream, path in _lists(config).items():
        names = [snippet_name(stream, number) for number in range(_count(config, stream))]
        write_text(join(root, path), "".join(f"{name}\n" for name in names))


def snippet_name(stream: str, number: int) -> str:
    return f"generated_{stream}_{number:05d}"


def _lists(config: GeneratorConfig) -> dict[str, str]:
    """stream -> its list file, in the order of writing, for those that are not empty."""
    files = {"train": "ImageSets/VID/train.txt", "val": "ImageSets/VID/val.txt", _STILLS: _DET_LIST}
    return {stream: path for stream, path in files.items() if _count(config, stream)}


def _prepare(root: str, config: GeneratorConfig) -> bool:
    """Whether the data set is there already. Marks an empty root as about to be filled."""
    fs, path = filesystem(root)
    if exists(root) and fs.ls(path, detail=False):
        if not fs.exists(join(path, CONFIG_FILE)):
            raise UserError(f"'{root}' is not empty and was not generated; give a new or an empty folder")
        if not _describes(read_text(join(root, CONFIG_FILE)), config):
            raise UserError(
                f"'{root}' holds data generated with another configuration (see its {CONFIG_FILE}); give a new folder "
                "or remove this one"
            )
        last = [*_lists(config).values()][-1]
        return bool(fs.exists(join(path, last)))
    make_folder(root)
    write_text(join(root, CONFIG_FILE), json.dumps(config.as_dict(), indent=1) + "\n")
    return False


def _describes(record: str, config: GeneratorConfig) -> bool:
    """Whether a tree's record of its configuration is of this one. A setting that did not exist when the tree was made
    counts as the default, so that older trees stay in use (without motion, which they lack)."""
    try:
        found = json.loads(record)
    except ValueError:
        return False
    return isinstance(found, dict) and {**GeneratorConfig().as_dict(), **found} == config.as_dict()


def _count(config: GeneratorConfig, stream: str) -> int:
    return {"train": config.snippets, "val": config.val_snippets, _STILLS: config.stills}[stream]


def _workers(config: GeneratorConfig, asked: int | None) -> int:
    if asked is not None:
        return asked
    frames = (config.snippets + config.val_snippets) * config.frames + config.stills
    return len(os.sched_getaffinity(0)) if frames >= _POOL_FRAMES else 1


def _rendered(config: GeneratorConfig, jobs: list[tuple[str, int]], workers: int) -> Iterator[Files]:
    """The files of each snippet, in the order of the jobs."""
    draw = partial(_snippet_files, config)
    if workers <= 1:
        yield from map(draw, jobs)
        return
    # Spawned, not forked: the caller may run threads (Ray, torch), whose locks a fork would copy.
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        yield from pool.map(draw, jobs, chunksize=4)


def _snippet_files(config: GeneratorConfig, job: tuple[str, int]) -> Files:
    split, number = job
    scene = draw_scene(config, _STREAMS.index(split), number)
    if split == _STILLS:
        return _still_files(replace(scene, strengths=no_strengths(len(scene.sprites), config.frames)), number)
    folder = f"VID/{split}/{snippet_name(split, number)}"
    files: Files = []
    record = {}
    for frame in range(config.frames):
        rendered, name = render(scene, frame), f"{frame:06d}"
        files.append((f"Data/{folder}/{name}.JPEG", encode_jpeg(rendered.image, config.jpeg_quality)))
        files.append((f"Annotations/{folder}/{name}.xml", _xml(rendered, snippet_name(split, number), name).encode()))
        if config.flow:
            files.append((motion_path(folder, name), rendered.motion.encode()))
        if rendered.deteriorations:
            record[name] = rendered.deteriorations
    files.append((record_path(folder), (json.dumps(record, indent=1) + "\n").encode()))
    return files


def _still_files(scene: Scene, number: int) -> Files:
    """The middle frame of a scene as an image of its own."""
    folder, name = "DET/train", snippet_name(_STILLS, number)
    rendered = render(scene, scene.config.frames // 2)
    image = encode_jpeg(rendered.image, scene.config.jpeg_quality)
    files: Files = [(f"Data/{folder}/{name}.JPEG", image)]
    files.append((f"Annotations/{folder}/{name}.xml", _xml(rendered, "train", name).encode()))
    if scene.config.flow:
        files.append((motion_path(folder, name), rendered.motion.encode()))
    return files


def _write(root: str, files: Iterable[tuple[str, bytes]]) -> None:
    """Not one atomic write a file (a sync each takes longer than rendering): the lists, written last, vouch for all."""
    fs, path = filesystem(root)
    targets = [(join(path, name), content) for name, content in files]
    for folder in sorted({target.rpartition("/")[0] for target, _ in targets}):
        fs.makedirs(folder, exist_ok=True)
    with ThreadPoolExecutor(_WRITERS) as pool:
        list(pool.map(lambda file: fs.pipe_file(*file), targets))


def _xml(rendered: Rendered, folder: str, name: str) -> str:
    height, width = rendered.image.shape[:2]
    objects = "".join(
        _OBJECT.format(track, escape(CLASSES[label - 1].info.id), *(int(corner) for corner in box), int(occluded))
        for track, label, box, occluded in zip(
            rendered.track_ids, rendered.labels, rendered.boxes, rendered.occluded, strict=True
        )
    )
    return _ANNOTATION.format(folder, name, width, height, objects)


_ANNOTATION = """<annotation>
	<folder>{}</folder>
	<filename>{}</filename>
	<source>
		<database>generated</database>
	</source>
	<size>
		<width>{}</width>
		<height>{}</height>
	</size>
{}</annotation>
"""
_OBJECT = """	<object>
		<trackid>{}</trackid>
		<name>{}</name>
		<bndbox>
			<xmin>{}</xmin>
			<ymin>{}</ymin>
			<xmax>{}</xmax>
			<ymax>{}</ymax>
		</bndbox>
		<occluded>{}</occluded>
		<generated>0</generated>
	</object>
"""
