"""No command replaces an input or a file of somebody else: every output option of every command, pointed at everything there is."""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("av")
pytest.importorskip("matplotlib")

from avsync import cli
from avsync._files import check_outputs, replacing
from avsync.cli import main
from avsync.cli._syncers import Syncers
from avsync.corpus.clip import write_clip, write_index
from avsync.corpus.synthetic.talker import synthetic_clip
from avsync.errors import ArgumentError
from avsync.evaluation.calibration import CalibrationTest
from avsync.figures._style import new_figure
from avsync.metrics.calibration import save_calibration
from avsync.models.syncer.pyramid import SyncerPyramid
from avsync.pretrained import save_pretrained
from tests.test_cli_offset import DETECTOR, DOUBT, SMALL, Loudness, OpenWhenLoud, talk

Commands = dict[str, Callable[[Path, str], list[str]]]

COMMANDS: Commands = {
    "offset --fix": lambda at, out: ["offset", f"{at}/a.mp4", f"{at}/b.mp4", "--detector", DETECTOR, "--fix", out],
    "offset --fix of one": lambda at, out: ["offset", f"{at}/a.mp4", "--detector", DETECTOR, "--fix", out],
    "clean --json": lambda at, out: ["clean", f"{at}/corpus", "--syncers", f"{at}/syncers", "--json", out],
    "clean --out": lambda at, out: ["clean", f"{at}/corpus", "--syncers", f"{at}/syncers", "--out", out],
    "extract --out": lambda at, out: ["extract", f"{at}/a.mp4", "--detector", DETECTOR, "--out", out],
    "extract --report": lambda at, out: [
        "extract", f"{at}/a.mp4", "--detector", DETECTOR, "--out", f"{at}/new", "--report", out
    ],
    "inspect --figure": lambda at, out: ["inspect", f"{at}/corpus", "--figure", out],
    "render --out": lambda at, out: ["render", f"{at}/corpus/{CLIP}", "--size", "32", "--seconds", "0.2", "--out", out],
    "doctor --figure": lambda at, out: ["doctor", f"{at}/corpus", "--log", f"{at}/log", "--figure", out],
    "offset --figure": lambda at, out: ["offset", f"{at}/a.mp4", "--detector", DETECTOR, "--track", "--figure", out],
    "export --out": lambda at, out: ["export", f"{at}/syncers", "--out", out],
    "demo folder": lambda at, out: ["demo", out, "--seconds", "0.08", "--quiet"],
    "train --out": lambda at, out: ["train", f"{at}/corpus", "--out", out, "--quiet"],
    **{
        f"calibrate {option}": lambda at, out, option=option: [
            "calibrate", f"{at}/syncers", f"{at}/corpus", "--split", "train", "--quiet", "--out", f"{at}/new/c.json", option, out,
        ]
        for option in ("--out", "--figure", "--report")
    },
    **{
        f"evaluate {option}": lambda at, out, option=option: [
            "evaluate", "--refs", f"{at}/corpus", "--preds", f"mine={at}/preds", "--no-sync", "--frames", "40",
            "--history", f"{at}/log", "--level-of-detail", "clips", "--out", f"{at}/new", option, out,
        ]
        for option in ("--out", "--json", "--csv", "--figures")
    },
}  # fmt: skip
"""Each command with one of its outputs left open."""

READ = {
    "extract": {"videos", "--detector"},
    "inspect": {"corpus", "--syncers"},
    "render": {"clip"},
    "clean": {"corpus", "--syncers", "--calibration"},
    "offset": {"videos", "--syncers", "--calibration", "--detector"},
    "score": {"videos", "--syncnet", "--syncers", "--calibration", "--detector"},
    "evaluate": {
        "--refs", "--preds", "--samples", "--syncers", "--mouth-syncers", "--head-syncers", "--inception", "--i3d",
        "--motion-features", "--history",
    },
    "doctor": {"corpus", "--syncers", "--log"},
    "train": {"corpus"},
    "calibrate": {"syncers", "corpus"},
    "export": {"model"},
    "demo": set(),
}  # fmt: skip
"""Options and arguments of each command that name something to read."""
NO_NAMES = {"--split", "--val-split", "--device", "--layout"}
"""Options whose text names no file."""


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_output_option_has_a_case(command: str) -> None:
    """An option whose value is text without choices names a file: one that is read, or one with a case in ``COMMANDS``."""
    parser = argparse.ArgumentParser()
    importlib.import_module(f"avsync.cli.{command}").add_arguments(parser)
    named = {
        action.option_strings[-1] if action.option_strings else action.dest
        for action in parser._actions
        if action.nargs != 0 and action.choices is None and action.type in (None, str, Path)
    }
    written = {case.split()[1] for case in COMMANDS if case.split()[0] == command}
    assert named == READ[command] | written | (named & NO_NAMES)
    assert bool(written) == ("--overwrite" in parser._option_string_actions)


