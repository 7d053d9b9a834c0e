"""Accuracy of a pyramid on landmarks of other frame rates, on half B of the validation speakers.

    python examples/pretrained_models/frame_rates.py --corpus PATH [--models NAME_OR_FOLDER ...] [--out FILE]

The landmarks of each clip are interpolated linearly from 25 frames per second to each rate, and the library resamples them back
to the rate of the syncers, as it does with landmarks that were recorded at that rate.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from conditions import found
from outputs import add_outputs, write_outputs

from avsync.audio import SpeechFeatures
from avsync.corpus import Clip, ClipBank, Corpus, speaker_half
from avsync.models import MultiScaleSyncer

RATES = (25.0, 24.0, 30.0, 50.0, 60.0)


def at_rate(clip: Clip, fps: float) -> Clip:
    """Return a clip whose landmarks are interpolated linearly to another rate."""
    place = np.arange(int((clip.frames - 1) * fps / clip.fps + 1e-6) + 1) * clip.fps / fps  # in frames of the clip
    before = np.minimum(place.astype(int), clip.frames - 2)
    after = (place - before)[:, None, None]
    landmarks = ((1 - after) * clip.landmarks[before] + after * clip.landmarks[before + 1]).astype(np.float32)
    samples = round(len(landmarks) * clip.sample_rate / fps)
    waveform = np.pad(clip.waveform[:samples], (0, max(0, samples - clip.waveform.size)))
    return replace(clip, landmarks=landmarks, waveform=waveform, fps=fps, missing_audio=())


def bank_at(clips: Iterable[Clip], fps: float) -> ClipBank:
    """Return clips of a rate as a bank, which resamples them to 25 frames per second."""
    return ClipBank([at_rate(clip, fps) for clip in clips], features=SpeechFeatures(kind="log-mel").features)


def main() -> None:
    """Measure all models at all rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="folder of a corpus with the split val")
    parser.add_argument("--models", nargs="+", default=["landmarks68-25fps"], help="pyramids of log-mel energies")
    add_outputs(parser)
    args = parser.parse_args()
    clips = [clip for clip in Corpus(args.corpus, split="val") if speaker_half(clip.speaker) == "B"]
    banks = {fps: bank_at(clips, fps) for fps in RATES}
    numbers: dict[str, dict[str, object]] = {}
    for name in args.models:
        syncers = MultiScaleSyncer.from_pretrained(name)
        numbers[name] = {}
        for fps, bank in banks.items():
            for frames, stride in ((80, 20), (15, 10)):
                numbers[name][f"{fps:g} fps, {frames} frames"] = shares = found(syncers, bank, frames, stride=stride)["B"]
                print(name, f"{fps:g} fps, {frames} frames", shares, flush=True)
    write_outputs(args, numbers)


if __name__ == "__main__":
    main()
