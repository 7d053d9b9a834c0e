"""Write videos of the synthetic talker, to try every command without videos of your own

The videos show the points of a face, and their audio is a synthetic voice. The audio of late.mp4 is late, by --late-ms.
Detectors of real faces find none in these videos; --detector demo reads them.

  avsync demo talks                                          # talk-000.mp4, ..., and late.mp4
  avsync extract talks --out corpus --detector demo
  avsync offset talks/late.mp4 --detector demo --fix
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from avsync.cli._arguments import add_overwrite_argument, add_quiet_argument
from avsync.cli._outputs import declare
from avsync.errors import ArgumentError

LATE_SPEAKER = 100_000
"""Number of the speaker of late.mp4, who is in the split "val" of the synthetic talker."""

_messages = logging.getLogger("avsync.cli")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``avsync demo``."""
    parser.add_argument("folder", metavar="FOLDER", help="folder to write the videos to")
    parser.add_argument("--speakers", type=int, default=6, metavar="N", help="number of videos in sync (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of each video (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first speaker (default: %(default)s)")
    parser.add_argument(
        "--late-ms", type=float, default=160.0, metavar="MS", help="delay of the audio of late.mp4 (default: %(default)s)"
    )
    add_overwrite_argument(parser)
    add_quiet_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Write the videos."""
    from avsync.corpus.synthetic.video import write_talk

    if args.speakers < 1:
        raise ArgumentError(f"`speakers`: expected at least 1, got {args.speakers}")
    folder = Path(args.folder)
    talks = {folder / f"talk-{number:03d}.mp4": (number, 0.0) for number in range(args.first, args.first + args.speakers)}
    talks[folder / "late.mp4"] = (LATE_SPEAKER, args.late_ms / 1000)
    declare(args, [("FOLDER", path) for path in talks], inputs=[])
    for path, (speaker, delay) in talks.items():
        write_talk(path, speaker=speaker, seconds=args.seconds, audio_delay=delay)
        _messages.info("%s", path)
    return 0