CLIP = synthetic_clip(seconds=2.0).id


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of everything that a command reads or a person owns."""
    at = tmp_path_factory.mktemp("made")
    talk(at / "a.mp4", frames=60, shift=3)
    talk(at / "b.mp4", frames=60, shift=-2)
    clips = [synthetic_clip(speaker=speaker, seconds=2.0) for speaker in (0, 1)]
    for folder in ("corpus", "preds"):
        entries = [write_clip(clip, at / folder) for clip in clips]
    write_index(at / "corpus", entries)
    save_pretrained(SyncerPyramid(config=SMALL), at / "syncers")
    save_calibration(DOUBT, at / "syncers" / "calibration.json")
    (at / "log").mkdir()
    (at / "log" / "metrics.csv").write_text("step,name,value\n0,acc0,0.1\n10,acc0,0.2\n")
    mine = at / "mine"
    for name in ("figures", "checkpoints/fine", "logs/fine"):
        (mine / name).mkdir(parents=True)
    for name in ("report.json", "report.txt", "extraction.json", "index.json", "table.txt", "results.json", "results.csv"):
        (mine / name).write_text(json.dumps({"mine": name}))
    for name in (
        "clips.csv",
        f"{CLIP}.npz",
        "a.mp4",
        "notes.png",
        "notes.pdf",
        "notes.gif",
        "figures/offsets.png",
        "training.json",
        "motion.onnx",
        "export.json",
        "config.json",
        "model.safetensors",
        "checkpoints/fine/step-00000001.ckpt",
        "logs/fine/metrics.csv",
        "training.png",
    ):
        (mine / name).write_text(name)
    (at / "a.synced.mp4").write_text("mine")
    return at


def content(at: Path) -> dict[str, str]:
    """Digest of every file, by name."""
    return {
        str(path.relative_to(at)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(at.rglob("*"))
        if path.is_file() and "new" not in path.relative_to(at).parts
    }


_RESULTS: dict[str, Any] = {}


def once(function: str) -> Callable[..., Any]:
    """A function that keeps its first result."""
    module, _, name = function.rpartition(".")
    real = getattr(importlib.import_module(module), name)

    def call(*args: Any, **options: Any) -> Any:
        if function not in _RESULTS:
            _RESULTS[function] = real(*args, **options)
        return _RESULTS[function]

    return call


def write_run(args: argparse.Namespace, *_: object) -> list[dict[str, float]]:
    """Write what a training run writes."""
    out = Path(args.out)
    save_pretrained(SyncerPyramid(config=SMALL), out)
    for name in ("checkpoints/fine/step-00000001.ckpt", "logs/fine/metrics.csv"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("ours")
    return []


def write_programs(model: object, folder: Path, **_: object) -> list[Path]:
    """Write the files of an export of syncers."""
    paths = [folder / f"{name}.onnx" for name in ("motion", "audio", "features")]
    for path in (*paths, folder / "export.json"):
        with replacing(path) as part:
            part.write_text("ours")
    return paths


@pytest.mark.parametrize("overwrite", [False, True], ids=["plain", "overwrite"])
@pytest.mark.parametrize("command", COMMANDS)
def test_every_output_at_every_input(
    made: Path, tmp_path: Path, command: str, overwrite: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without ``--overwrite`` no file changes at all; with it, no file that the command reads, and none that is read-only."""
    monkeypatch.setattr("avsync.cli._syncers.load_syncers", lambda args: Syncers(OpenWhenLoud(), Loudness(), None))
    small = new_figure(1, 1)
    # The numbers and the drawings are the same every time; what is tested is where they are written.
    for function in ("avsync.evaluation.methods.evaluate", "avsync.corpus.inspect.inspect_corpus"):
        monkeypatch.setattr(function, once(function))
    monkeypatch.setattr("avsync.cli.train._train", write_run)
    monkeypatch.setattr("avsync.models.export.export_onnx", write_programs)
    monkeypatch.setattr("avsync.evaluation.track.offset_track", lambda *args, **options: [])
    monkeypatch.setattr("avsync.figures.offset_over_time", lambda *args, **options: small)
    nothing = torch.zeros(2)
    test = CalibrationTest(DOUBT, ((nothing, nothing),), ((nothing, nothing),), ())
    monkeypatch.setattr("avsync.evaluation.calibration.calibrate", lambda *args, **options: test)
    monkeypatch.setattr("avsync.figures.calibration.reliability_diagram", lambda panels: new_figure(1, 1))
    names = ("offsets", "confidence", "training", f"faces-{CLIP}-0")
    monkeypatch.setattr("avsync.figures.sync.evaluation_figures", lambda *args, **options: dict.fromkeys(names, small))
    monkeypatch.setattr("avsync.figures.corpus_figure", lambda statistics: small)
    at = tmp_path / "all"
    shutil.copytree(made, at)
    os.link(at / "a.mp4", at / "link.mp4")
    (at / "soft.png").symlink_to(at / "corpus" / f"{CLIP}.npz")
    (at / "mine" / "a.mp4").chmod(0o444)
    shutil.copytree(at, tmp_path / "saved", symlinks=True)
    before = content(at)
    read = {name for name in before if name.partition("/")[0] in {"a.mp4", "b.mp4", "link.mp4", "soft.png", "corpus", "preds", "syncers", "log"}}  # fmt: skip
    places = [*before, *(folder for folder in (".", "corpus", "preds", "mine", "syncers", "log"))]
    for place in places:
        words = COMMANDS[command](at, str(at / place))
        # An option given twice keeps the last value, so that the one that is tried is the only one.
        if overwrite and command not in ("clean --out", "extract --out"):
            words.append("--overwrite")
        main(words)
        after = content(at)
        lost = {name for name in before if after.get(name) != before[name]}
        if not overwrite:
            assert not lost, (words, lost)
        allowed = {name for name in before if name not in _read_by(command, read)} - {"mine/a.mp4"}
        assert lost <= allowed, (words, lost)
        for name in lost:
            (at / name).unlink(missing_ok=True)
            shutil.copy(tmp_path / "saved" / name, at / name, follow_symlinks=False)
        shutil.rmtree(at / "new", ignore_errors=True)


