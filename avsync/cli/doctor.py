"""Check a corpus before a training run, or report what the log of a run shows.

Reads every clip once and looks for damaged files, wrong rates, audio and motion that are shifted or unrelated, silence, faces
that do not move, wrong axes, indices and units, duplicate footage, and speakers in two splits. With --overfit one batch is
learnt by heart first. The exit status is 1 if there is an error, 0 if there are warnings and notes only.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING

from avsync._files import untrusted
from avsync.cli._arguments import add_overwrite_argument, add_quiet_argument, add_syncer_arguments
from avsync.cli._outputs import check_figure, declare, model_files
from avsync.errors import ArgumentError, CorpusError

if TYPE_CHECKING:
    from avsync.training.doctor.findings import Finding

PARAMETERS = {"overfit_seconds": "--overfit"}
"""Parameters of functions that an option sets under another name."""

_messages = logging.getLogger("avsync.cli")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``avsync doctor``."""
    parser.add_argument("corpus", type=Path, nargs="?", help="corpus folder, the one with index.json")
    parser.add_argument("--split", help="check this split only (without leaks and duplicates across splits)")
    add_syncer_arguments(parser, default=None, calibrated=False)
    parser.add_argument("--device", default="cpu", help="where the syncers run: cpu, cuda, mps (default: cpu)")
    parser.add_argument(
        "--overfit",
        type=float,
        nargs="?",
        const=60.0,
        default=0.0,
        metavar="SECONDS",
        help="overfit one batch, for at most this number of seconds (60 if the option has no value)",
    )
    parser.add_argument("--log", type=Path, metavar="FOLDER", help="diagnose the metrics.csv of a training run in this folder")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the lag scan and the overfitting (.png, .svg, .pdf)")
    add_overwrite_argument(parser)
    add_quiet_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Examine, print, and return 1 if there is an error."""
    from avsync.audio.features import SpeechFeatures
    from avsync.cli._progress import progress_line
    from avsync.cli._syncers import load_pyramid
    from avsync.training.doctor import Examination, examine

    if args.corpus is None and args.log is None:
        raise ArgumentError("`corpus`: expected a corpus folder, or --log with the folder of a training run, got neither")
    if not 0 <= args.overfit < math.inf:
        raise ArgumentError(f"`--overfit`: expected a number of seconds above 0, got {args.overfit:g}")
    if args.figure is not None and args.corpus is None:
        raise ArgumentError("`--figure`: expected a corpus to draw the scan of, got none")
    if args.figure is not None:
        check_figure("--figure", args.figure)
        log = None if args.log is None else args.log / "metrics.csv"
        declare(args, [("--figure", args.figure)], inputs=[args.corpus, model_files(args.syncers), log])
    examination = Examination(findings=())
    if args.corpus is not None:
        syncers, speech = (None, None) if args.syncers is None else load_pyramid(args)
        speech = speech or SpeechFeatures(kind=args.features or "log-mel")
        examination = examine(
            args.corpus,
            syncers=syncers,
            features=speech.features,  # banks normalise by themselves
            overfit_seconds=args.overfit,
            split=args.split,
            progress=progress_line("clips"),
        )
    told = _diagnosis(args.log) if args.log is not None else ()
    if args.figure is not None:
        from avsync.figures import save_figure
        from avsync.figures.doctor import examination_figure

        save_figure(examination_figure(examination), args.figure)
    healthy = examination.healthy and all(finding.severity != "error" for finding in told)
    if args.json:
        result = examination.to_dict() if args.corpus is not None else {}
        if args.log is not None:
            result["log"] = [{"severity": one.severity, "code": one.code, "message": one.message} for one in told]
        print(json.dumps({**result, "healthy": healthy}, indent=2))
        return 0 if healthy else 1
    if args.corpus is not None:
        splits = ", ".join(f"{number} in {name}" for name, number in examination.splits.items())
        print(
            f"{args.corpus}: {examination.clips} clips ({splits}), {examination.speakers} speakers, "
            f"{examination.minutes:.1f} minutes"
        )
    for finding in (*examination.findings, *told):
        print(finding)
    if examination.seconds:
        times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in examination.seconds.items())
        _messages.info("time: %s", times)
    print("no errors" if healthy else "there are errors: correct them before you train")
    return 0 if healthy else 1


def _diagnosis(folder: Path) -> tuple[Finding, ...]:
    from avsync.training.doctor import diagnose
    from avsync.training.logging import read_log

    if not (folder / "metrics.csv").is_file():
        raise CorpusError(f"{folder}: expected the log of a training run, metrics.csv, found none")
    with untrusted(CorpusError, f"{folder / 'metrics.csv'}: expected rows of step, name and value"):
        rows = read_log(folder)
    history: dict[str, list[tuple[int, float]]] = {}
    for step, name, value in rows:
        history.setdefault(name, []).append((step, value))
    return diagnose(history)
