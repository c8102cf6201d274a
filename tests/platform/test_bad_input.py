"""Every mistake a user can make at the command line: one line, exit status 2, nothing written.

Each room tests its own errors in depth; here they are seen as the user sees them.
"""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vodbench.cli import COMMANDS, main
from vodbench_datasets.generated import generate
from vodbench_datasets.generated.config import GeneratorConfig

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["vodbench", *words])
        try:
            main()
        except SystemExit as end:
            status = end.code
        printed = capsys.readouterr()
        assert isinstance(status, int)
        return status, printed.err

    return call


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bad") / "video"
    generate(str(root), GeneratorConfig(snippets=2, val_snippets=1, frames=3, size=48, classes=2, tracks=(1, 1)))
    return root


@pytest.fixture
def damaged(tree: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tree, tmp_path / "damaged"))


def refused(outcome: tuple[int, str], *words: str) -> None:
    status, printed = outcome
    lines = [line for line in printed.splitlines() if line.startswith("error:")]
    assert status == 2, printed
    assert len(lines) == 1, printed
    assert "Traceback" not in printed
    for word in words:
        assert word in lines[0], lines[0]


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


def test_an_unreachable_tracking_server(run: Run, tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with socket.socket() as deaf:  # bound and not listening: refuses, and nobody else can take the port meanwhile
        deaf.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        words = ("sweep", "demo", "--data", str(tree), "--out", str(out), "--tracking", f"http://{address}")
        refused(run(*words), address)
    assert not out.exists()


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
def test_every_help_ends_with_an_example(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["vodbench", command, "--help"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert f"vodbench {command}" in printed.partition("Example")[2]


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
