"""Figures and a landmark video of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from evaluation import Row
from pipeline import Material
from presets import Preset
from torch import Tensor

from avsync.figures import (
    confidence_by_level,
    face_strip,
    landmark_video,
    mask_figure,
    offset_histogram,
    save_figure,
    training_curves,
)
from avsync.metrics import MAX_OFFSETS
from avsync.models import MultiScaleGenerator, MultiScaleSyncer
from avsync.training import History, crop_offsets


def write_figures(
    folder: Path,
    material: Material,
    preset: Preset,
    histories: Mapping[str, History],
    rows: Sequence[Row],
    syncers: MultiScaleSyncer,
    generator: MultiScaleGenerator,
    made: Tensor,
) -> None:
    """Write all figures of a run; those of a stage that was loaded instead of trained stay as they are."""
    for name, history in histories.items():
        _training_figures(folder, name, history)
    offsets = [level.known().cpu() for level in crop_offsets(syncers, material.crops, margin=preset.evaluated_margin)]
    save_figure(offset_histogram(offsets, search=MAX_OFFSETS[: len(offsets)]), folder / "offsets.png")
    intervals = {
        row.name: [(c, c - e, c + e) for c, e in zip(row.confidence, row.confidence_error, strict=True)] for row in rows
    }
    save_figure(confidence_by_level(intervals, bounds=("static", "shuffled")), folder / "confidence.png")
    chosen = sample_index(material)
    truth = material.crops.landmarks[chosen].cpu()
    save_figure(face_strip({"ground truth": truth, "generated": made[chosen].cpu()}), folder / "faces.png")
    if generator.config.num_branches > 1:
        margin = 4 * preset.evaluated_margin
        with torch.no_grad():
            output = generator.generate(
                material.crops.landmarks[:32, 0], material.crops.audio[:32, margin:-margin], return_masks=True
            )
        assert output.masks is not None
        save_figure(mask_figure(output.masks.mean(dim=(0, 1)).cpu()), folder / "masks.png")


def _training_figures(folder: Path, name: str, history: History) -> None:
    losses = {key: points for key, points in history.items() if key.startswith("loss") and key != "loss"}
    accuracies = {key: points for key, points in history.items() if key.startswith("acc")}
    confidences = {key: points for key, points in history.items() if key.startswith("confidence")}
    other = {key for key in history if key in ("loss", "chance") or key.startswith("grad")}
    drawn = losses | accuracies | confidences | dict.fromkeys(other)
    rest = {key: points for key, points in history.items() if key not in drawn}
    if losses:
        figure = training_curves(losses, chance=1.0, ylabel="loss / chance level", title=f"{name}: training loss")
        save_figure(figure, folder / f"{name}-loss.png")
    if accuracies:
        figure = training_curves(accuracies, ylabel="share within one frame", title=f"{name}: offsets of unseen speakers")
        save_figure(figure, folder / f"{name}-accuracy.png")
    if confidences:
        figure = training_curves(confidences, ylabel="AV confidence", title=f"{name}: confidence during training")
        save_figure(figure, folder / f"{name}-confidence.png")
    if rest and not losses:  # a generator's; the other values that syncers log have other units
        save_figure(training_curves(rest, ylabel="loss", title=f"{name}: training losses"), folder / f"{name}-loss.png")


def sample_index(material: Material) -> int:
    """Return the index of the validation clip with the most speech; the first in a tie."""
    return int(material.crops.speech_fraction.argmax())


def write_sample(path: Path, material: Material, preset: Preset, made: Tensor) -> None:
    """Write a video of one unseen speaker's clip: ground truth and generated motion, with audio."""
    chosen = sample_index(material)
    crop = material.crops.select(slice(chosen, chosen + 1))
    bank = material.val
    clip = next(clip for clip in material.val_clips if clip.id == bank.ids[int(crop.clip_index)])
    start = 640 * int(crop.start)
    waveform = torch.from_numpy(clip.waveform[start : start + 640 * preset.evaluated_frames])
    faces = {"ground truth": crop.landmarks[0].cpu(), "generated": made[chosen].cpu()}
    landmark_video(path, faces, waveform=waveform)
