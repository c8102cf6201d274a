"""``vodbench data``: what it prints, and that bad input is one line with exit status 2."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from command_line import Run, refused

SMALL = ["--snippets", "2", "--val-snippets", "1", "--frames", "5", "--size", "64"]


@pytest.fixture
def run(run: Run) -> Run:
    """Of ``vodbench data``."""
    return partial(run, "data")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tree/ and shards/ of the same data."""
    root = tmp_path_factory.mktemp("data")
    run = [sys.executable, "-c", "from vodbench.cli import main; main()", "data"]
    subprocess.run([*run, "generate", str(root / "tree"), *SMALL], check=True, capture_output=True)
    subprocess.run([*run, "shard", str(root / "tree"), str(root / "shards")], check=True, capture_output=True)
    return root


@pytest.mark.parametrize("command", ["describe", "generate", "shard", "verify"])
def test_help_ends_with_an_example(run: Run, command: str) -> None:
    status, out, _ = run(command, "--help")
    assert status == 0
    assert f"vodbench data {command} " in out.partition("Example:")[2]


def test_describe_says_the_same_of_a_tree_and_its_shards(made: Path, run: Run) -> None:
    facts = []
    for folder in ("tree", "shards"):
        status, out, err = run("describe", str(made / folder), "--json")
        assert status == 0
        assert err.startswith("data describe  revision ")
        facts.append(json.loads(out.splitlines()[-1]))
    assert facts[0]["splits"] == facts[1]["splits"]
    assert facts[0]["fingerprint"] == facts[1]["fingerprint"]
    train = facts[0]["splits"]["train"]
    assert (train["snippets"], train["frames"]) == (2, 10)
    assert train["picture_sizes"] == {"64 x 64": 2}
    assert sum(train["boxes_per_class"].values()) == train["boxes"]


def test_describe_prints_a_table(made: Path, run: Run) -> None:
    status, out, _ = run("describe", str(made / "tree"), "--split", "val")
    assert status == 0
    assert out.split()[:3] == ["val", "snippets", "1"]
    assert "boxes per class" in out


def test_verify_reports_and_exits_with_1(made: Path, tmp_path: Path, run: Run) -> None:
    assert run("verify", str(made / "shards"))[:2] == (0, "")
    copy = Path(shutil.copytree(made / "shards", tmp_path / "shards"))
    (copy / "val-00000.parquet").unlink()
    status, out, _ = run("verify", str(copy), "--json")
    problem = "val-00000.parquet: missing (5 frames of 1 snippets)"
    assert status == 1
    assert out.splitlines()[0] == problem
    assert json.loads(out.splitlines()[-1])["problems"] == [problem]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["describe", "{tmp}/missing"], "does not exist; give a folder or URL"),
        (["describe", "{tmp}/empty"], "holds nothing that a data set recognises"),
        (["describe", "nowhere://x"], "cannot be opened"),
        (["describe", "{made}/tree", "--split", "tset"], "unknown split 'tset'"),
        (["describe", "{made}/tree", "--kind", "ilsvrd"], "unknown dataset 'ilsvrd': did you mean 'ilsvrc'"),
        (["describe", "{made}/tree", "--set", "skip_bda=true"], "did you mean 'skip_bad'"),
        (["describe", "{made}/shards", "--set", "skip_bad=true"], "shards take no option"),
        (["verify", "{tmp}/missing"], "holds no shards"),
        (["verify", "{made}/tree"], "holds no shards"),
        (["shard", "{tmp}/missing", "{tmp}/new"], "does not exist"),
        (["shard", "{tmp}/empty", "{tmp}/new"], "holds nothing that a data set recognises"),
        (["shard", "{made}/tree", "{tmp}/new", "--split", "trian"], "unknown split 'trian': did you mean 'train'"),
        (["shard", "{made}/tree", "{tmp}/new", "--shard-mib", "0"], "--shard-mib 0 is not accepted"),
        (["shard", "{made}/tree", "{made}/tree/new"], "is inside the data it would copy"),
        (["shard", "{made}/tree", "{made}"], "contains the data it would copy"),
        (["shard", "{made}/tree", "{tmp}/other"], "is not empty and holds no shards"),
        (["shard", "{made}/tree", "{made}/shards", "--split", "val"], "holds shards of other data"),
        (["generate", "{tmp}/other"], "is not empty and was not generated"),
        (["generate", "{tmp}/new", "--frames", "0"], "frames is 0; give 1 or more"),
        (["generate", "{tmp}/new", "--set", "motion_blurr=[0,1]"], "did you mean 'motion_blur'"),
        (["generate", "{tmp}/new", "--set", "motion_blur=1"], "give a range like"),
        (["generate", "{tmp}/new", "--set", "noise=loud"], "give a number like 4.0"),
        (["generate", "{tmp}/new", "--set", "jpeg_quality=90.5"], "give a whole number like 90"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    made: Path, tmp_path: Path, run: Run, arguments: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    before = sorted(path for root in (made, tmp_path) for path in root.rglob("*"))
    outcome = run(*[argument.format(tmp=tmp_path, made=made) for argument in arguments])
    refused(outcome, message)
    assert outcome.out == ""
    assert outcome.err.splitlines()[-1].startswith("error:")
    assert sorted(path for root in (made, tmp_path) for path in root.rglob("*")) == before


@pytest.mark.slow
def test_sharding_goes_on_after_kill_9(made: Path, tmp_path: Path) -> None:
    """Killed in the middle; the same command ends with the files of an undisturbed run."""
    tree = tmp_path / "tree"
    code = "from vodbench.cli import main; main()"
    small = ["--snippets", "30", "--val-snippets", "1", "--frames", "12", "--size", "64"]
    subprocess.run([sys.executable, "-c", code, "data", "generate", str(tree), *small], check=True, capture_output=True)

    def command(target: str) -> list[str]:
        return [sys.executable, "-c", code, "data", "shard", str(tree), str(tmp_path / target), "--shard-mib", "0.01"]

    subprocess.run(command("undisturbed"), check=True, capture_output=True)
    # A pipe in place of a late frame: whoever reads it waits for ever, so that the kill cannot come too late.
    late = sorted((tree / "Data/VID/train").rglob("*.JPEG"))[-1]
    kept_apart = late.rename(tmp_path / "late.JPEG")
    os.mkfifo(late)
    with subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not (tmp_path / "killed" / "train-00002.parquet").exists():
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        process.kill()
    late.unlink()
    kept_apart.rename(late)
    assert not (tmp_path / "killed" / "index.json").exists()
    kept = (tmp_path / "killed" / "train-00000.parquet").stat().st_mtime_ns
    subprocess.run(command("killed"), check=True, capture_output=True)
    assert (tmp_path / "killed" / "train-00000.parquet").stat().st_mtime_ns == kept
    undisturbed = {path.name: path.read_bytes() for path in (tmp_path / "undisturbed").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "killed").iterdir()} == undisturbed
