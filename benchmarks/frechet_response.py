"""Response of the distances to damage: real clips against copies with jitter, warped time, frozen heads or less motion.

    python -m benchmarks.frechet_response --corpus CORPUS [--split val] [--figure response.png]

Every distance of :mod:`avsync.metrics` is computed on clips of 80 frames at increasing levels of damage. FID, FVD and t-FID
need weights that avsync cannot distribute; ``--inception`` and ``--i3d`` load the weights from files. Without a file a small
network with fixed random weights is used instead, and the table reports the replacement.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avsync._files import write_json
from avsync.corpus.clip import SAMPLES_PER_FRAME, Corpus
from avsync.figures import save_figure
from avsync.figures._style import MARKERS, PALETTE, new_figure, plain_axes
from avsync.landmarks.geometry import face_height
from avsync.metrics.beat_align import beat_align
from avsync.metrics.distance import landmark_distance, landmark_error, mouth_opening_correlation, velocity_error
from avsync.metrics.feature_nets import FrameFeatures, SequenceFeatures, TrailFeatures, load_i3d
from avsync.metrics.frechet import GaussianStatistics, extract_statistics, frechet_distance, load_motion_autoencoder
from avsync.metrics.inception import load_inception
from benchmarks import _harness

FRAMES = 80
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
JITTER = 0.02  # face heights, standard deviation at level 1
WARP = 10.0  # frames by which the middle of a clip's halves is early or late at level 1
RIGID = (27, 28, 29, 30, 33, 36, 39, 42, 45)  # points that speech does not move


class RandomPictures(nn.Module):
    """Fixed random filters over images (..., 3, size, size): one vector per image, or one per sequence of them."""

    def __init__(self, *, sequences: bool = False) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.sequences = sequences
        self.num_features = 64
        self.register_buffer("space", torch.randn(32, 3, 5, 5, generator=rng))
        self.register_buffer("mix", torch.randn(64, 128, generator=rng) / 128**0.5)
        self.register_buffer("time", torch.randn(64, 64, 5, generator=rng) / 320**0.5)

    def forward(self, pictures: Tensor) -> Tensor:
        seen = torch.relu(nn.functional.conv2d(pictures.flatten(0, -4), self.get_buffer("space"), stride=4))
        features = nn.functional.adaptive_avg_pool2d(seen, 2).flatten(1) @ self.get_buffer("mix").mT
        if not self.sequences:
            return features
        in_time = features.unflatten(0, pictures.shape[:2]).transpose(1, 2)
        return torch.relu(nn.functional.conv1d(in_time, self.get_buffer("time"))).mean(dim=2)


def jitter(clips: Tensor, level: float, rng: torch.Generator) -> Tensor:
    """Add independent jitter to every point, as from a noisy detector."""
    noise = torch.randn(clips.shape, generator=rng)
    return clips + level * JITTER * face_height(clips)[:, None, None, None] * noise


def time_warp(clips: Tensor, level: float, rng: torch.Generator) -> Tensor:
    """Play one half of a clip faster and the other half slower; the first and last frames stay."""
    times = torch.arange(clips.shape[1], dtype=torch.float32)
    sign = torch.randint(0, 2, (clips.shape[0], 1), generator=rng) * 2 - 1
    last = clips.shape[1] - 1
    warped = (times + sign * level * WARP * torch.sin(2 * math.pi * times / last)).clamp(0, last)
    low = warped.floor().long().clamp_max(last - 1)
    share = (warped - low)[..., None, None]
    row = torch.arange(clips.shape[0])[:, None]
    return clips[row, low] * (1 - share) + clips[row, low + 1] * share


def frozen_head(clips: Tensor, level: float, rng: torch.Generator) -> Tensor:  # noqa: ARG001 - one signature for all
    """Remove translation, in-plane rotation and scaling of the head by the share ``level``; lips and brows still move."""
    rigid = clips[:, :, RIGID]
    middle = rigid.mean(dim=2, keepdim=True)
    moved, first = (torch.view_as_complex((x - m).contiguous()) for x, m in ((rigid, middle), (rigid[:, :1], middle[:, :1])))
    turn = (moved.conj() * first).sum(2) / moved.abs().square().sum(2)
    faces = torch.view_as_complex((clips - middle).contiguous()) * turn[..., None]
    still = torch.view_as_real(faces) + middle[:, :1]
    return (1 - level) * clips + level * still


def less_motion(clips: Tensor, level: float, rng: torch.Generator) -> Tensor:  # noqa: ARG001
    """Shrink all displacement from the first face; at level 1 nothing moves."""
    return clips[:, :1] + (1 - level) * (clips - clips[:, :1])


DAMAGES: dict[str, Callable[[Tensor, float, torch.Generator], Tensor]] = {
    "jitter": jitter,
    "time warp": time_warp,
    "frozen head": frozen_head,
    "less motion": less_motion,
}


def read_clips(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Read consecutive clips of 80 frames with their audio."""
    landmarks, waveforms = [], []
    for clip in Corpus(folder, split=split):
        for start in range(0, clip.frames - FRAMES + 1, FRAMES):
            landmarks.append(torch.from_numpy(clip.landmarks[start : start + FRAMES, :, :2]))
            waveforms.append(torch.from_numpy(clip.waveform[start * SAMPLES_PER_FRAME : (start + FRAMES) * SAMPLES_PER_FRAME]))
    return torch.stack(landmarks), torch.stack(waveforms)


