"""Write videos of the synthetic talker, to try every command without videos of your own

The videos show the points of a face, and their audio is a synthetic voice. FOLDER/talks has six speakers and FOLDER/unseen four
others; the audio of FOLDER/talk.mp4 is late, by --late-ms. Detectors of real faces find none in these videos; --detector demo
reads them.

  avsync demo try
  cd try
  avsync offset talk.mp4 --detector demo --fix
  avsync extract talks --out corpus --detector demo
  avsync extract unseen --out corpus --detector demo --split val
  avsync train corpus --out runs/mine --steps 40 --batch-size 8 --width 32
  avsync calibrate runs/mine corpus
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from avsync.cli._arguments import add_overwrite_argument, add_quiet_argument
from avsync.cli._outputs import declare
from avsync.errors import ArgumentError

TALKS = ("anna", "ben", "carl", "dora", "eva", "finn")
UNSEEN = ("gina", "hugo", "ida", "jon")
FIRST_UNSEEN = 100_000
"""Number of the first speaker of the split "val" of the synthetic talker."""

_messages = logging.getLogger("avsync.cli")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``avsync demo``."""
    parser.add_argument("folder", metavar="FOLDER", help="folder to write the videos to")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of each video (default: %(default)s)")
    parser.add_argument(
        "--late-ms", type=float, default=160.0, metavar="MS", help="delay of the audio of talk.mp4 (default: %(default)s)"
    )
    add_overwrite_argument(parser)
    add_quiet_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Write the videos."""
    from avsync.corpus.synthetic.video import write_talk

    if not abs(args.late_ms) <= 1000:
        raise ArgumentError(f"`--late-ms`: expected -1000 to 1000 milliseconds, got {args.late_ms:g}")
    folder = Path(args.folder)
    videos = {folder / "talks" / f"{name}.mp4": number for number, name in enumerate(TALKS)}
    videos |= {folder / "unseen" / f"{name}.mp4": FIRST_UNSEEN + number for number, name in enumerate(UNSEEN)}
    late = folder / "talk.mp4"
    videos[late] = FIRST_UNSEEN + len(UNSEEN)
    declare(args, [("FOLDER", path) for path in videos], inputs=[])
    for path, speaker in videos.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_talk(path, speaker=speaker, seconds=args.seconds, audio_delay=args.late_ms / 1000 if path == late else 0.0)
        _messages.info("%s", path)
    return 0
