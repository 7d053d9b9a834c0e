"""Values and names that no command can use end in one line that names what was typed, before anything is written."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("av")

from avsync._checks import check_positive
from avsync.audio import LogMel
from avsync.cli import main
from avsync.corpus import ClipBank, SyntheticCorpus
from avsync.corpus.clip import write_clip, write_index
from avsync.corpus.synthetic.talker import synthetic_clip
from avsync.errors import ArgumentError, ConfigError
from avsync.models import GeneratorConfig, SyncerPyramidConfig
from avsync.pyramid import level_fps, level_length, shortest_clip, window_seconds
from avsync.training import SyncerTrainingConfig, overfit_batch, syncer_recipe

BANK = ClipBank(SyntheticCorpus(speakers=2, clips_per_speaker=1, seconds=2.0), features=LogMel())
SIZES = "--frames 40 --no-sync"
IMPOSSIBLE = {
    **{
        f"extract a.mp4 --out new {option} {value}": option
        for option, value in (
            ("--fps", "nan"), ("--fps", "0"), ("--fps", "-5"), ("--fps", "1e9"), ("--min-seconds", "inf"), ("--max-seconds", "0"),
            ("--max-height", "0"), ("--max-height", "-4"), ("--audio-track", "0"), ("--workers", "0"), ("--split", "''"),
        )
    },
    "extract '' --out new": "VIDEO_OR_FOLDER",
    "extract a.mp4 --out ''": "--out",
    "extract a.mp4 --out new --report ''": "--report",
    "offset '' --detector demo": "VIDEO",
    "inspect ''": "CORPUS",
    "inspect corpus --figure ''": "--figure",
    "clean '' --out new": "CORPUS",
    "clean corpus --out ''": "--out",
    "clean corpus --smallest-ms -5": "--smallest-ms",
    "clean corpus --smallest-ms nan": "--smallest-ms",
    "train corpus --out ''": "--out",
    "train corpus --out 'new\0'": "--out",
    "calibrate '' corpus": "SYNCERS",
    "export landmarks68-25fps --out ''": "--out",
    "demo ''": "FOLDER",
    **{f"demo new --late-ms {value}": "--late-ms" for value in ("nan", "1e12", "inf")},
    "doctor corpus --overfit nan": "--overfit",
    "doctor corpus --overfit inf": "--overfit",
    **{
        f"render corpus/ID --out new.gif {option} {value}": option
        for option in ("--start", "--seconds") for value in ("nan", "inf")
    },
    **{f"render corpus/ID --out new.gif --start {value}": "--start" for value in ("1e308", "-1", "2")},
    **{f"render corpus/ID --out new.gif --size {value}": "--size" for value in (0, -1, 10**9)},
    f"evaluate --refs corpus {SIZES} --fps inf": "--fps",
    f"evaluate --refs corpus {SIZES} --preds 'static=corpus'": "--preds",
    f"evaluate --refs corpus {SIZES} --preds ''": "--preds",
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("place")
    write_index(at / "corpus", [write_clip(synthetic_clip(seconds=2.0), at / "corpus")])
    (at / "a.mp4").write_bytes(b"none")
    return at


@pytest.mark.parametrize("command", IMPOSSIBLE)
def test_one_line_and_nothing_written(
    place: Path, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    words = shlex.split(command.replace("ID", synthetic_clip(seconds=2.0).id))
    before = sorted(place.rglob("*"))
    assert main(words) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"avsync {words[0]}: ") and f"`{IMPOSSIBLE[command]}`" in line
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize("option", ["--preds", "--history", "--out"])
def test_a_loop_of_links(
    place: Path, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    figures = ["--figures", str(tmp_path / "figures")] if option == "--history" else []
    assert main(["evaluate", "--refs", "corpus", *shlex.split(SIZES), *figures, option, str(loop)]) == 1
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("can't allocate memory: 4 bytes")]
)
def test_a_lack_of_memory_is_one_line(
    place: Path, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("avsync.corpus.inspect.inspect_corpus", fail)
    assert main(["inspect", str(place / "corpus")]) == 1
    assert capsys.readouterr().err.startswith("avsync inspect: error: out of memory")


def test_other_errors_are_not_hidden(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a fault of avsync")

    monkeypatch.setattr("avsync.corpus.inspect.inspect_corpus", fail)
    with pytest.raises(RuntimeError, match="a fault"):
        main(["inspect", str(place / "corpus")])


def test_numbers_beyond_those_of_floats_and_generators() -> None:
    check_positive("x", 10**400)
    with pytest.raises(ArgumentError, match="`x`"):
        check_positive("x", -(10**400))
    for seed in (10**30, -(10**30)):
        with pytest.raises(ConfigError, match="`seed`"):
            SyncerTrainingConfig(seed=seed)
        with pytest.raises(ConfigError, match="`seed`"):
            overfit_batch(BANK, seconds=0.01, max_steps=1, crops=1, seed=seed)
    SyncerTrainingConfig(seed=2**64 - 1)


def test_levels_of_damaged_files() -> None:
    """Sizes that would only be noticed after hours are refused at once."""
    for number in (33, 10**30):
        with pytest.raises(ConfigError, match="`num_levels`"):
            SyncerPyramidConfig(num_levels=number)
        with pytest.raises(ConfigError, match="`num_branches`"):
            GeneratorConfig(num_branches=number)
        with pytest.raises(ConfigError, match="`num_levels`"):
            syncer_recipe(BANK, num_levels=number)
        for function in (shortest_clip, level_length):
            with pytest.raises(ArgumentError, match="`level`"):
                function(5, number)
        for rate in (level_fps(25.0, 31), window_seconds(31)):
            assert rate > 0
        with pytest.raises(ArgumentError, match="`level`"):
            level_fps(25.0, number)
        with pytest.raises(ArgumentError, match="`level`"):
            window_seconds(number)


def test_a_layout_of_other_points_than_the_clips() -> None:
    with pytest.raises(ArgumentError, match=r"`layout`: expected a layout of 68 points in 2 dimensions.* got 'arkit52' of 52"):
        syncer_recipe(BANK, num_levels=2, layout="arkit52")


@pytest.mark.parametrize(
    ("end", "status", "words"), [("> /dev/full", 1, "No space left on device"), (">&-", 0, ""), ("2>&-", 0, "")]
)
def test_standard_output_that_takes_nothing(place: Path, end: str, status: int, words: str) -> None:
    """A full disk is one line; streams that the shell has closed are left alone."""
    command = f"{shlex.quote(sys.executable)} -m avsync inspect corpus {end}"
    run = subprocess.run(["sh", "-c", command], cwd=place, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == status
    assert words in run.stderr and len(run.stderr.splitlines()) == bool(words)


def test_ctrl_c_while_modules_are_imported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(only: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("avsync.cli.build_parser", interrupted)
    assert main(["inspect", "corpus"]) == 130
    assert capsys.readouterr().err == "avsync: interrupted\n"
    script = "import sys, avsync.cli; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=300, check=False).returncode == 0


def test_a_folder_that_exists_names_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("talk.mp4").touch()
    assert main(["demo", "."]) == 1
    assert capsys.readouterr().err.endswith("which exists; --overwrite replaces it\n")
