"""Summarise a corpus: counts, minutes, speakers, rates, lengths, faces, speech, offsets

avsync inspect corpus --figure corpus.png
avsync inspect corpus --syncers runs/msync/syncers         # and the offset of every clip at every level
"""

from __future__ import annotations

import argparse
import json

from avsync.cli._arguments import add_overwrite_argument, add_quiet_argument, add_syncer_arguments
from avsync.cli._outputs import check_figure, declare, model_files


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``avsync inspect``."""
    parser.add_argument("corpus", metavar="CORPUS", help="a folder with index.json")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--figure", metavar="FILE", help="write a figure, .png, .svg or .pdf")
    add_overwrite_argument(parser)
    add_quiet_argument(parser)
    add_syncer_arguments(parser, default=None, calibrated=False)
    parser.add_argument("--device", default="cpu", help="where the syncers run: cpu, cuda, mps (default: cpu)")


def run(args: argparse.Namespace) -> int:
    """Read the corpus, print the statistics, draw the figure; return 1 if a clip is bad."""
    from avsync.cli._progress import progress_line
    from avsync.cli._syncers import load_pyramid
    from avsync.corpus.inspect import inspect_corpus

    if args.figure is not None:
        check_figure("--figure", args.figure)
        declare(args, [("--figure", args.figure)], inputs=[args.corpus, model_files(args.syncers)])
    pyramid, transform = (None, None) if args.syncers is None else load_pyramid(args)
    statistics = inspect_corpus(
        args.corpus,
        syncers=pyramid,
        features=transform,
        progress=progress_line("clips"),
    )
    print(json.dumps(statistics.to_json(), indent=2) if args.json else statistics.summary())
    if args.figure is not None:
        from avsync.figures import corpus_figure, save_figure

        save_figure(corpus_figure(statistics), args.figure)
    return 1 if statistics.bad else 0
