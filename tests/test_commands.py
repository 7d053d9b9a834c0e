"""Every command in the README and the guides runs, as it is written there, or is listed below with the reason why it does not."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("av")
pytest.importorskip("matplotlib")
pytest.importorskip("lightning_fabric")

from avsync.cli import main
from avsync.corpus import write_corpus, write_talk
from avsync.corpus.detectors import protocol
from avsync.corpus.synthetic import video
from avsync.evaluation.syncnet.network import SyncNet
from avsync.models import export
from avsync.training import recipe
from tests.test_documents import DOCUMENTS, ROOT, code_blocks

NOT_RUN = {
    "python -m pip install": "every session of noxfile.py and tests/bare_install.py install avsync",
    "python -m nox": "CI itself",
    "python examples/msync/train.py": "the main job of CI; tests/test_examples.py runs it with a small preset",
    "python examples/baselines/run.py": "hours of training; tests/test_baselines.py runs it on a few clips",
    "python examples/guidance/guide.py": "many minutes of training; tests/test_guidance.py runs it on a few clips",
    "ray start": "a cluster; tests/test_extract_ray.py runs Ray",
    "torchrun": "several machines; tests/test_processes.py starts two processes as torchrun does",
    "srun": "a cluster; tests/test_processes.py sets what srun sets",
    "tensorboard": "a server that does not end",
    "ffmpeg": "the output of a system that is not part of avsync",
}
"""Beginnings of the commands that do not run here, and why."""

SECONDS = 7.0


def lines_of(document: Path) -> list[tuple[str, str]]:
    """Return the lines of the bash blocks of a document, continued lines joined, each with its comment."""
    text = "\n".join(code_blocks(document, "bash")).replace("\\\n", " ")
    parts = [re.split(r"(?:^|\s)#", line, maxsplit=1) for line in text.splitlines()]
    return [(part[0].strip(), "".join(part[1:]).strip()) for part in parts if part[0].strip()]


def commands(document: Path) -> list[str]:
    """Return the commands in the bash blocks of a document."""
    return [part.strip() for line, _ in lines_of(document) for part in line.split(" && ")]


def runs(command: str) -> bool:
    return not command.startswith(tuple(NOT_RUN))


WITH_COMMANDS = [document for document in DOCUMENTS if any(map(runs, commands(document)))]


TALKS = {
    "talks": ("anna", "ben"),
    "unseen": ("carl", "dora", "eva", "finn"),
}
"""Names of the videos in the folders of talks that the guides name."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the guides name: talks, a corpus of two splits, the output of methods, and weights of SyncNet."""
    at = tmp_path_factory.mktemp("prepared")
    people = sorted({name for names in TALKS.values() for name in names})
    clips = {}
    for folder, names in TALKS.items():
        (at / folder).mkdir(parents=True)
        for name in names:
            clip = write_talk(at / folder / f"{name}.mp4", speaker=people.index(name), seconds=SECONDS)
            split = "val" if folder == "unseen" else "train"
            clips[name] = replace(clip, id=f"{name}-00c0ffee_000", speaker=name, split=split)
    # SyncNet takes a second per second of video.
    for folder in ("videos/real", "videos/wav2lip"):
        (at / folder).mkdir(parents=True)
        write_talk(at / folder / "anna.mp4", speaker=people.index("anna"), seconds=4.0)
    write_talk(at / "talk.mp4", speaker=99, seconds=SECONDS, audio_delay=0.12)
    write_talk(at / "panel.mp4", speaker=98, seconds=SECONDS)
    write_corpus(clips.values(), at / "corpus")
    for name in ("mine", "out/ours", "out/theirs"):
        write_corpus(clips.values(), at / name)
    torch.save(SyncNet().state_dict(), at / "syncnet_v2.model")
    return at


@pytest.fixture(scope="module")
def talk_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    """``write_talk`` for ``avsync demo``: each video is written once, and copied to the next document that asks for it."""
    written = tmp_path_factory.mktemp("written")

    def talk(path: Path, **options: Any) -> None:
        kept = written / f"{sorted(options.items())}.mp4"
        if not kept.is_file():
            write_talk(kept, **options)
        shutil.copy(kept, path)

    return talk


@pytest.fixture
def workplace(prepared: Path, talk_once: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the prepared files as the working directory; the detectors known by name find the faces of the synthetic talker."""
    at = tmp_path / "work"
    shutil.copytree(prepared, at)
    monkeypatch.chdir(at)
    for name in protocol.DETECTORS:
        monkeypatch.setitem(protocol.DETECTORS, name, protocol.DETECTORS["demo"])
    monkeypatch.setattr(video, "write_talk", talk_once)
    # Two steps of a small model; the recipe is tested elsewhere.
    small = {"steps": 2, "batch_size": 4, "width": 8}
    monkeypatch.setattr(recipe, "syncer_recipe", lambda bank, **options: real_recipe(bank, **{**options, **small}))
    # The tracing of a pretrained model takes a minute; tests/test_export.py exports small models with the same options.
    monkeypatch.setattr(export, "_write", lambda program, path: path.write_bytes(b""))
    return at


real_recipe = recipe.syncer_recipe


def run_example(script: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run an example as python would, on the corpus of the working directory."""
    path = ROOT / script
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", [script, *("corpus" if word == "PATH" else word for word in words)])
        patch.syspath_prepend(str(path.parent))
        runpy.run_path(str(path), run_name="__main__")


@pytest.mark.parametrize("document", WITH_COMMANDS, ids=lambda document: document.name)
def test_commands_of_a_document_run(
    document: Path, workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In turn, in one folder, as a reader would type them; all that a command reads must be there, and nothing may fail."""
    chosen = list(filter(runs, commands(document)))
    if any(command.startswith("avsync extract") and "--out corpus" in command for command in chosen):
        shutil.rmtree(workplace / "corpus")  # the document makes it
    comments = dict(lines_of(document))
    for command in chosen:
        line, _, target = command.partition(" > ")
        words = shlex.split(line)
        if words[0] == "python":
            run_example(words[1], words[2:], monkeypatch)
            continue
        assert words[0] == "avsync", f"{document.name}: {command}: neither a command of avsync nor listed in NOT_RUN"
        words = [str(name) for word in words for name in (sorted(Path().glob(word)) if "*" in word else [word])]
        if (
            "--workers" in words
        ):  # other processes would not have the detector of this test; test_batch.py and test_extract_ray.py start them
            for option in ("--workers", "--engine"):
                at = words.index(option) if option in words else len(words)
                del words[at : at + 2]
        capsys.readouterr()
        try:
            status = main(words[1:])
        except SystemExit as stop:
            status = int(str(stop.code))
        told = capsys.readouterr()
        assert status == 0, f"{document.name}: {command}: status {status}\n{told.out}\n{told.err}"
        promised = comments.get(command, "").partition("prints: ")[2]
        assert promised in told.out, f"{document.name}: {command}: does not print {promised!r}\n{told.out}"
        if target:
            (workplace / target).write_text(told.out)


def test_every_reason_is_needed_and_every_command_has_its_options() -> None:
    """The list of what does not run holds only what stands in a document."""
    found = [command for document in DOCUMENTS for command in commands(document)]
    assert [start for start in NOT_RUN if not any(command.startswith(start) for command in found)] == []
    for command in found:
        file = re.match(r"(?:python|srun python|torchrun .*?) (examples/\S+)", command)
        assert file is None or (ROOT / file[1]).is_file(), command
