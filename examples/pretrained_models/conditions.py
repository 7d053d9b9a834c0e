"""Accuracy of a pyramid on clean and on impaired clips, for one half of the validation speakers and by collection.

    python examples/pretrained_models/conditions.py --corpus PATH --models NAME_OR_FOLDER ... [--out FILE]

Conditions: clean clips; white noise, or the voices of four other speakers, at a signal-to-noise ratio of 10 dB; tracks smoothed
over 5 frames; 8.3 new frames per second. Half "A" of the speakers serves selection, half "B" serves reports
(:func:`avsync.corpus.speaker_half`).
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from outputs import add_outputs, write_outputs
from torch import Tensor
from torch.nn import functional as F

from avsync.audio import SpeechFeatures
from avsync.corpus import Clip, ClipBank, Corpus, speaker_half
from avsync.landmarks import held_frames, repeat_frames, smooth_frames
from avsync.metrics import MAX_OFFSETS, sync_offset
from avsync.models import MultiScaleSyncer

SNR_DB = 10.0
SMOOTHED_FRAMES, HELD_FRAMES = 5, 3
MARGIN = 40
LENGTHS = {80: 0.4, 15: 0.8, 9: 0.8, 5: 0.8}
"""Frames of the clips, and the share of their frames that must hold speech."""
_CHUNK = 128
FIRST_OF_LATER = 154
"""Number of the first speaker of the second collection (phone and web video)."""


def collection(speaker: str) -> str:
    """Return "studio" for the first collection of the corpus, "phone" for the second, and "other" for another corpus."""
    number = speaker.removeprefix("spk")
    if not number.isdigit():
        return "other"  # a corpus of your own
    return "studio" if int(number) < FIRST_OF_LATER else "phone"


GROUPS: dict[str, Callable[[str], bool]] = {
    "A": lambda speaker: speaker_half(speaker) == "A",
    "B": lambda speaker: speaker_half(speaker) == "B",
    "B studio": lambda speaker: speaker_half(speaker) == "B" and collection(speaker) == "studio",
    "B phone": lambda speaker: speaker_half(speaker) == "B" and collection(speaker) == "phone",
}


def mixed(clip: Clip, noise: np.ndarray[Any, Any], snr_db: float) -> np.ndarray[Any, Any]:
    """Add noise to the waveform of a clip at a signal-to-noise ratio."""
    speech = clip.waveform - clip.waveform.mean()
    gain = np.sqrt(np.square(speech).mean() / max(float(np.square(noise).mean()), 1e-20)) * 10.0 ** (-snr_db / 20.0)
    sum_: np.ndarray[Any, Any] = (speech + gain * noise).astype(np.float32)
    return sum_


def babble(clips: Sequence[Clip], index: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Mix the voices of four other speakers at equal loudness, as long as the clip."""
    size = clips[index].waveform.size
    others = [i for i, clip in enumerate(clips) if clip.speaker != clips[index].speaker]
    total = np.zeros(size)
    for other in rng.choice(others, min(4, len(others)), replace=False):
        voice = clips[other].waveform - clips[other].waveform.mean()
        total += np.resize(np.roll(voice, int(rng.integers(voice.size))), size) / max(
            float(np.sqrt(np.square(voice).mean())), 1e-10
        )
    return total


