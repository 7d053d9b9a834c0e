"""Count answers and correct answers of ``avsync offset`` for clips with own, moved, another speaker's and reversed audio.

    python -m benchmarks.offset_answers --corpus FOLDER --frames 80 --crops 4

The clips are crops of one length from the speakers of a split. Each clip is measured like a complete video: without audio
around the clip, with all levels, and with the default threshold of the command.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from avsync._files import write_json
from avsync.corpus import Clip, Corpus
from avsync.corpus.clip import SAMPLES_PER_FRAME
from avsync.corpus.speech import speech_mask
from avsync.evaluation.recording import FRAME_SECONDS, Recording, find_offset, recording_report
from avsync.metrics import load_calibration
from avsync.metrics.report import LEAST_SPEECH
from avsync.models import MultiScaleSyncer
from avsync.pretrained import CALIBRATION, model_folder

LARGEST_MOVE = 40
"""Largest shift of moved audio in frames: the search range of the coarsest level."""
TOLERANCE = 1.5 * FRAME_SECONDS


def crops(corpus: Corpus, frames: int, most: int) -> Iterator[tuple[Clip, int]]:
    """Yield whole clips and the start of a crop with speech, at most ``most`` crops per speaker."""
    taken: Counter[str] = Counter()
    for number, entry in enumerate(corpus.entries):
        if taken[entry["speaker"]] >= most or entry["frames"] < frames:
            continue
        clip = corpus[number]
        spoken = speech_mask(clip.waveform)
        for start in range(0, clip.frames - frames + 1, frames):
            if taken[clip.speaker] < most and spoken[start : start + frames].mean() >= LEAST_SPEECH:
                taken[clip.speaker] += 1
                yield clip, start


def cases(found: list[tuple[Clip, int]], frames: int) -> Iterator[tuple[str, int | None, Clip]]:
    """Yield kind, offset in frames (None if no correct offset exists) and clip."""
    rng = np.random.default_rng(0)

    def cut(clip: Clip, start: int, audio: Clip, at: int) -> Clip:
        waveform = audio.waveform[SAMPLES_PER_FRAME * at :][: SAMPLES_PER_FRAME * frames]
        return Clip(clip.id, clip.speaker, clip.split, clip.landmarks[start : start + frames], waveform)

    for clip, start in found:
        own = cut(clip, start, clip, start)
        yield "own", 0, own
        move = int(rng.integers(-LARGEST_MOVE, LARGEST_MOVE + 1))
        if 0 <= start + move <= clip.frames - frames:
            yield "moved", move, cut(clip, start, clip, start + move)
        others = [other for other in found if other[0].speaker != clip.speaker]
        yield "another speaker's", None, cut(clip, start, *others[int(rng.integers(len(others)))])
        yield "reversed", None, Clip(own.id, own.speaker, own.split, own.landmarks, own.waveform[::-1].copy())


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--corpus", type=Path, required=True, help="corpus whose split holds unseen speakers")
    arguments.add_argument("--split", default="val", help="that split (default: val)")
    arguments.add_argument("--syncers", default="landmarks68-25fps", help="calibrated syncers (default: %(default)s)")
    arguments.add_argument("--frames", type=int, default=80, help="length of the clips (default: %(default)s)")
    arguments.add_argument("--crops", type=int, default=4, help="most clips per speaker (default: %(default)s)")
    arguments.add_argument("--out", type=Path, metavar="FILE", help="write the counts as JSON")
    options = arguments.parse_args()
    pyramid = MultiScaleSyncer.from_pretrained(options.syncers)
    transform = pyramid.speech_features()
    if transform is None:
        arguments.error(f"{options.syncers}: expected syncers whose config names their features")
    calibration = load_calibration(model_folder(options.syncers) / CALIBRATION, syncers=pyramid)
    found = list(crops(Corpus(options.corpus, split=options.split), options.frames, options.crops))
    counts: dict[str, Counter[str]] = {}
    for kind, offset, clip in cases(found, options.frames):
        answer, _ = find_offset(
            Recording(clip.id, (clip,)),
            lambda one: recording_report(one, pyramid, audio_transform=transform, calibration=calibration),
        )
        count = counts.setdefault(kind, Counter())
        count["clips"] += 1
        if answer.seconds is not None:
            count["answered"] += 1
            count["right"] += offset is not None and abs(answer.seconds - FRAME_SECONDS * offset) <= TOLERANCE
    print(f"{len(found)} clips of {options.frames} frames, {len({clip.speaker for clip, _ in found})} speakers")
    for kind, count in counts.items():
        shares = {name: f"{100 * count[name] / count['clips']:.1f} %" for name in ("answered", "right")}
        print(f"{kind:18s} {count['clips']:4d} clips, answered {shares['answered']}, right {shares['right']}")
    if options.out is not None:
        write_json(options.out, {kind: dict(count) for kind, count in counts.items()})


if __name__ == "__main__":
    main()