def measures(options: argparse.Namespace) -> dict[str, Callable[[Tensor, Tensor, Tensor], float]]:
    """Return all distances by name: functions of (preds, target, waveform) that rise with damage, or fall if so named."""
    drawing: dict[str, Any] = {"size": options.size, "view": 2.0}
    pictures: nn.Module = load_inception(options.inception) if options.inception else RandomPictures()
    videos: nn.Module = load_i3d(options.i3d) if options.i3d else RandomPictures(sequences=True)
    motion = load_motion_autoencoder()
    by = "Inception" if options.inception else "random net"
    by_video = "I3D" if options.i3d else "random net"

    def beats(direction: int) -> Callable[[Tensor, Tensor, Tensor], float]:
        return lambda preds, _, waveform: float(beat_align(preds, waveform)[direction].nanmean())

    def frechet(extractor: nn.Module, cut: slice) -> Callable[[Tensor, Tensor, Tensor], float]:
        """Compute the distances of the same names, with the statistics of the target kept from one call to the next."""
        kept: dict[int, GaussianStatistics] = {}

        def measure(preds: Tensor, target: Tensor, _: Tensor) -> float:
            key = target.data_ptr()
            if key not in kept:
                kept[key] = extract_statistics(extractor, target[:, cut])
            return float(frechet_distance(extract_statistics(extractor, preds[:, cut]), kept[key]))

        return measure

    every, last = slice(None), slice(-40, None)
    return {
        "LMD (face heights)": lambda p, t, _: float(landmark_distance(p, t, unit="face")),
        "LMD-f (face heights)": lambda p, t, _: float(landmark_distance(p, t, unit="face", frontal=True)),
        "landmark error (face heights)": lambda p, t, _: float(landmark_error(p, t, unit="face")),
        "velocity error (face heights per frame)": lambda p, t, _: float(velocity_error(p, t, unit="face")),
        "mouth correlation (falls)": lambda p, t, _: float(mouth_opening_correlation(p, t)),
        "Frechet motion distance, 80 frames": frechet(motion, every),
        "Frechet motion distance, 40 frames": frechet(motion, last),
        f"FID ({by})": frechet(FrameFeatures(pictures, **drawing), slice(None, None, 8)),
        f"FVD-40 ({by_video})": frechet(SequenceFeatures(videos, **drawing), last),
        f"FVD-80 ({by_video})": frechet(SequenceFeatures(videos, **drawing), every),
        f"t-FID-80 ({by})": frechet(TrailFeatures(pictures, **drawing), every),
        "Beat Align, motion to audio": beats(0),
        "Beat Align, audio to motion": beats(1),
    }


