"""The command line as a whole: help without torch, options that agree with the library, quiet commands."""

from __future__ import annotations

import argparse
import logging
import re
import subprocess
import sys

import pytest
from tqdm.auto import tqdm

from avsync.audio.features import KINDS
from avsync.cli import COMMANDS, SHELLS, _arguments, build_parser, main
from avsync.cli._errors import as_typed, options_of
from avsync.cli._progress import progress_line
from avsync.corpus.extraction import batch, from_video, jobs, tracks
from avsync.errors import ArgumentError
from avsync.evaluation import clean, methods
from avsync.evaluation.tables import Cell, Measure, Table
from avsync.landmarks.layouts import REGIONS
from avsync.metrics import offset
from avsync.training import engine


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_needs_no_torch(command: str) -> None:
    """A user who asks for help need not wait for torch, which takes seconds to import."""
    script = (
        "import sys, contextlib, io\nfrom avsync.cli import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as text:\n"
        f"    main({[command, '--help'] if command else ['--help']})\n"
        "assert 'usage: avsync' in text.getvalue() and 'torch' not in sys.modules, sorted(sys.modules)[-5:]\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_help_lists_every_command_with_its_first_line() -> None:
    whole, listed = build_parser().format_help(), build_parser("").format_help()
    assert whole == listed and all(re.search(rf"^    {command}\s", listed, flags=re.MULTILINE) for command in COMMANDS)


def test_choices_are_those_of_the_library() -> None:
    assert _arguments.FEATURE_CHOICES == KINDS and set(_arguments.REGION_CHOICES) == set(REGIONS)
    assert _arguments.POOL_CHOICES == clean.POOLS and _arguments.AUDIO_CHOICES == methods.AUDIO_FROM
    assert _arguments.CROP_CHOICES == from_video.CROPS and _arguments.FACE_CHOICES == tracks.POLICIES
    assert _arguments.ENGINE_CHOICES == batch.ENGINES
    assert _arguments.SPEAKER_CHOICES == jobs.SPEAKER_FROM and _arguments.EDGE_CHOICES == offset.EDGES
    commands = build_parser().parse_args
    assert commands(["clean", "c"]).smallest_ms == 1000 * clean.SMALLEST_SHIFT
    assert commands(["evaluate", "--refs", "c"]).frames == methods.DEFAULT_FRAMES


def test_messages_name_what_was_typed() -> None:
    options = build_parser().parse_args(["render", "c", "--out", "a.gif"]).options
    assert options["start"] == "--start" and options["clip"] == "CLIP"
    assert (
        as_typed(ArgumentError("`start`, `seconds`: expected `start`"), options) == "`--start`, `--seconds`: expected `start`"
    )
    assert as_typed(ArgumentError("no parameter"), options) == "no parameter"
    assert options_of(build_parser())["command"] == "COMMAND"


def test_completion_knows_every_command_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    for shell in SHELLS:
        assert main(["--print-completion", shell]) == 0
        script = capsys.readouterr().out
        assert all(command in script for command in COMMANDS) and "--level-of-detail" in script
    with pytest.raises(SystemExit, match="2"):
        main(["--print-completion", "csh"])


def test_bars_and_tables_fit_a_terminal() -> None:
    """80 columns: the bar of a run with its values, and a report on a recording."""
    values = (
        {f"loss{level}": 0.123 for level in range(4)} | {"chance": 14.8, "grad": 50.4} | {f"acc{i}": 0.917 for i in range(4)}
    )
    name = "train level3-run1"
    text = engine.as_many_as_fit(engine.side_by_side(values), room=80 - len(name) - engine.BAR_WIDTH)
    bar = tqdm.format_meter(99_999, 100_000, 86_399, ncols=80, prefix=name, bar_format=engine.BAR, postfix=text)
    assert len(bar) <= 80 and "loss=0.12" in bar and "|" in bar
    levels = [Measure(f"m{level}", "confidence ↑", "higher", "", "Sync") for level in range(9)]
    table = Table(tuple(levels), {"ours": tuple(Cell(0.5, 0.4, 0.6, 3) for _ in levels)}).text()
    assert max(map(len, table.splitlines())) <= 80 and table.count("0.500") == 9 and "Sync, continued" in table


@pytest.fixture
def talkative(monkeypatch: pytest.MonkeyPatch) -> logging.Logger:
    """`avsync inspect` with a message, a warning and a progress line in the place of its work."""
    logger = logging.getLogger("avsync.cli")

    def run(args: argparse.Namespace) -> int:
        logger.info("message")
        logger.warning("warning")
        show = progress_line("p" * 100)
        if show is not None:
            show(1, 2)
        return 0

    monkeypatch.setattr("avsync.cli.inspect.run", run)
    return logger


def test_every_command_has_quiet_which_leaves_warnings_only(
    talkative: logging.Logger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    (commands,) = [action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    assert [name for name, command in commands.choices.items() if "--quiet" not in command.format_help()] == []
    assert main(["inspect", "corpus"]) == 0
    message, warning, line = re.split(r"[\r\n]+", capsys.readouterr().err)
    assert (message, warning, line) == ("message", "warning", "p" * 57 + "...: 50 %")
    assert main(["inspect", "corpus", "--quiet"]) == 0
    assert capsys.readouterr().err == "warning\n"


def test_a_logger_that_is_set_up_already_is_left_alone(
    talkative: logging.Logger,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    own, logger = logging.Handler(), logging.getLogger("avsync")
    records: list[str] = []
    own.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING, logger="avsync"):
        logger.addHandler(own)
        try:
            assert main(["inspect", "corpus"]) == 0
        finally:
            logger.removeHandler(own)
        assert records == ["warning"] and capsys.readouterr().err == "" and logger.level == logging.WARNING
    assert main(["inspect", "corpus", "--quiet"]) == 0
    assert logger.level == logging.NOTSET and logger.handlers == []
