"""The paper's Figures 3, 4 and 5 from finished runs, and videos of generated faces next to the true ones, with audio.

    python examples/baselines/figures.py --out runs/baselines --corpus PATH --seeds 5
    python examples/baselines/figures.py --out runs/baselines --corpus PATH --seeds 5 --shown synthetic

The runs are those of run.py and lie in the same folder; what is missing is trained. The folder ``figures`` gets:

- ``figure3.png``: offsets and confidences at level 0, of all validation clips;
- ``figure4-CLIP.png``: 120 frames of faces, ground truth and methods; ``motion-CLIP.png``: their lips and heads over time;
- ``faces-CLIP.mp4``: a video of the same clip, with audio;
- ``figure5.png``: confidence at every level during training, mean and range of the seeds;
- ``figure3.md``, ``figure4.md``: numbers over all validation clips, for the same methods.

Faces and voices are those of people. With ``--shown synthetic`` the same generators animate the synthetic talker instead.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from judging import MARGIN
from ms_sync import CURVES
from run import Bench, add_arguments, method_folder
from shared import watched_clips
from torch import Tensor
from torch.nn.functional import cosine_similarity

from avsync import AvsyncError
from avsync.audio import SpeechFeatures
from avsync.corpus import Batch, ClipBank, Corpus, SyntheticCorpus
from avsync.errors import CorpusError
from avsync.figures import PALETTE, confidence_along_training, face_strip, landmark_video, new_figure, plain_axes, save_figure
from avsync.landmarks import POSE_PARAMETERS, head_pose, mouth_opening
from avsync.metrics import MAX_OFFSETS, SyncOffset
from avsync.training import crop_offsets

TRUTH = "ground truth"
SYNCHRONY = ("MS-Sync-short", "level 0 only", "no sync loss")
"""Methods of Figure 3."""
FACES = ("MS-Sync-short", "MS-Sync-long", "Audio2Head-style", "Wav2Lip-style")
"""Methods of Figure 4 and of the videos."""
FRAMES = 120
"""Frames of Figure 4."""
SAMPLES = 640
"""Audio samples per frame."""


@dataclass(frozen=True)
class Shown:
    """Clip whose faces are drawn: its name, a batch of one crop, and the waveform of the crop."""

    name: str
    crop: Batch
    waveform: Tensor


def level_zero(bench: Bench, motion: Tensor) -> SyncOffset:
    """Return offset and confidence of every clip at level 0."""
    judge = bench.models["face"]
    crops = bench.crops(motion.shape[1], bench.banks[judge.interface.audio])
    return crop_offsets(judge, replace(crops, landmarks=motion), margin=MARGIN)[0]


def show_synchrony(bench: Bench, folder: Path) -> None:
    """Draw Figure 3 and write its table."""
    crops = bench.crops(80)
    found = {TRUTH: [level_zero(bench, crops.landmarks)]}
    for name in SYNCHRONY:
        seeds = range(bench.seeds)
        found[name] = [level_zero(bench, bench.motion(bench.animator(name, seed), crops, seed)) for seed in seeds]
    figure = new_figure(10.0, 3.4)
    left, right = figure.subplots(1, 2)
    reach = MAX_OFFSETS[0]
    highest = max(float(sync.confidence.max()) for seeds in found.values() for sync in seeds)
    bins = np.linspace(0, highest, 26)
    lines = [
        "| level 0 | offset 0, % | within 1 frame, % | mean of the absolute offset, frames | confidence, mean ± SD |",
        "|---|---|---|---|---|",
    ]
    for number, (name, parts) in enumerate(found.items()):
        offsets = torch.cat([sync.offset_frames for sync in parts]).double()
        confidence = torch.cat([sync.confidence for sync in parts])
        style: dict[str, Any] = {"color": PALETTE[(number - 1) % len(PALETTE)], "linewidth": 1.6, "label": name}
        if name == TRUTH:
            style |= {"color": "#555555", "linestyle": "--"}
        shares = [100 * float((offsets == offset).float().mean()) for offset in range(-reach, reach + 1)]
        left.step(range(-reach, reach + 1), shares, where="mid", **style)
        counts, _ = np.histogram(confidence.numpy(), bins)
        right.stairs(100 * counts / len(confidence), bins, **style)
        absolute = offsets.abs()
        lines.append(
            f"| {name} | {100 * float((absolute == 0).float().mean()):.1f} | {100 * float((absolute <= 1).float().mean()):.1f}"
            f" | {float(absolute.mean()):.2f} | {float(confidence.mean()):.3f} ± {float(confidence.std()):.3f} |"
        )
    left.set(xlabel="offset, frames of 40 ms", ylabel="clips, %", xlim=(-reach - 0.5, reach + 0.5), ylim=(0, None))
    right.set(xlabel="confidence", ylabel="clips, %", xlim=(0, highest), ylim=(0, None))
    right.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    for axes in (left, right):
        plain_axes(axes)
    save_figure(figure, folder / "figure3.png")
    write_lines(folder / "figure3.md", [*lines, "", f"{len(crops)} clips of 80 frames, {bench.seeds} seeds."])


def write_lines(path: Path, lines: Sequence[str]) -> None:
    """Write and print lines of text."""
    text = "\n".join([*lines, ""])
    path.write_text(text, encoding="utf-8")
    print(text, flush=True)


def shown_clips(bench: Bench, source: str, count: int, speakers: Sequence[str] | None) -> list[Shown]:
    """Choose the crop with the most speech of each speaker, and of these the ``count`` with the most.

    Args:
        bench: Corpus and audio features.
        source: "synthetic", or a folder of clips, whose validation clips are shown.
        count: Largest number of clips.
        speakers: Speakers to choose from; None for all.

    Raises:
        CorpusError: No clip of these speakers is long enough.
    """
    clips: Any = SyntheticCorpus(split="val") if source == "synthetic" else Corpus(source, split="val")
    bank = ClipBank(clips, features=SpeechFeatures(kind=bench.preset.features).features)
    crops = bank.windows(FRAMES, stride=FRAMES, margin=MARGIN)
    best: dict[str, int] = {}
    for number in crops.speech_fraction.argsort(descending=True, stable=True).tolist():
        speaker = bank.clip_speakers[int(crops.clip_index[number])]
        if speakers is None or speaker in speakers:
            best.setdefault(speaker, number)
    if not best:
        raise CorpusError(f"expected a clip of {FRAMES} frames of the speakers {speakers} in {source}, got none")
    shown = []
    for number in list(best.values())[:count]:
        crop = crops.select(slice(number, number + 1))
        clip = clips[int(crop.clip_index)]
        begin = SAMPLES * int(crop.start)
        waveform = torch.from_numpy(clip.waveform[begin : begin + SAMPLES * FRAMES])
        shown.append(Shown(f"{clip.id}-{int(crop.start)}", crop, waveform))
    return shown


def head_height(landmarks: Tensor) -> Tensor:
    """Return the vertical shift of the head since the first frame: (clips, frames), in sizes of the head."""
    return head_pose(landmarks, reference="first")[..., POSE_PARAMETERS.index("shift y")]


def show_faces(bench: Bench, folder: Path, shown: Sequence[Shown]) -> None:
    """Draw Figure 4, and write the videos and a table of how closely lips and heads follow the truth."""
    methods = {name: bench.animator(name, seed=0) for name in FACES}
    for each in shown:
        made = {name: bench.motion(animate, each.crop, seed=0)[0] for name, animate in methods.items()}
        sequences = {TRUTH: each.crop.landmarks[0], **made}
        save_figure(face_strip(sequences), folder / f"figure4-{each.name}.png", dpi=110)
        save_figure(motion_figure(sequences), folder / f"motion-{each.name}.png")
        landmark_video(folder / f"faces-{each.name}.mp4", sequences, waveform=each.waveform, size=240)
    crops = bench.crops(FRAMES)
    lines = ["| correlation with the truth over time | lip opening | height of the head |", "|---|---|---|"]
    for name, animate in methods.items():
        motion = bench.motion(animate, crops, seed=0)
        cells = [followed(measure(motion), measure(crops.landmarks)) for measure in (mouth_opening, head_height)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    write_lines(folder / "figure4.md", [*lines, "", f"{len(crops)} clips of {FRAMES} frames, seed 0."])


def followed(made: Tensor, real: Tensor) -> str:
    """Format the mean correlation over time of generated and real values (clips, frames); clips without motion are left out."""
    first, second = (values - values.mean(dim=1, keepdim=True) for values in (made, real))
    moving = first.abs().amax(dim=1) > 1e-4
    return f"{float(cosine_similarity(first, second)[moving].mean()):.2f}" if bool(moving.any()) else "no motion"


def motion_figure(sequences: Mapping[str, Tensor]) -> Any:
    """Draw the opening of the lips and the height of the head over time, from (frames, points, dims) by name."""
    figure = new_figure(9.0, 4.6)
    panels = figure.subplots(2, 1, sharex=True)
    labels = ("lip opening, face heights", "head moved down, head sizes")
    for axes, measure, label in zip(panels, (mouth_opening, head_height), labels, strict=True):
        for number, (name, landmarks) in enumerate(sequences.items()):
            values = measure(landmarks[None])[0]
            # The colours of the faces.
            color, width = PALETTE[number % len(PALETTE)], 2.2 if name == TRUTH else 1.2
            axes.plot(np.arange(len(values)) / 25, values, label=name, color=color, linewidth=width)
        axes.set_ylabel(label, fontsize=9)
        plain_axes(axes)
    panels[0].legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    panels[-1].set_xlabel("time, s")
    return figure


def training_history(bench: Bench, name: str, seed: int) -> list[list[tuple[int, float]]]:
    """Return (step, confidence) during a run, per level; a finished run that nobody watched is trained again."""
    folder = method_folder(bench.out, name, seed)
    if not (folder / "history.json").is_file():
        folder = folder / "again"  # the finished run stays as it is
        if not (folder / "history.json").is_file():
            bench.animator(name, seed, folder)
    found = json.loads((folder / "history.json").read_text(encoding="utf-8"))
    return [[(int(step), float(value)) for step, value in found[f"confidence{level}"]] for level in range(4)]


def show_training(bench: Bench, folder: Path) -> None:
    """Draw Figure 5."""
    means: dict[str, list[list[tuple[int, float]]]] = {}
    ranges: dict[str, list[tuple[list[int], list[float], list[float]]]] = {}
    for name in CURVES:
        seeds = [training_history(bench, name, seed) for seed in range(bench.seeds)]
        for level in range(4):
            steps = [step for step, _ in seeds[0][level]]
            values = np.array([[value for _, value in run[level]] for run in seeds])
            means.setdefault(name, []).append(list(zip(steps, values.mean(axis=0).tolist(), strict=True)))
            ranges.setdefault(name, []).append((steps, values.min(axis=0).tolist(), values.max(axis=0).tolist()))
    real = crop_offsets(bench.watching, watched_clips(bench.material), margin=bench.preset.evaluated_margin)
    truth = [float(level.confidence.mean()) for level in real]
    figure = confidence_along_training(means, ylabel="confidence of the whole face", truth=truth)
    for level, axes in enumerate(figure.axes):
        for number, name in enumerate(CURVES):
            axes.fill_between(*ranges[name][level], color=PALETTE[number], alpha=0.15, linewidth=0)
    save_figure(figure, folder / "figure5.png")


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--figures", nargs="+", type=int, choices=(3, 4, 5), default=(3, 4, 5), help="figures (default: all)")
    parser.add_argument("--shown", help="'synthetic' or a folder: clips of figure 4 and of the videos (default: the corpus)")
    parser.add_argument("--speakers", nargs="+", help="speakers to show (default: those with the most speech in a clip)")
    parser.add_argument("--clips", type=int, default=2, help="number of clips shown, each of another speaker (default: 2)")
    args = parser.parse_args(arguments)
    folder: Path = args.out / "figures"
    try:
        bench = Bench(args)
        rows = {3: SYNCHRONY, 4: FACES, 5: CURVES}
        for name in dict.fromkeys(name for number in args.figures for name in rows[number]):
            bench.results(name)
        folder.mkdir(parents=True, exist_ok=True)
        if 3 in args.figures:
            show_synchrony(bench, folder)
        if 4 in args.figures:
            source = args.shown or args.evaluation_corpus or args.corpus
            show_faces(bench, folder, shown_clips(bench, source, args.clips, args.speakers))
        if 5 in args.figures:
            show_training(bench, folder)
    except AvsyncError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
