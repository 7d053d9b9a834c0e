"""Calibration of syncers, fitted and cross-validated on unseen speakers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from avsync.corpus.banks.bank import Batch, ClipBank
from avsync.errors import ArgumentError
from avsync.metrics.calibration import Calibration
from avsync.metrics.calibration_fit import fit_calibration
from avsync.metrics.multi_scale import MAX_OFFSETS, multi_scale_embeddings
from avsync.metrics.offset import offset_distances, offset_from_distances
from avsync.metrics.posterior import offset_posterior
from avsync.metrics.report import LEAST_SPEECH
from avsync.models.syncer.interface import MultiScaleSyncer

_KINDS = ("own", "other", "still")
"""Motion with its own audio, motion with the audio of another speaker, and a still face with audio."""
_CHUNK = 64


@dataclass(frozen=True)
class CalibrationTest:
    """Calibration fitted on all speakers, and its two-fold cross-validation over halves of the speakers.

    Attributes:
        calibration: Fitted on all speakers.
        mixed: For every level, stated probabilities and whether the offset was right, each (crops,): half of the crops with the
            audio of another speaker, prior 1/2.
        own: The same for crops with their own audio only, prior 1.
        rows: Table by level, length and kind: number of crops with an answer, and number of correct answers.
    """

    calibration: Calibration
    mixed: tuple[tuple[Tensor, Tensor], ...]
    own: tuple[tuple[Tensor, Tensor], ...]
    rows: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class _Measured:
    """Distances of all crops of one length, by kind and level."""

    frames: int
    speaker: Tensor
    speech: Tensor
    windows: list[int]
    distances: dict[str, list[Tensor]]


@torch.no_grad()
def calibrate(
    syncers: MultiScaleSyncer,
    bank: ClipBank,
    *,
    lengths: Sequence[int] = (40, 80, 160),
    stride: int = 20,
    margin: int = 40,
    progress: Callable[[str], None] | None = None,
) -> CalibrationTest:
    """Fit a calibration, and cross-validate it: fit on one half of the speakers, test on the other half, and the reverse.

    Args:
        syncers: Trained syncers.
        bank: Clips of unseen speakers, with the features of ``syncers``.
        lengths: Lengths of the crops in frames; several lengths show how evidence grows with length.
        stride: Distance between the starts of consecutive crops, in frames.
        margin: Audio on each side of a crop, in frames.
        progress: Called with a line of text after each length.

    Returns:
        :class:`CalibrationTest`.

    Raises:
        ArgumentError: ``syncers`` have more levels than there are search ranges, or there are fewer than four
            speakers, or no crop with speech of some length in one half of them.

    Source: ours.
    """
    if syncers.num_levels > len(MAX_OFFSETS):
        raise ArgumentError(
            f"`syncers`: expected at most {len(MAX_OFFSETS)} levels, because there are search ranges for so many, got "
            f"{syncers.num_levels}"
        )
    names = {name: number for number, name in enumerate(bank.speakers)}
    if len(names) < 4:
        raise ArgumentError(f"`bank`: expected clips of at least 4 speakers, got {len(names)}")
    speaker_of = torch.tensor([names[name] for name in bank.clip_speakers])
    found = []
    for frames in lengths:
        found.append(_measured(syncers, bank.windows(frames, stride=stride, margin=margin), speaker_of, frames, margin))
        if progress is not None:
            crops, speakers = found[-1].speaker.numel(), found[-1].speaker.unique().numel()
            progress(f"{frames} frames: {crops} crops of {speakers} speakers")
    levels = range(syncers.num_levels)
    halves, trusting = _crosswise(found, 0.5), _crosswise(found, 1.0)
    return CalibrationTest(
        calibration=_fitted(found, [torch.ones_like(entry.speech) for entry in found]),
        mixed=tuple(_together(halves, level, ("own", "other")) for level in levels),
        own=tuple(_together(trusting, level, ("own",)) for level in levels),
        rows=tuple(row for level in levels for row in _rows(halves, level)),
    )


def _measured(syncers: MultiScaleSyncer, crops: Batch, speaker_of: Tensor, frames: int, margin: int) -> _Measured:
    speaker = speaker_of[crops.clip_index]
    generator = torch.Generator().manual_seed(frames)
    other = torch.multinomial((speaker[:, None] != speaker[None]).double(), 1, generator=generator).squeeze(1)
    still = crops.landmarks[:, :1].expand_as(crops.landmarks)
    shown = {
        "own": (crops.landmarks, crops.audio),
        "other": (crops.landmarks, crops.audio[other]),
        "still": (still, crops.audio),
    }
    distances, windows = {}, [0]
    for kind in _KINDS:
        distances[kind], windows = _curves(syncers, *shown[kind], margin)
    return _Measured(frames, speaker, crops.speech_fraction >= LEAST_SPEECH, windows, distances)


def _curves(syncers: MultiScaleSyncer, landmarks: Tensor, audio: Tensor, margin: int) -> tuple[list[Tensor], list[int]]:
    """Compute distances at all offsets, (crops, offsets) for each level, and the number of windows averaged."""
    parts, windows = [], []
    for start in range(0, landmarks.shape[0], _CHUNK):
        some = slice(start, start + _CHUNK)
        embedded = multi_scale_embeddings(syncers, landmarks[some], audio[some], margin=margin)
        windows = [level.motion.shape[1] for level in embedded]
        parts.append(
            [offset_distances(**level._asdict(), max_offset=most) for level, most in zip(embedded, MAX_OFFSETS, strict=False)]
        )
    return [torch.cat(level) for level in zip(*parts, strict=True)], windows


def _fitted(found: Sequence[_Measured], keep: Sequence[Tensor]) -> Calibration:
    """Fit the calibration on the selected crops of each length; crops without speech carry no information about offsets."""
    chosen = [mask & entry.speech for entry, mask in zip(found, keep, strict=True)]
    matched, mismatched = (
        [[curve[mask] for curve in entry.distances[kind]] for entry, mask in zip(found, chosen, strict=True)]
        for kind in ("own", "other")
    )
    return fit_calibration(matched, mismatched, [entry.windows for entry in found])


def _crosswise(found: Sequence[_Measured], prior: float) -> list[dict[str, Any]]:
    """Compute the probability of each crop with the calibration of the other half; one entry per length, level and kind."""
    results: list[dict[str, Any]] = []
    halves = [[entry.speaker % 2 == half for entry in found] for half in (0, 1)]
    calibrations = [_fitted(found, keep) for keep in halves]
    for index, entry in enumerate(found):
        for level, count in enumerate(entry.windows):
            for kind in _KINDS:
                distances = entry.distances[kind][level]
                probability = torch.zeros(distances.shape[0])
                for half in (0, 1):
                    rest = halves[1 - half][index]
                    numbers = calibrations[half].levels[level]
                    probability[rest] = offset_posterior(distances[rest], count, calibration=numbers, prior=prior).probability
                right = offset_from_distances(distances).within(1)
                right = right if kind == "own" else torch.zeros_like(right)  # no correct offset exists
                results.append(
                    {"frames": entry.frames, "level": level, "kind": kind, "probability": probability, "right": right}
                    | {"speech": entry.speech}
                )
    return results


def _rows(results: Sequence[dict[str, Any]], level: int) -> list[dict[str, Any]]:
    """Count the crops of a level that have an answer, and the correct answers, by length and kind."""
    rows: list[dict[str, Any]] = []
    for result in (result for result in results if result["level"] == level):
        for speech, name in ((True, result["kind"]), (False, "own, hardly any speech")):
            if not speech and result["kind"] != "own":
                continue
            mask = result["speech"] == speech
            probability, right = result["probability"][mask], result["right"][mask].double()
            answered = probability >= 0.5
            rows.append(
                {
                    "level": level,
                    "frames": result["frames"],
                    "kind": name,
                    "crops": int(mask.sum()),
                    "answered": _mean(answered.double()),
                    "right among answered": _mean(right[answered]),
                    "right among the rest": _mean(right[~answered]),
                    "right": _mean(right),
                    "mean probability": _mean(probability),
                }
            )
    return rows


def _mean(values: Tensor) -> float | None:
    return float(values.mean()) if values.numel() else None


def _together(results: Sequence[dict[str, Any]], level: int, kinds: Sequence[str]) -> tuple[Tensor, Tensor]:
    chosen = [result for result in results if result["level"] == level and result["kind"] in kinds]
    return torch.cat([result["probability"] for result in chosen]), torch.cat([result["right"] for result in chosen])
