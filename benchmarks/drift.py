"""Count the drifts that ``avsync offset`` finds in clips whose audio was stretched, and in clips whose audio was not.

    python -m benchmarks.drift --corpus FOLDER --half B --frames 375

The clips are crops of one length from the speakers of a split, without audio around them. Stretched audio plays faster or
slower by a known share, about the middle of the crop; frames that lose their audio are marked as missing.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from avsync._files import write_json
from avsync.corpus import Clip, Corpus, speaker_half
from avsync.corpus.clip import SAMPLES_PER_FRAME, missing_ranges
from avsync.evaluation.drift import find_drift
from avsync.evaluation.recording import Recording
from avsync.models import MultiScaleSyncer

RATES = (0.005, 0.01, 0.015, 0.025, 0.04)


def crops(corpus: Corpus, frames: int, half: str | None) -> Iterator[Clip]:
    """Yield consecutive crops of the clips."""
    for number, entry in enumerate(corpus.entries):
        if entry["frames"] < frames or half not in (None, speaker_half(entry["speaker"])):
            continue
        clip = corpus[number]
        for first in range(0, clip.frames - frames + 1, frames):
            waveform = clip.waveform[SAMPLES_PER_FRAME * first : SAMPLES_PER_FRAME * (first + frames)]
            yield replace(clip, landmarks=clip.landmarks[first : first + frames], waveform=waveform, missing_audio=())


def stretched(clip: Clip, rate: float) -> Clip:
    """Return a clip whose audio plays ``1 + rate`` times as fast."""
    samples = np.arange(clip.waveform.size)
    at = (samples - clip.waveform.size / 2) * (1 + rate) + clip.waveform.size / 2
    there = (at >= 0) & (at <= clip.waveform.size - 1)
    waveform = np.where(there, np.interp(at, samples, clip.waveform), 0.0).astype(np.float32)
    return replace(clip, waveform=waveform, missing_audio=missing_ranges(there, clip.frames))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--corpus", type=Path, required=True, help="corpus whose split holds unseen speakers")
    arguments.add_argument("--split", default="val", help="that split (default: val)")
    arguments.add_argument(
        "--half", choices=("A", "B"), help="half of the speakers, by a digest of their names; all by default"
    )
    arguments.add_argument("--syncers", default="landmarks68-25fps", help="syncers (default: %(default)s)")
    arguments.add_argument("--frames", type=int, default=375, help="length of the crops (default: %(default)s)")
    arguments.add_argument("--out", type=Path, metavar="FILE", help="write the rates that were found as JSON")
    options = arguments.parse_args()
    pyramid = MultiScaleSyncer.from_pretrained(options.syncers)
    transform = pyramid.speech_features()
    if transform is None:
        arguments.error(f"{options.syncers}: expected syncers whose config names their features")
    clips = list(crops(Corpus(options.corpus, split=options.split), options.frames, options.half))
    found: dict[str, list[tuple[str, float | None]]] = {}
    print(f"{len(clips)} clips of {options.frames} frames, {len({clip.speaker for clip in clips})} speakers")

    def count(name: str, cases: Iterator[Clip], rate: float | None) -> None:
        rates = found.setdefault(name, [])
        for clip in cases:
            drift = find_drift(Recording(clip.id, (clip,)), pyramid, audio_transform=transform)
            rates.append((clip.id, None if drift is None else drift.rate))
        values = [value for _, value in rates if value is not None]
        near = "" if rate is None else f", within 0.5 % of the rate {sum(abs(value - rate) < 0.005 for value in values)}"
        print(f"{name:18s} {len(rates):4d} clips, drift in {len(values)}{near}", flush=True)

    count("own", iter(clips), None)
    count("reversed", (replace(clip, waveform=clip.waveform[::-1].copy()) for clip in clips), None)
    count("another's", (replace(a, waveform=b.waveform) for a, b in zip(clips, clips[7:] + clips[:7], strict=True)), None)
    for size in RATES:
        for rate in (size, -size):
            count(f"{100 * rate:+.1f} %", (stretched(clip, rate) for clip in clips), rate)
    if options.out is not None:
        write_json(options.out, found)


if __name__ == "__main__":
    main()
