"""Fit the probabilities of syncers on speakers that they have not seen

Without a calibration, avsync offset and avsync clean measure offsets but do not state how sure they are. The crops are cut as
avsync offset sees a recording, with own, moved, reversed and other audio. The calibration is fitted on all speakers of the
split, and tested by cross-validation: fitted on one half of the speakers, tested on the other, and the reverse.

  avsync calibrate runs/mine corpus
  avsync calibrate runs/mine corpus --figure calibration.png --report calibration-report.json
  avsync calibrate landmarks68-25fps corpus --out mine.json   # for recordings like yours: avsync offset --calibration mine.json
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from avsync._files import write_json
from avsync.cli._arguments import add_overwrite_argument, add_quiet_argument
from avsync.cli._outputs import Output, check_figure, declare, model_files
from avsync.errors import ArgumentError

if TYPE_CHECKING:
    from avsync.corpus.banks.bank import ClipBank
    from avsync.models.syncer.interface import MultiScaleSyncer

_messages = logging.getLogger("avsync.cli")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``avsync calibrate``."""
    parser.add_argument("syncers", metavar="SYNCERS", help="folder of trained syncers, or the name of a pretrained model")
    parser.add_argument("corpus", metavar="CORPUS", help="a folder with index.json")
    parser.add_argument("--split", default="val", help="split with speakers that the syncers have not seen (default: val)")
    parser.add_argument(
        "--frames",
        type=int,
        nargs="+",
        default=[50, 80, 160, 250],
        metavar="N",
        help="lengths of the crops; several lengths show how evidence grows with length (default: 50 80 160 250)",
    )
    parser.add_argument("--stride", type=int, default=20, help="frames from one crop to the next (default: %(default)s)")
    parser.add_argument("--out", metavar="FILE", help="file to write (default: calibration.json next to the syncers)")
    parser.add_argument("--figure", metavar="FILE", help="draw the reliability diagram (.png, .svg, .pdf)")
    parser.add_argument("--report", metavar="FILE", help="write the numbers of the cross-validation here, as JSON")
    parser.add_argument("--device", default="cpu", help="where the syncers run: cpu, cuda, mps (default: cpu)")
    add_overwrite_argument(parser)
    add_quiet_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Fit, test and write a calibration."""
    from avsync.cli._errors import naming
    from avsync.cli._syncers import device_of
    from avsync.corpus.banks.bank import ClipBank
    from avsync.corpus.clip import Corpus
    from avsync.evaluation.calibration import calibrate
    from avsync.figures import save_figure
    from avsync.figures.calibration import expected_calibration_error, reliability_diagram
    from avsync.metrics.calibration import save_calibration
    from avsync.models.syncer.interface import MultiScaleSyncer
    from avsync.pretrained import FILES
    from avsync.pyramid import window_seconds

    out = _out(args)
    outputs: list[Output] = [("--out", out)]
    if args.figure is not None:
        check_figure("--figure", args.figure)
        outputs.append(("--figure", args.figure))
    outputs += [("--report", args.report)] if args.report is not None else []
    # Not the whole folder: --overwrite may replace the old calibration of the syncers, which is not read.
    declare(args, outputs, inputs=[args.corpus, *(Path(str(model_files(args.syncers)), name) for name in FILES)])
    with naming(folder="SYNCERS", name="SYNCERS"):
        syncers = MultiScaleSyncer.from_pretrained(args.syncers).to(device_of(args.device))
    transform = syncers.speech_features()
    if transform is None:
        raise ArgumentError(
            f"`SYNCERS`: expected syncers of log-mel or MFCC features, got {args.syncers}, with custom features"
        )
    bank = ClipBank(Corpus(args.corpus, split=args.split, fps=None), features=transform.features).to(device_of(args.device))
    with naming(bank="--split"):
        found = calibrate(
            syncers,
            bank,
            lengths=_lengths(args, bank, syncers),
            stride=args.stride,
            progress=_messages.info,
        )
    errors, panels = [], {}
    print("level  window  calibration error, half mismatched  own audio only")
    for level, (mixed, own) in enumerate(zip(found.mixed, found.own, strict=True)):
        panels[f"level {level}"] = {"half with another's audio, prior 1/2": mixed, "own audio, prior 1": own}
        error = {"mixed": expected_calibration_error(*mixed), "own": expected_calibration_error(*own)}
        errors.append({"level": level, "expected calibration error": error})
        print(f"{level:<5}  {window_seconds(level):.1f} s   {error['mixed']:>33.3f}  {error['own']:>14.3f}")
    save_calibration(found.calibration, out, syncers=syncers)
    _messages.info("written to %s", out)
    if args.figure is not None:
        save_figure(reliability_diagram(panels), args.figure)
    if args.report is not None:
        write_json(args.report, {"errors": errors, "rows": list(found.rows)})
    return 0


def _lengths(args: argparse.Namespace, bank: ClipBank, syncers: MultiScaleSyncer) -> list[int]:
    """Return the lengths of crops that fill a window of every level and fit into a clip with the audio of the search."""
    from avsync.evaluation.calibration import search_margin

    margin = search_margin(syncers)
    longest, shortest = int(bank.lengths.max()) - 2 * margin, syncers.shortest_clip()
    kept = [frames for frames in args.frames if shortest <= frames <= longest]
    if not kept:
        raise ArgumentError(
            f"`frames`: expected a number from {shortest} to {longest}, because the coarsest level needs {shortest}, the "
            "longest clip has"
            f" {longest + 2 * margin} frames, and {margin} are searched on both sides, got {args.frames}"
        )
    for frames in sorted(set(args.frames) - set(kept)):
        if frames < shortest:
            _messages.warning("crops of %d frames have no window at the coarsest level: left out", frames)
        else:
            _messages.warning("no clip is long enough for crops of %d frames: left out", frames)
    return kept


def _out(args: argparse.Namespace) -> Path:
    """Return the file to write."""
    from avsync.pretrained import CALIBRATION

    if args.out is not None:
        return Path(args.out)
    if not Path(args.syncers).is_dir():
        raise ArgumentError(
            f"`out`: expected a file for the calibration, because {args.syncers} is not a folder to write it to, got none"
        )
    return Path(args.syncers, CALIBRATION)
