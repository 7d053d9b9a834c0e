"""Compare the motion of trained generators with that of people: the tables of the card of `generator-landmarks68-25fps`.

    python examples/baselines/lifelike.py generator-landmarks68-25fps RUN/generator --corpus PATH [--half A] [--figure FILE]

Unseen speakers, divided into halves by a hash of their labels, so that one half can choose a generator and the other one
report it: clips of 80 frames for all measures, and of 200 frames for drift. The figure shows how fast the faces of single clips
move, and the power of the motion of lips and of the rest of the face by frequency, as a share of that of people.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import shared  # noqa: F401 - finds the modules of examples/msync
import torch
from evaluation import generate, spread
from judging import MARGIN, heard_banks, load_models, measure, motion_distance
from pipeline import SPEECH_SHARE, load_material
from presets import LIFELIKE
from torch import Tensor

from avsync import AvsyncError, MultiScaleGenerator
from avsync.corpus import Batch, ClipBank, speaker_half
from avsync.figures import PALETTE, new_figure, plain_axes, save_figure
from avsync.landmarks import MOUTH, mouth_opening, normalise
from avsync.metrics import face_speed, height_drift
from avsync.models import MultiScaleSyncer

PEOPLE = "people"
BANDS = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.6)
"""Limits of the frequency bands of the figure, in Hz."""
SHORT, LONG = 80, 200


def crops_of(bank: ClipBank, frames: int, half: str) -> Batch:
    """Return the clips with speech of a half of the speakers, or of "both"."""
    crops = bank.windows(frames, stride=frames // (2 if frames == SHORT else 1), margin=MARGIN)
    crops = crops.select(crops.speech_fraction >= SPEECH_SHARE)
    halves = [speaker_half(bank.clip_speakers[int(clip)]) for clip in crops.clip_index]
    return crops if half == "both" else crops.select(torch.tensor([found == half for found in halves]))


def motions(generator: MultiScaleGenerator | None, crops: Batch, *, seed: int = 0) -> Tensor:
    """Return the motion of a generator, or that of people, for the audio of every crop."""
    if generator is None:
        return crops.landmarks
    with torch.no_grad():
        return generate(generator, crops, margin=MARGIN, seed=seed, chunk=64)


def row(
    generator: MultiScaleGenerator | None,
    short: Batch,
    long: Batch,
    heard: Mapping[str, Batch],
    models: Mapping[str, MultiScaleSyncer],
) -> dict[str, str]:
    """Compute one column of the table: a generator, or people; ``heard`` is ``short`` by kind of audio features."""
    made, lasting = motions(generator, short), motions(generator, long)
    found = {name: torch.tensor(values) for name, values in measure(made, heard, models).items()}
    cells = {
        f"confidence, {part}, levels 0-3": " ".join(f"{float(found[f'{part}{level}'].mean()):.3f}" for level in range(4))
        for part in models
    }
    speeds = found["speed"].quantile(torch.tensor([0.1, 0.5, 0.9], dtype=found["speed"].dtype)).tolist()
    cells["speed, face heights per second"] = f"{float(found['speed'].mean()):.3f}"
    cells["speed of single clips, 10 / 50 / 90 %"] = " / ".join(f"{speed:.3f}" for speed in speeds)
    cells["motion distance"] = f"{motion_distance(made, short):.1f}"
    opening = mouth_opening(lasting)
    cells["mouth opening, mean / 95th percentile"] = " / ".join(
        f"{float(found[name].mean()):.4f}" for name in ("opening", "opening95")
    )
    spans = ((0, 40), (80, 120), (160, 200))
    cells["mouth opening, frames 0-40 / 80-120 / 160-200"] = " / ".join(
        f"{float(opening[:, start:end].mean()):.4f}" for start, end in spans
    )
    cells["height after 200 frames"] = f"{float(height_drift(lasting).mean()):.3f}"
    if generator is not None:
        cells["spread of two seeds"] = f"{spread(made, motions(generator, short, seed=1)):.2f}"
    return cells


def table(columns: Mapping[str, Mapping[str, str]]) -> str:
    """Render one column per generator."""
    names = list(dict.fromkeys(name for cells in columns.values() for name in cells))
    lines = ["|  | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(cells.get(name, "") for cells in columns.values()) + " |" for name in names]
    return "\n".join(lines)


def power(made: Tensor, points: Sequence[int]) -> Tensor:
    """Compute the power of the motion of some points around the centre of the face, per frequency band."""
    faces = normalise(made).landmarks
    parts = (faces - faces.mean(dim=2, keepdim=True))[:, :, list(points)].flatten(2)
    spectrum = torch.fft.rfft((parts - parts.mean(dim=1, keepdim=True)) * torch.hann_window(SHORT)[:, None], dim=1)
    frequency = torch.fft.rfftfreq(SHORT, 1 / 25)
    density = spectrum.abs().square().sum(dim=2).mean(dim=0)
    return torch.stack([density[(frequency >= low) & (frequency < high)].sum() for low, high in itertools.pairwise(BANDS)])


def draw(made: Mapping[str, Tensor], path: Path) -> None:
    """Draw the speeds of single clips, and the power by frequency as a share of that of people."""
    figure = new_figure(width=10.0, height=3.2)
    points = list(range(next(iter(made.values())).shape[2]))
    parts = {"lips": points[MOUTH], "rest of the face": [*points[: MOUTH.start], *points[MOUTH.stop :]]}
    speeds, *powers = (figure.add_subplot(1, 3, number) for number in (1, 2, 3))
    for number, (name, motion) in enumerate(made.items()):
        speed = face_speed(motion).sort().values
        speeds.plot(speed, torch.linspace(0, 100, len(speed)), color=PALETTE[number], label=name)
    speeds.set(xlabel="speed, face heights per second", ylabel="clips that are slower, %", xlim=(0, 0.6))
    speeds.legend(fontsize=8, frameon=False, loc="lower right")
    middle = [(low + high) / 2 for low, high in itertools.pairwise(BANDS)]
    for axes, (part, points) in zip(powers, parts.items(), strict=True):
        for number, motion in enumerate(made.values()):
            axes.plot(middle, power(motion, points) / power(made[PEOPLE], points), color=PALETTE[number], marker=".")
        axes.set(title=part, xlabel="frequency, Hz", ylabel="power, people = 1", ylim=(0, 2))
    for axes in (speeds, *powers):
        plain_axes(axes)
    save_figure(figure, path)


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("generators", nargs="+", help="trained generators: folders or pretrained models")
    parser.add_argument("--corpus", default="synthetic", help="'synthetic', or a folder of clips (default: synthetic)")
    parser.add_argument("--half", choices=("A", "B", "both"), default="both", help="half of the speakers (default: both)")
    parser.add_argument("--figure", type=Path, help="file of the figure (default: none)")
    args = parser.parse_args(arguments)
    try:
        material = load_material(args.corpus, LIFELIKE)
        short, long = (crops_of(material.val, frames, args.half) for frames in (SHORT, LONG))
        models = load_models()
        heard = {kind: crops_of(bank, SHORT, args.half) for kind, bank in heard_banks(material.val_clips, models).items()}
        generators = {name: MultiScaleGenerator.from_pretrained(name).eval() for name in args.generators}
        print(f"{len(short)} clips of {SHORT} frames, {len(long)} of {LONG}\n")
        columns = {PEOPLE: None, **generators}
        print(table({name: row(generator, short, long, heard, models) for name, generator in columns.items()}))
        if args.figure:
            draw({name: motions(generator, short) for name, generator in columns.items()}, args.figure)
    except AvsyncError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
