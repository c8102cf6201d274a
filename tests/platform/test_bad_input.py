"""Every mistake a user can make at the command line: one line, exit status 2, nothing written.

Each room tests its own errors in depth; here they are seen as the user sees them.
"""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import fsspec
import pytest
from command_line import Run, refused

from vodbench.cli import COMMANDS
from vodbench_datasets.generated import generate
from vodbench_datasets.generated.config import GeneratorConfig


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bad") / "video"
    generate(str(root), GeneratorConfig(snippets=2, val_snippets=1, frames=3, size=48, classes=2, tracks=(1, 1)))
    return root


@pytest.fixture
def damaged(tree: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tree, tmp_path / "damaged"))


def annotation(root: Path) -> Path:
    return sorted((root / "Annotations" / "VID" / "train").glob("*/000001.xml"))[0]


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_missing_and_empty_data_roots(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for root, word in (("nowhere", "does not exist"), ("empty", "holds nothing")):
        refused(run("data", "describe", str(tmp_path / root)), str(tmp_path / root), word)
        out = tmp_path / "out"
        refused(run("sweep", "demo", "--data", str(tmp_path / root), "--out", str(out)), word)
        refused(
            run("train", "faster-rcnn", "--preset", "tiny", "--data", str(tmp_path / root), "--out", str(out)), word
        )
        refused(run("data", "shard", str(tmp_path / root), str(out)), word)
        assert not out.exists()


def test_an_unknown_snippet_in_a_list(run: Run, damaged: Path) -> None:
    with (damaged / "ImageSets/VID/train.txt").open("a") as file:
        file.write("no_such_snippet\n")
    refused(run("data", "describe", str(damaged)), "no_such_snippet")


def test_xml_without_size(run: Run, damaged: Path) -> None:
    file = annotation(damaged)
    text = file.read_text()
    begin, end = text.index("<size>"), text.index("</size>") + len("</size>")
    file.write_text(text[:begin] + text[end:])
    refused(run("data", "describe", str(damaged)), file.name, "size")


def test_a_box_outside_the_image(run: Run, damaged: Path) -> None:
    file = annotation(damaged)
    text = file.read_text()
    begin, end = text.index("<xmax>"), text.index("</xmax>")
    file.write_text(text[:begin] + "<xmax>4000" + text[end:])
    refused(run("data", "describe", str(damaged)), file.name, "4000")


def test_a_class_that_no_list_names(run: Run, damaged: Path) -> None:
    file = annotation(damaged)
    text = file.read_text()
    begin, end = text.index("<object>"), text.index("</object>")
    inside = text[begin:end]
    name = inside[inside.index("<name>") + 6 : inside.index("</name>")]
    replace(file, f"<name>{name}</name>", "<name>n99999999</name>")
    refused(run("data", "describe", str(damaged)), "n99999999", file.name)


def test_a_jpeg_that_does_not_decode(run: Run, damaged: Path, tmp_path: Path) -> None:
    snippet = sorted((damaged / "Data/VID/val").iterdir())[0]
    (snippet / "000001.JPEG").write_bytes(b"no picture")
    out = tmp_path / "annotated.mp4"
    weights = tmp_path / "weights"
    _untrained(weights)
    words = ("predict", "--data", str(damaged), "--snippet", snippet.name, "--run", str(weights), "--out", str(out))
    refused(run(*words), snippet.name, "frame 1", "does not decode")
    assert not out.exists()


@pytest.mark.parametrize(
    ("setting", "words"),
    [("N_bb=2", ("unknown knob 'N_bb'", "N_b")), ("T=0", ("T = 0", "[1, inf)")), ("T=-2", ("T = -2",)),
     ("r=0", ("r = 0", "(0, 100]")), ("r=101", ("r = 101", "(0, 100]")), ("K=0", ("K = 0", "[1, inf)")),
     ("T", ("NAME=VALUE",))],
)  # fmt: skip
def test_bad_knobs(run: Run, tree: Path, tmp_path: Path, setting: str, words: tuple[str, ...]) -> None:
    out = tmp_path / "out"
    given = ("train", "rdn", "--preset", "tiny", "--data", str(tree), "--out", str(out), "--set", setting)
    refused(run(*given), *words)
    assert not out.exists()


def test_bad_knobs_in_a_study(run: Run, tree: Path, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    study = "name: s\ntitle: t\npreset: tiny\nmethods: [{{method: rdn, knobs: {{{knobs}}}}}]\n"
    for knobs, word in (("TT: [1]", "TT"), ("T: [0, 1]", "T = 0"), ("r: [200]", "r = 200"), ("K: [0]", "K = 0")):
        file.write_text(study.format(knobs=knobs))
        refused(run("sweep", str(file), "--data", str(tree), "--out", str(tmp_path / "out")), word)
    file.write_text("name: s\ntitle: t\nmethod: []\n")
    refused(run("sweep", str(file), "--data", str(tree), "--out", str(tmp_path / "out")), "method", "methods")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_another_method(run: Run, tree: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    _untrained(weights)
    refused(run("evaluate", "--run", str(weights), "--data", str(tree), "--set", "T=3"), "T")
    (tmp_path / "foreign.pt").write_bytes(b"\x80\x04K\x01.")
    refused(run("evaluate", "--run", str(tmp_path / "foreign.pt"), "--data", str(tree)), "foreign.pt")


def test_an_output_folder_of_another_study(run: Run, tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "study.yaml").write_text("name: another\ntitle: t\nmethods: [{method: faster-rcnn}]\n")
    before = sorted(out.rglob("*"))
    refused(run("sweep", "demo", "--data", str(tree), "--out", str(out)), str(out))
    refused(run("train", "faster-rcnn", "--preset", "tiny", "--data", str(tree), "--out", str(out)), str(out))
    assert sorted(out.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [(("swep",), "did you mean 'sweep'"), (("methods", "rdm"), "did you mean 'rdn'"),
     (("sweep", "rdn-tabel4"), "did you mean 'rdn-table4'"), (("front", "nowhere"), "not a folder"),
     (("report", "nowhere"), "nowhere"), (("data", "verify", "nowhere"), "nowhere"),
     (("train", "rdm", "--data", "x", "--out", "y"), "did you mean 'rdn'"),
     (("evaluate", "--coco-gt", "nowhere.json", "--coco-dt", "nowhere.json"), "nowhere.json"),
     (("import", "mega", "nowhere.pth", "--out", "y"), "nowhere.pth"),
     (("import", "mmtracking", "nowhere.pth", "--out", "y"), "nowhere.pth"),
     (("predict", "nowhere.mp4", "--run", "nowhere", "--out", "z.mp4"), "nowhere")],
)  # fmt: skip
def test_names_that_are_not_there(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(run(*words), message)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_help_ends_with_an_example(command: str, run: Run) -> None:
    status, printed, _ = run(command, "--help")
    assert status == 0
    assert f"vodbench {command}" in printed.partition("Example")[2]


# ---- every argument of every command ----


@pytest.fixture
def place(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with one of everything that is easily given by mistake."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tree").symlink_to(tree)
    _untrained(tmp_path / "weights")
    (tmp_path / "a_file").write_text("some text\n")
    (tmp_path / "a_folder").mkdir()
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "study.yaml").write_text("name: s\ntitle: t\nmethods: [{method: faster-rcnn}]\n")
    identity = {"id": "i", "data_fingerprint": "d", "began": "2026-01-01T00:00:00+00:00"}
    (tmp_path / "study" / "sweep.json").write_text(json.dumps(identity))
    return tmp_path


# What the command line is given, and a part of what it answers. FRAMES is a folder of images.
MISTAKES = """
train | Missing argument 'method'; see 'vodbench train --help'
train rdn --data tree | Missing option '--out'
train rdn --data tree --out new --wrokers 2 | No such option: --wrokers (Possible options: --workers)
train rdn --data tree --out new --workers two | --workers 'two' is not accepted: it must be a valid integer
train rdn --data tree --out new --seed -1 | --seed '-1' is not accepted: it must be greater than or equal to 0
train rdn more --data tree --out new | unexpected extra argument
train rdn --data tree --out new --preset tiny --workers 999 | workers = 999 is not accepted: each needs a CPU
train rdn --data tree --out '' --preset tiny | an empty name is given
train rdn --data tree --out a_file --preset tiny | a file is in its way
train rdn --data tree --out a_file/new --preset tiny | a file is in its way
train rdn --data '' --out new --preset tiny | an empty name is given
train rdn --data tree --out new --preset tiny --set weights=nowhere.pth | weights = 'nowhere.pth' is not a file
sweep binary.yaml --data tree --out new | 'binary.yaml' is not text in UTF-8
sweep demo --data tree --out '' | an empty name is given
sweep demo --data tree --out a_file | a file is in its way
sweep demo --data tree --out a_file/new | a file is in its way
sweep demo --data tree --out new --ray head | Ray address 'head' is not accepted
sweep demo --data tree --out new --ray '' | Ray address '' is not accepted
sweep demo --data tree --out new --set seeds=[-1] | seeds.0 = -1
sweep demo --data tree --out new --set workers.training=999 | workers = 999 is not accepted
sweep demo --data tree --out new --tracking http://127.0.0.1:port | could not be cast to integer value as 'port'
sweep demo --data tree --out new --tracking http://127.0.0.1:99999 | Port out of range
sweep demo --data tree --out new --tracking http:// | names no host
sweep demo --data tree --out new --tracking http://[ | Invalid IPv6 URL
sweep demo --data tree --out new --tracking sqlite:// | names no file; give sqlite:///FILE.db
sweep demo --data tree --out new --tracking sqlite:///a_file | file is not a database
sweep demo --data tree --out new --tracking sqlite:///a_folder | is no name of a file to write
sweep demo --data tree --out new --tracking sqlite:///a_file/x.db | a file is in its way
sync | Missing argument 'out'
sync '' | an empty name is given
sync nowhere | 'nowhere' holds no study.yaml; give the output folder of a 'vodbench sweep'
sync a_file | holds no study.yaml
sync tree | holds no study.yaml
sync nowhere://x | cannot be opened
sync study more | unexpected extra argument
sync study --tracking '' | give sqlite:///FILE.db
sync study --tracking nowhere | give sqlite:///FILE.db
sync study --tracking htp://h | is not accepted
sync study --tracking http://127.0.0.1:port | could not be cast
sync study --tracking sqlite:///a_file | file is not a database
data generate '' | an empty name is given
data generate a_file/new | a file is in its way
data shard tree a_file | a file is in its way
data shard tree a_file/new | a file is in its way
data shard tree new --shard-mib nan | --shard-mib nan is not accepted
data shard tree new --shard-mib inf | --shard-mib inf is not accepted
evaluate x.parquet --data tree --workers 0 | --workers '0' is not accepted
evaluate x.parquet --data tree --workers 2 | belong to --run
evaluate x.parquet --data tree --device cpu | belong to --run
evaluate --run weights --data tree --split tset --out new/x.parquet | unknown split 'tset'
evaluate --run weights --data tree --out '' | an empty name is given
evaluate --run weights --data tree --out a_folder | 'a_folder' is no name of a file to write
evaluate --run weights --data tree --out a_file/x.parquet | a file is in its way
predict FRAMES --run weights --out new.mp4 --upscale 1000000 | upscale = 1000000 is not accepted
predict FRAMES --run weights --out new.mp4 --fps 0.0001 | fps = 0.0001 is not accepted
predict '' --run weights | '' does not exist; give a video file
evaluate '' --data tree | an empty name is given
report study --file '' | holds no trials
demo --out '' | an empty name is given
demo --out a_file | a file is in its way
demo --frames 0 | --frames '0' is not accepted
bench evaluate --seed -1 | --seed '-1' is not accepted: it must be greater than or equal to 0
bench evaluate --seed x | --seed 'x' is not accepted: it must be a valid integer
bench evaluate --sede 1 | No such option: --sede
bench evaluate more | unexpected extra argument
bench evaluat | did you mean 'evaluate'
bench runtime --method rdm | did you mean 'rdn'
bench runtime --method '' | unknown method ''
bench runtime --baseline rdm | did you mean 'rdn'
bench runtime --preset huge | unknown preset of faster-rcnn 'huge'
bench runtime --size x | --size 'x' is not accepted: it must be a valid integer
bench runtime --size 31 | --size 31 is not accepted
bench runtime --frames 1 | --frames 1 is not accepted
bench runtime --snippets 0 | --snippets 0 is not accepted
bench runtime --repeats 0 | repeats = 0 is not accepted
bench runtime --threads -1 | threads = -1 is not accepted
bench runtime --device gpu | device 'gpu' is not available here
"""


@pytest.mark.parametrize("mistake", MISTAKES.strip().splitlines())
def test_a_mistake_in_any_argument(run: Run, place: Path, mistake: str) -> None:
    words, _, answer = mistake.partition(" | ")
    frames = sorted((place / "tree/Data/VID/val").iterdir())[0]
    before = _listing(place)
    refused(run(*(str(frames) if word == "FRAMES" else word for word in shlex.split(words))), answer)
    assert _listing(place) == before


def _listing(root: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(root.rglob("*"))}


def test_a_folder_that_cannot_be_written_to(run: Run, place: Path) -> None:
    """Nobody may write into /proc, not even root, for whom permissions do not count."""
    if not Path("/proc/self").exists():
        pytest.skip("needs /proc")
    for words in (
        "train rdn --preset tiny --data tree --out /proc/new",
        "sweep demo --data tree --out /proc/new",
        "sweep demo --data tree --out new --tracking sqlite:////proc/x.db",
        "data generate /proc/new",
        "data shard tree /proc/new",
        "demo --out /proc/new",
        "evaluate --run weights --data tree --out /proc/x.parquet",
        "predict --data tree --snippet generated_val_00000 --run weights --out /proc/x.mp4",
    ):
        refused(run(*words.split()), "/proc", "cannot be written to")


def test_a_store_that_refuses_is_one_line(run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As S3 without credentials: its library raises an error of its own."""

    class NoCredentialsError(Exception):
        pass

    def refuse(*_: object, **__: object) -> bool:
        raise NoCredentialsError("Unable to locate credentials")

    for method in ("exists", "info", "cat_file", "ls", "isdir"):
        monkeypatch.setattr(fsspec.get_filesystem_class("memory"), method, refuse)
    for words in (
        "data describe memory://b/x",
        "data verify memory://b/x",
        "data generate memory://b/x",
        "data shard tree memory://b/x",
        "train rdn --preset tiny --data memory://b/x --out new",
        "evaluate --run weights --data tree --out memory://b/x.parquet",
        "evaluate memory://b/x.parquet --data tree",
        "front memory://b/x",
        "report memory://b/x",
        "sync memory://b/x",
    ):
        refused(run(*words.split()), "memory://b/x", "cannot be reached", "NoCredentialsError", "credentials")


def test_a_group_without_a_command_shows_its_help(run: Run) -> None:
    for words in ([], ["data"], ["bench"]):
        status, out, err = run(*words)
        assert status == 2
        assert "Usage: vodbench" in out + err
        assert "error:" not in out + err


def _untrained(folder: Path) -> None:
    """A checkpoint of a faster-rcnn that was never trained."""
    from vodbench.checkpoints import Checkpoint, save_checkpoint
    from vodbench.registry import method_spec
    from vodbench.spec import ClassInfo

    spec = method_spec("faster-rcnn")
    config = spec.config.from_mapping(dict(spec.presets["tiny"]))
    method = spec.build(config, 2)
    save_checkpoint(
        str(folder / "model.pt"),
        Checkpoint(
            method=spec.name, config=config, classes=(ClassInfo("a", "a"), ClassInfo("b", "b")),
            weights=method.state_dict(),  # type: ignore[attr-defined]
            fingerprint="f", stage="detector", data_fingerprint="d", seed=0, revision="r",
        ),
    )  # fmt: skip