def _read_by(command: str, read: set[str]) -> set[str]:
    """Files that a command reads, of those that any does."""
    videos = {"a.mp4", "b.mp4", "link.mp4"}
    if command.startswith("extract") or command.endswith("of one") or command == "offset --figure":
        return {"a.mp4", "link.mp4"}
    if command.startswith("demo"):
        return set()
    if command.startswith("offset"):
        return videos
    if command.startswith("calibrate"):  # the old calibration is not read
        return {name for name in read if name.startswith(("corpus/", "syncers/config", "syncers/model"))} | {"soft.png"}
    folders = {
        "train": {"corpus"},
        "clean": {"corpus", "syncers"},
        "inspect": {"corpus"},
        "export": {"syncers"},
        "render": {"corpus"},
        "doctor": {"corpus", "log"},
        "evaluate": {"corpus", "preds", "log"},
    }[command.partition(" ")[0]]
    return {name for name in read if name.partition("/")[0] in folders or name == "soft.png"}


def test_the_rule(tmp_path: Path) -> None:
    """Links, spellings, folders, devices and read-only files, one by one."""
    talk_, other = tmp_path / "talk.mp4", tmp_path / "other.mp4"
    for file in (talk_, other):
        file.write_text("mine")
    os.link(talk_, tmp_path / "hard.mp4")
    (tmp_path / "soft.mp4").symlink_to(talk_)
    (tmp_path / "dangling.mp4").symlink_to(tmp_path / "nothing.mp4")
    (tmp_path / "locked.mp4").write_text("mine")
    (tmp_path / "locked.mp4").chmod(0o444)
    (tmp_path / "folder").symlink_to(tmp_path, target_is_directory=True)

    def told(*names: str, overwrite: bool, reads: tuple[Path, ...] = (talk_,)) -> str:
        try:
            check_outputs([("--out", tmp_path / name) for name in names], inputs=reads, overwrite=overwrite)
        except ArgumentError as error:
            return str(error)
        return ""

    for overwrite in (False, True):
        for name in ("talk.mp4", "hard.mp4", "soft.mp4", "folder/talk.mp4", "./talk.mp4"):
            assert "the input" in told(name, overwrite=overwrite)
        assert "the input" in told("later.mp4", overwrite=overwrite, reads=(tmp_path / "folder" / "later.mp4",))
        assert "expected a file of its own" in told("a.mp4", "A.MP4", overwrite=overwrite)
        assert "a folder" in told("folder", overwrite=overwrite)
        assert "no folder" in told("other.mp4/a.mp4", overwrite=overwrite)
        assert told("new/newer/a.mp4", "b.mp4", overwrite=overwrite) == ""
    assert told("other.mp4", overwrite=True) == told("dangling.mp4", overwrite=True) == ""
    assert "read-only" in told("locked.mp4", overwrite=True)
    for name in ("other.mp4", "dangling.mp4", "locked.mp4"):
        assert "which exists; --overwrite replaces it" in told(name, overwrite=False)
    with pytest.raises(ArgumentError, match="expected a regular file"):
        check_outputs([("--json", "/dev/null")], overwrite=True)