def impaired(clips: Sequence[Clip], features: torch.nn.Module) -> dict[str, ClipBank]:
    """Make banks of the same clips, clean and impaired; the first bank is clean."""
    clean, rng = ClipBank(clips, features=features), np.random.default_rng(0)
    spans = [slice(int(begin), int(begin + length)) for begin, length in zip(clean.offsets, clean.lengths, strict=True)]

    def with_audio(noise: Callable[[int], np.ndarray[Any, Any]]) -> ClipBank:
        bank = copy.copy(clean)
        noisy = [replace(clip, waveform=mixed(clip, noise(i), SNR_DB)) for i, clip in enumerate(clips)]
        bank.audio = ClipBank(noisy, features=features).audio
        return bank

    def with_landmarks(change: Callable[[Tensor], Tensor]) -> ClipBank:
        bank = copy.copy(clean)
        bank.landmarks = torch.cat([change(clean.landmarks[span][None])[0] for span in spans])
        return bank

    def hold(x: Tensor) -> Tensor:
        return repeat_frames(x, held_frames(x.shape[1], torch.tensor([HELD_FRAMES]), torch.tensor([0])))

    return {
        "clean": clean,
        f"noise {SNR_DB:g} dB": with_audio(lambda i: rng.normal(size=clips[i].waveform.size)),
        f"babble {SNR_DB:g} dB": with_audio(lambda i: babble(clips, i, rng)),
        f"smoothed {SMOOTHED_FRAMES}": with_landmarks(lambda x: smooth_frames(x, [1 / SMOOTHED_FRAMES] * SMOOTHED_FRAMES)),
        f"held {HELD_FRAMES}": with_landmarks(hold),
    }


@torch.no_grad()
def found(syncers: MultiScaleSyncer, bank: ClipBank, frames: int, *, stride: int) -> dict[str, Any]:
    """Compute the share of clips whose offset is within one frame, per level; below 80 frames only level 0, frame by frame.

    Returns:
        For each of :data:`GROUPS` the number of clips and a percentage per level.
    """
    levels = syncers.num_levels if frames >= 80 else 1
    window = 1 if levels > 1 else syncers.window
    crops = bank.windows(frames, stride=stride, margin=MARGIN)
    crops = crops.select(crops.speech_fraction >= LENGTHS[frames])
    parts = []
    for start in range(0, len(crops), _CHUNK):
        some = crops.select(slice(start, start + _CHUNK))
        motions = syncers.embed_motion(some.landmarks, levels=range(levels))
        audios = syncers.embed_audio(some.audio, levels=range(levels))
        right = [
            sync_offset(
                F.normalize(motion, dim=-1), F.normalize(audio, dim=-1), max_offset=most, lead=MARGIN // 2**level, window=window
            ).within(1)
            for level, (motion, audio, most) in enumerate(zip(motions, audios, MAX_OFFSETS, strict=False))
        ]
        parts.append(torch.stack(right).float())
    shares = torch.cat(parts, dim=1)
    speakers = [bank.clip_speakers[i] for i in crops.clip_index]
    result: dict[str, Any] = {}
    for name, belongs in GROUPS.items():
        mask = torch.tensor([belongs(speaker) for speaker in speakers], dtype=torch.bool)
        if bool(mask.any()):
            percent = [round(100.0 * float(level), 1) for level in shares[:, mask].mean(dim=1)]
            result[name] = {"clips": int(mask.sum()), "percent": percent}
    return result


def measure(syncers: MultiScaleSyncer, banks: dict[str, ClipBank]) -> dict[str, Any]:
    """Run :func:`found` for every condition at 80 and 15 frames, and for clean clips at 9 and 5 frames."""
    result = {}
    for condition, bank in banks.items():
        for frames in LENGTHS if condition == "clean" else (80, 15):
            result[f"{condition}, {frames} frames"] = found(syncers, bank, frames, stride=20 if frames >= 80 else 10)
    return result


def main() -> None:
    """Measure all models named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="folder of a corpus with the split val")
    parser.add_argument(
        "--models", nargs="+", required=True, help="names or folders of pyramids or ensembles of log-mel energies"
    )
    add_outputs(parser)
    args = parser.parse_args()
    banks = impaired(list(Corpus(args.corpus, split="val")), SpeechFeatures(kind="log-mel").features)
    numbers = {}
    for name in args.models:
        numbers[name] = measure(MultiScaleSyncer.from_pretrained(name), banks)
        print(name, json.dumps(numbers[name], indent=1), flush=True)
    write_outputs(args, numbers)


if __name__ == "__main__":
    main()