def response(options: argparse.Namespace) -> dict[str, Any]:
    """Compute every distance at every level of every damage, for reversed time, and for other real clips."""
    clips, waveforms = read_clips(options.corpus, options.split)
    found: dict[str, dict[str, list[float]]] = {}
    extra: dict[str, dict[str, float]] = {}
    halves = clips[::2][: clips.shape[0] // 2], clips[1::2]
    for name, measure in measures(options).items():
        found[name] = {
            damage: [measure(damaged(clips, level, torch.Generator().manual_seed(1)), clips, waveforms) for level in LEVELS]
            for damage, damaged in DAMAGES.items()
        }
        extra[name] = {"time reversed": measure(clips.flip(1), clips, waveforms)}
        if name.startswith(("Frechet", "F", "t-")):
            extra[name]["one half against the other"] = measure(halves[0], halves[1], waveforms)
        print(name, flush=True)
        for damage, values in found[name].items():
            print(f"  {damage:<12}", "  ".join(f"{value:9.4g}" for value in values), verdict(name, values), flush=True)
        for what, value in extra[name].items():
            print(f"  {what}: {value:.4g}", flush=True)
    return {"clips": clips.shape[0], "levels": LEVELS, "response": found, "extra": extra}


def verdict(name: str, values: list[float]) -> str:
    """Return whether values change in the right direction at every step."""
    if name.startswith("Beat"):
        return ""
    steps = [after - before for before, after in itertools.pairwise(values)]
    right = all(step < 0 or math.isnan(step) for step in steps) if "falls" in name else all(step > 0 for step in steps)
    return "monotone" if right else "NOT monotone"


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw one panel per distance and one curve per damage, as shares of the largest value."""
    shown = {name: curves for name, curves in result["response"].items() if not name.startswith(("Beat", "mouth"))}
    columns = 4
    figure = new_figure(3.2 * columns, 2.6 * math.ceil(len(shown) / columns))
    panels = figure.subplots(math.ceil(len(shown) / columns), columns, squeeze=False).flatten()
    for panel, (name, curves) in zip(panels, shown.items(), strict=False):
        for index, (damage, values) in enumerate(curves.items()):
            panel.plot(result["levels"], values, color=PALETTE[index], marker=MARKERS[index], markersize=4, label=damage)
        panel.set_title(name, fontsize=9)
        panel.set_yscale("symlog", linthresh=max(min(value for value in values[1:] if value > 0) for values in curves.values()))
        plain_axes(panel)
    for panel in panels[len(shown) :]:
        panel.set_visible(False)
    panels[0].legend(frameon=False, fontsize=8)
    figure.supxlabel("strength of the damage", fontsize=9)
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder of a corpus")
    parser.add_argument("--split", default="val", help="which of its clips")
    parser.add_argument("--size", type=int, default=48, help="side of the drawn images in pixels (the paper: 224)")
    parser.add_argument("--inception", type=Path, help="torch-fidelity's weights of Inception-v3")
    parser.add_argument("--i3d", type=Path, help="i3d_torchscript.pt")
    parser.add_argument("--figure", type=Path, help="also draw the curves into this file")
    parser.add_argument("--out", type=Path, default=_harness.RESULTS, help="folder for the JSON file")
    options = parser.parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # halves of a small split may have fewer clips than features
        result = response(options)
    result = {"name": "frechet_response", "metadata": _harness.run_metadata(), **result}
    # JSON has no NaN: missing values (such as the correlation of a still mouth) are null.
    write_json(options.out / "frechet_response.json", json.loads(json.dumps(result), parse_constant=lambda _: None))
    if options.figure:
        draw(result, options.figure)


if __name__ == "__main__":
    main()
