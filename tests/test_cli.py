"""The command line as a whole: help without torch, options that agree with the library, quiet commands."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from avsync.audio.features import KINDS
from avsync.cli import COMMANDS, _arguments, build_parser
from avsync.cli._errors import as_typed, options_of
from avsync.corpus.extraction import from_video, jobs, tracks
from avsync.errors import ArgumentError
from avsync.evaluation import clean, methods
from avsync.landmarks.layouts import REGIONS
from avsync.metrics import offset


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
