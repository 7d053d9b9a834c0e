"""Draw the landmarks of a clip, with audio (mp4) or without (gif)

avsync render corpus/anna-1a2b3c4d_000 --out anna.mp4
avsync render corpus/anna-1a2b3c4d_000.npz --out anna.gif --seconds 4
"""

from __future__ import annotations

import argparse
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING

from avsync.cli._arguments import add_overwrite_argument, add_quiet_argument
from avsync.cli._outputs import declare
from avsync.errors import ArgumentError, CorpusError

if TYPE_CHECKING:
    from avsync.corpus.clip import Clip

LARGEST = 4096
"""Largest width of an image, in pixels."""

_messages = logging.getLogger("avsync.cli")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``avsync render``."""
    parser.add_argument("clip", metavar="CLIP", help="CORPUS/ID, or the clip's .npz file")
    parser.add_argument("--out", required=True, metavar="FILE", help="file to write, .mp4 or .gif")
    parser.add_argument("--size", type=int, default=320, metavar="PIXELS", help="width of the image (default: 320)")
    parser.add_argument("--start", type=float, default=0.0, metavar="SECONDS", help="start within the clip (default: 0)")
    parser.add_argument("--seconds", type=float, metavar="SECONDS", help="length to draw (default: to the end)")
    add_overwrite_argument(parser)
    add_quiet_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Write the video or the gif."""
    suffix = Path(args.out).suffix.lower()
    if suffix not in (".mp4", ".gif"):
        raise ArgumentError(f"`--out`: expected a name that ends in .mp4 or .gif, got {args.out!r}")
    for option, seconds in {"--start": args.start, "--seconds": args.seconds}.items():
        if seconds is not None and not math.isfinite(seconds):
            raise ArgumentError(f"`{option}`: expected a number of seconds, got {seconds:g}")
    if not 16 <= args.size <= LARGEST:
        raise ArgumentError(f"`--size`: expected 16 to {LARGEST} pixels, got {args.size}")
    declare(args, [("--out", args.out)], inputs=[args.clip])
    clip = find_clip(args.clip)
    first = round(min(args.start, clip.seconds) * clip.fps)
    last = clip.frames if args.seconds is None else first + round(min(args.seconds, clip.seconds) * clip.fps)
    last = min(clip.frames, last)
    if not 0 <= first < last:
        raise ArgumentError(f"`--start`, `--seconds`: expected a part of the clip's {clip.seconds:g} s, got an empty part")
    from avsync.figures import face_images, landmark_video, write_gif

    landmarks = {clip.id: clip.landmarks[first:last]}
    if suffix == ".gif":
        frames = write_gif(args.out, face_images(landmarks, size=args.size), fps=clip.fps)
    else:
        audio = clip.waveform[round(first * clip.sample_rate / clip.fps) :]
        frames = landmark_video(args.out, landmarks, waveform=audio, fps=clip.fps, sample_rate=clip.sample_rate, size=args.size)
    _messages.info("%s: %d frames, %.2f s", args.out, frames, frames / clip.fps)
    return 0


def find_clip(name: str) -> Clip:
    """Return the clip that CORPUS/ID or the path of its landmarks names, in the index or not.

    Raises:
        CorpusError: There is none, or it is damaged.
    """
    from avsync.corpus.clip import INDEX_NAME, Corpus, landmark_shape, read_clip

    path = Path(name)
    folder, stem = path.parent, path.name.removesuffix(".npz").removesuffix(".flac")
    if (folder / INDEX_NAME).is_file():
        corpus = Corpus(folder, fps=None)
        for entry in corpus.entries:
            if entry["id"] == stem:
                return read_clip(folder, entry, fps=None)
    track = folder / f"{stem}.npz"
    if not track.is_file():
        raise CorpusError(f"{name}: expected CORPUS/ID or the .npz file of a clip, found neither")
    # A clip outside of an index: its own file has the number of frames.
    shape = landmark_shape(folder, {"id": stem})
    if not shape:
        raise CorpusError(f"{track}: expected the landmarks of a clip, got another or a damaged file")
    return read_clip(folder, {"id": stem, "frames": shape[0], "speaker": stem, "split": "none"}, fps=None)
