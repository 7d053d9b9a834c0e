"""Accuracy of pretrained syncers against the strength of noise, other voices, jitter, smoothing, held frames and rotation.

    python examples/pretrained_models/robustness.py --corpus PATH [--models NAME ...] [--half B] [--out FILE] [--figure FILE]

Clips of 80 frames with at least 40 % speech and the audio around them, from one half of the validation speakers
(:func:`avsync.corpus.speaker_half`). The numbers are shares of clips whose offset is found within one frame of the level, in
percent.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from conditions import LENGTHS, MARGIN, babble, mixed
from outputs import add_outputs, write_outputs
from torch import Tensor
from torch.nn import functional as F

from avsync.audio import SpeechFeatures
from avsync.corpus import Batch, Clip, ClipBank, Corpus, speaker_half
from avsync.landmarks import held_frames, repeat_frames, smooth_frames
from avsync.metrics import MAX_OFFSETS, sync_offset
from avsync.models import MultiScaleSyncer

FRAMES, STRIDE, CHUNK = 80, 20, 64
MODELS = ("landmarks68-25fps", "landmarks68-25fps-robust", "landmarks68-25fps-ensemble")
AUDIO_CURVES: dict[str, tuple[str, tuple[float, ...]]] = {
    "white noise": ("signal-to-noise ratio, dB", (20, 10, 5, 0)),
    "four other voices": ("signal-to-noise ratio, dB", (20, 10, 5, 0)),
}
MOTION_CURVES: dict[str, tuple[str, tuple[float, ...]]] = {
    "jitter": ("standard deviation, % of the face's height", (0.25, 0.5, 1.0)),
    "smoothing": ("frames of the mean", (3, 5, 9)),
    "held frames": ("frames per new frame", (2, 3, 5)),
    "rotation": ("degrees in the image", (5, 10, 20)),
}
"""Curves, the unit of their strength, and the strengths."""


def noisy(clips: Sequence[Clip], kind: str, snr_db: float) -> list[Clip]:
    """Add white noise or other voices to the audio of clips."""
    rng = np.random.default_rng(0)
    found = []
    for number, clip in enumerate(clips):
        noise = rng.normal(size=clip.waveform.size) if kind == "white noise" else babble(clips, number, rng)
        found.append(replace(clip, waveform=mixed(clip, noise, snr_db)))
    return found


def impair(kind: str, strength: float) -> Callable[[Tensor], Tensor]:
    """Return a function that impairs landmarks (1, frames, points, dims)."""

    def jitter(x: Tensor) -> Tensor:
        height = (x[..., 1].amax(2) - x[..., 1].amin(2)).mean()
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(x.shape[1]))
        return x + strength / 100.0 * height * noise

    def rotate(x: Tensor) -> Tensor:
        centre = x[..., :2].mean(dim=(1, 2), keepdim=True)
        cos, sin = math.cos(math.radians(strength)), math.sin(math.radians(strength))
        turned = (x[..., :2] - centre) @ torch.tensor([[cos, sin], [-sin, cos]])
        return torch.cat([turned + centre, x[..., 2:]], dim=-1)

    def smooth(x: Tensor) -> Tensor:
        return smooth_frames(x, [1 / strength] * int(strength))

    def hold(x: Tensor) -> Tensor:
        return repeat_frames(x, held_frames(x.shape[1], torch.tensor([int(strength)]), torch.tensor([0])))

    return {"jitter": jitter, "rotation": rotate, "smoothing": smooth, "held frames": hold}[kind]


def crops_of(bank: ClipBank) -> Batch:
    """Return the clips of 80 frames with speech."""
    crops = bank.windows(FRAMES, stride=STRIDE, margin=MARGIN)
    return crops.select(crops.speech_fraction >= LENGTHS[FRAMES])


def embedded(embed: Callable[..., list[Tensor]], values: Tensor, levels: int) -> list[Tensor]:
    """Compute unit embeddings in chunks, one tensor per level."""
    parts = [embed(some, levels=range(levels)) for some in values.split(CHUNK)]
    return [F.normalize(torch.cat(level), dim=-1) for level in zip(*parts, strict=True)]


def percent(motion: Sequence[Tensor], audio: Sequence[Tensor]) -> list[float]:
    """Compute the share of clips whose offset is within one frame, per level."""
    return [
        round(100.0 * float(sync_offset(m, a, max_offset=most, lead=MARGIN // 2**level).within(1).double().mean()), 1)
        for level, (m, a, most) in enumerate(zip(motion, audio, MAX_OFFSETS, strict=False))
    ]


@torch.no_grad()
def measure(name: str, clean: Batch, audio: dict[str, Tensor], landmarks: dict[str, Tensor]) -> dict[str, list[float]]:
    """Measure a model for the clean clips and every condition."""
    syncers = MultiScaleSyncer.from_pretrained(name)
    motion = embedded(syncers.embed_motion, clean.landmarks, syncers.num_levels)
    heard = embedded(syncers.embed_audio, clean.audio, syncers.num_levels)
    table = {"clean": percent(motion, heard)}
    for condition, values in audio.items():
        table[condition] = percent(motion, embedded(syncers.embed_audio, values, syncers.num_levels))
    for condition, values in landmarks.items():
        table[condition] = percent(embedded(syncers.embed_motion, values, syncers.num_levels), heard)
    return table


def draw(numbers: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Draw one panel per curve: each model a colour, each level a line style."""
    curves = {**AUDIO_CURVES, **MOTION_CURVES}
    figure, panels = plt.subplots(2, 3, figsize=(10, 5.6), sharey=True, layout="constrained")
    for axes, (kind, (unit, strengths)) in zip(panels.flat, curves.items(), strict=True):
        for colour, (name, table) in enumerate(numbers.items()):
            for level, style in enumerate(("-", "--", "-.", ":")):
                values = [table["clean"][level], *(table[f"{kind} {strength:g}"][level] for strength in strengths)]
                label = name.removeprefix("landmarks68-25fps-") if level == 0 else None
                axes.plot(range(len(values)), values, style, color=f"C{colour}", marker="o", markersize=3, label=label)
        axes.set(title=kind, xlabel=unit, xticks=range(1 + len(strengths)))
        axes.set_xticklabels(["clean", *(f"{strength:g}" for strength in strengths)])
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel("offset within one frame, %")
    panels[0, 0].legend(fontsize=8, frameon=False, title="levels 0-3: solid to dotted", title_fontsize=8)
    figure.savefig(path, dpi=130)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="folder of a corpus with the split val")
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="pretrained models of log-mel energies")
    parser.add_argument("--half", choices=("A", "B"), default="B", help="half of the validation speakers (default: B)")
    add_outputs(parser, figure=True)
    args = parser.parse_args(arguments)
    clips = [clip for clip in Corpus(args.corpus, split="val") if speaker_half(clip.speaker) == args.half]
    features = SpeechFeatures(kind="log-mel").features
    bank = ClipBank(clips, features=features)
    clean = crops_of(bank)
    audio, landmarks = {}, {}
    for kind, (_, strengths) in AUDIO_CURVES.items():
        for strength in strengths:
            heard = ClipBank(noisy(clips, kind, strength), features=features)
            # The clips are chosen by the speech in the clean audio.
            crops = heard.windows(FRAMES, stride=STRIDE, margin=MARGIN)
            chosen = bank.windows(FRAMES, stride=STRIDE, margin=MARGIN).speech_fraction >= LENGTHS[FRAMES]
            audio[f"{kind} {strength:g}"] = crops.select(chosen).audio
    spans = [slice(int(begin), int(begin + length)) for begin, length in zip(bank.offsets, bank.lengths, strict=True)]
    whole = bank.landmarks
    for kind, (_, strengths) in MOTION_CURVES.items():
        for strength in strengths:
            change = impair(kind, strength)
            bank.landmarks = torch.cat([change(whole[span][None])[0] for span in spans])
            landmarks[f"{kind} {strength:g}"] = crops_of(bank).landmarks
    numbers: dict[str, Any] = {}
    print(f"{len(clean)} clips of half {args.half}")
    for name in args.models:
        numbers[name] = measure(name, clean, audio, landmarks)
        for condition, values in numbers[name].items():
            print(f"{name:27s} {condition:22s} {' '.join(f'{value:5.1f}' for value in values)}", flush=True)
    write_outputs(args, numbers, draw)


if __name__ == "__main__":
    main()
