"""Count answers and correct answers of ``avsync offset`` for clips with own, moved, another speaker's, reversed and far audio.

    python -m benchmarks.offset_answers --corpus FOLDER --half B --frames 50 80 176 250

The clips are crops of some lengths from the speakers of a split. Each clip is measured like a complete video: without audio
around the clip, with all levels, and with the default threshold of the command. "Moved" audio is up to 40 frames early or late,
which is the search range; "far" audio is of the same clip, from at least 60 frames away.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from avsync._files import write_json
from avsync.corpus import Clip, Corpus, speaker_half
from avsync.corpus.clip import SAMPLES_PER_FRAME
from avsync.corpus.speech import speech_mask
from avsync.errors import ArgumentError
from avsync.evaluation.answer import find_offset
from avsync.evaluation.recording import FRAME_SECONDS, THRESHOLD, Recording, recording_report
from avsync.metrics import load_calibration
from avsync.metrics.report import LEAST_SPEECH
from avsync.models import MultiScaleSyncer
from avsync.pretrained import CALIBRATION, model_folder
from benchmarks import _harness

LARGEST_MOVE = 40
"""Largest shift of moved audio in frames: the search range of the coarsest level."""
FAR = 60
"""Smallest shift of far audio in frames."""
TOLERANCE = 1.5 * FRAME_SECONDS
KINDS = ("own", "moved", "another speaker's", "reversed", "far")


def crops(clips: Sequence[Clip], frames: int, most: int) -> Iterator[tuple[Clip, int]]:
    """Yield clips and the start of a crop with speech, at most ``most`` crops per speaker, a third of a crop apart or more."""
    taken: Counter[str] = Counter()
    for clip in clips:
        spoken = speech_mask(clip.waveform)
        for start in range(0, clip.frames - frames + 1, max(20, frames // 3)):
            if taken[clip.speaker] < most and spoken[start : start + frames].mean() >= LEAST_SPEECH:
                taken[clip.speaker] += 1
                yield clip, start


def cases(found: Sequence[tuple[Clip, int]], frames: int) -> Iterator[tuple[str, int | None, Clip]]:
    """Yield kind, offset in frames (None if no correct offset exists) and clip."""
    rng = np.random.default_rng(0)

    def cut(clip: Clip, start: int, audio: Clip, at: int) -> Clip:
        waveform = audio.waveform[SAMPLES_PER_FRAME * at :][: SAMPLES_PER_FRAME * frames]
        return Clip(clip.id, clip.speaker, clip.split, clip.landmarks[start : start + frames], waveform)

    for clip, start in found:
        own = cut(clip, start, clip, start)
        last = clip.frames - frames
        yield "own", 0, own
        move = int(rng.integers(-LARGEST_MOVE, LARGEST_MOVE + 1))
        if 0 <= start + move <= last:
            yield "moved", move, cut(clip, start, clip, start + move)
        others = [other for other in found if other[0].speaker != clip.speaker]
        yield "another speaker's", None, cut(clip, start, *others[int(rng.integers(len(others)))])
        yield "reversed", None, Clip(own.id, own.speaker, own.split, own.landmarks, own.waveform[::-1].copy())
        away = [at for at in range(last + 1) if abs(at - start) >= FAR]
        if away:
            yield "far", None, cut(clip, start, clip, away[int(rng.integers(len(away)))])


@torch.no_grad()
def answers(
    name: str, clips: Sequence[Clip], frames: int, most: int, *, threshold: float = THRESHOLD
) -> dict[str, Counter[str]]:
    """Count clips, answers and right answers of pretrained syncers, by kind of audio."""
    syncers = MultiScaleSyncer.from_pretrained(name)
    transform = syncers.speech_features()
    if transform is None:
        raise ArgumentError(f"{name}: expected syncers whose config names their features")
    calibration = load_calibration(model_folder(name) / CALIBRATION, syncers=syncers)
    counts = {kind: Counter[str]() for kind in KINDS}
    for kind, offset, clip in cases(list(crops(clips, frames, most)), frames):
        answer, _ = find_offset(
            Recording(clip.id, (clip,)),
            partial(recording_report, pyramid=syncers, audio_transform=transform, calibration=calibration, threshold=threshold),
        )
        right = offset is not None and answer.seconds is not None and abs(answer.seconds - FRAME_SECONDS * offset) <= TOLERANCE
        counts[kind].update(clips=1, answered=answer.seconds is not None, right=right)
    return counts


def main() -> None:
    """Count, print and write."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--corpus", type=Path, required=True, help="corpus whose split holds unseen speakers")
    arguments.add_argument("--split", default="val", help="that split (default: val)")
    arguments.add_argument("--half", choices=("A", "B"), help="half of the speakers; both if not given")
    arguments.add_argument("--syncers", nargs="+", default=["landmarks68-25fps"], help="calibrated syncers")
    arguments.add_argument("--frames", type=int, nargs="+", default=[80], help="lengths of the clips (default: 80)")
    arguments.add_argument("--crops", type=int, default=4, help="most clips per speaker (default: %(default)s)")
    arguments.add_argument(
        "--threshold", type=float, default=THRESHOLD, help="smallest probability of an answer (default: %(default)s)"
    )
    arguments.add_argument("--out", type=Path, metavar="FILE", help="write the counts as JSON")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    clips = [clip for clip in Corpus(options.corpus, split=options.split) if options.half in (None, speaker_half(clip.speaker))]
    table: dict[str, dict[str, dict[str, dict[str, int]]]] = {}
    for name in options.syncers:
        for frames in options.frames:
            counts = answers(name, clips, frames, options.crops, threshold=options.threshold)
            table.setdefault(name, {})[str(frames)] = {kind: dict(count) for kind, count in counts.items()}
            for kind, count in counts.items():
                number = count["clips"]
                shares = [f"{key} {100 * count[key] / max(number, 1):.1f} %" for key in ("answered", "right")]
                print(f"{name:26s} {frames:4d} frames, {kind:18s} {number:4d} clips, {', '.join(shares)}", flush=True)
        if options.out is not None:
            settings = {"half": options.half, "crops": options.crops, "threshold": options.threshold}
            write_json(options.out, {"metadata": _harness.run_metadata(), **settings, "syncers": table})


if __name__ == "__main__":
    main()
