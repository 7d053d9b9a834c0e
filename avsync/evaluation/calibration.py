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
from avsync.metrics.multi_scale import MAX_OFFSETS
from avsync.metrics.offset import mean_over_windows, offset_from_distances, window_distances
from avsync.metrics.posterior import offset_posterior
from avsync.metrics.report import LEAST_SPEECH
from avsync.models.syncer.interface import MultiScaleSyncer, unit_norm

_KINDS = ("own", "moved", "other", "reversed", "far", "still")
"""Motion with its own audio, with its own audio moved within the search of the coarsest level, with the audio of another
speaker, with reversed audio, and with audio of the same clip from beyond every search; and a still face with audio."""
_CHUNK = 64


@dataclass(frozen=True)
class CalibrationTest:
    """Calibration fitted on all speakers, and its two-fold cross-validation over halves of the speakers.

    Crops are cut as ``avsync offset`` sees a recording: without audio around them, so that the mean distances near the ends of
    the search are over fewer windows.

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
    far: Tensor
    """True for crops that have audio from beyond every search, (crops,)."""
    moved: Tensor
    """True offset of the moved audio in frames, (crops,)."""
    windows: list[Tensor]
    """Number of windows at each offset, (offsets,) for each level."""
    distances: dict[str, list[Tensor]]

    def within(self, level: int) -> Tensor:
        """Return which moved offsets lie inside the search of a level, away from its ends."""
        return self.moved.abs() <= (MAX_OFFSETS[level] - 1) * 2**level

    def beyond(self, level: int) -> Tensor:
        """Return which moved offsets are more than a frame of the level beyond its search."""
        return self.moved.abs() > (MAX_OFFSETS[level] + 1) * 2**level

    def true_offset(self, level: int) -> Tensor:
        """Return the moved offsets in whole frames of a level."""
        return (self.moved / 2**level).round().long()


@torch.no_grad()
def calibrate(
    syncers: MultiScaleSyncer,
    bank: ClipBank,
    *,
    lengths: Sequence[int] = (50, 80, 160, 250),
    stride: int = 20,
    progress: Callable[[str], None] | None = None,
) -> CalibrationTest:
    """Fit a calibration, and cross-validate it: fit on one half of the speakers, test on the other half, and the reverse.

    The crops have no audio around them, as the recordings of ``avsync offset``. Matched are crops with their own audio, in sync
    and moved within the search of a level. Mismatched are crops with the audio of another speaker, with reversed audio, and
    with their own audio from beyond the search.

    Args:
        syncers: Trained syncers.
        bank: Clips of unseen speakers, with the features of ``syncers``.
        lengths: Lengths of the crops in frames; several lengths show how evidence grows with length.
        stride: Distance between the starts of consecutive crops, in frames.
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
        found.append(_measured(syncers, bank.windows(frames, stride=stride, margin=search_margin(syncers)), speaker_of))
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


def search_margin(syncers: MultiScaleSyncer) -> int:
    """Return the largest offset that any level searches, in frames at level 0."""
    return max(most * 2**level for level, most in enumerate(MAX_OFFSETS[: syncers.num_levels]))


def _measured(syncers: MultiScaleSyncer, crops: Batch, speaker_of: Tensor) -> _Measured:
    """Measure crops, whose audio extends by :func:`search_margin` on both sides."""
    frames, reach = crops.landmarks.shape[1], search_margin(syncers)
    stride = crops.audio.shape[1] // (frames + 2 * reach)
    speaker = speaker_of[crops.clip_index]
    generator = torch.Generator().manual_seed(frames)
    other = torch.multinomial((speaker[:, None] != speaker[None]).double(), 1, generator=generator).squeeze(1)
    moved = torch.randint(-reach, reach + 1, speaker.shape, generator=generator)
    away = (crops.start[:, None] - crops.start[None]).abs() > reach + 2 ** (syncers.num_levels - 1)
    away = away & (crops.clip_index[:, None] == crops.clip_index[None])
    far = away.any(1)
    apart = torch.multinomial((away | ~far[:, None]).double(), 1, generator=generator).squeeze(1)

    def cut(offset: Tensor) -> Tensor:
        """Return the audio of each crop, early by an offset in frames."""
        rows = stride * (reach + offset)[:, None] + torch.arange(stride * frames)
        return crops.audio.gather(1, rows[..., None].expand(-1, -1, crops.audio.shape[2]))

    own = cut(torch.zeros_like(moved))
    motion = _embedded(syncers.embed_motion, crops.landmarks, syncers.num_levels)
    still = _embedded(syncers.embed_motion, crops.landmarks[:, :1].expand_as(crops.landmarks), syncers.num_levels)
    heard, heard_moved, heard_reversed = (
        _embedded(syncers.embed_audio, audio, syncers.num_levels) for audio in (own, cut(moved), own.flip(1))
    )
    shown = {
        "own": (motion, heard),
        "moved": (motion, heard_moved),
        "other": (motion, [level[other] for level in heard]),
        "reversed": (motion, heard_reversed),
        "far": (motion, [level[apart] for level in heard]),
        "still": (still, heard),
    }
    distances: dict[str, list[Tensor]] = {}
    windows: list[Tensor] = []
    for kind in _KINDS:
        distances[kind], windows = _curves(*shown[kind])
    return _Measured(frames, speaker, crops.speech_fraction >= LEAST_SPEECH, far, moved, windows, distances)


def _embedded(embed: Callable[..., list[Tensor]], values: Tensor, levels: int) -> list[Tensor]:
    """Compute unit embeddings of all crops, (crops, windows, embed) for each level."""
    parts = [embed(some, levels=range(levels)) for some in values.split(_CHUNK)]
    return [unit_norm(torch.cat(level)) for level in zip(*parts, strict=True)]


def _curves(motion: Sequence[Tensor], audio: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Compute distances at all offsets, (crops, offsets) for each level, and the numbers of windows, (offsets,)."""
    curves, windows = [], []
    for level, (moving, heard) in enumerate(zip(motion, audio, strict=True)):
        distances, weights = window_distances(moving, heard, max_offset=MAX_OFFSETS[level])
        curves.append(mean_over_windows(distances, weights))
        count = distances.shape[1]
        windows.append(distances.new_full(curves[-1].shape[1:], count) if weights is None else weights[0].sum(0))
    return curves, windows


def _fitted(found: Sequence[_Measured], keep: Sequence[Tensor]) -> Calibration:
    """Fit the calibration on the selected crops of each length; crops without speech carry no information about offsets."""
    matched: list[list[Tensor]] = []
    mismatched: list[list[Tensor]] = []
    offsets: list[list[Tensor]] = []
    for entry, mask in zip(found, keep, strict=True):
        chosen = mask & entry.speech
        levels = range(len(entry.windows))
        inside, outside = ([chosen & of(level) for level in levels] for of in (entry.within, entry.beyond))
        curves = entry.distances
        matched.append([torch.cat([curves["own"][i][chosen], curves["moved"][i][inside[i]]]) for i in levels])
        in_sync = torch.zeros(int(chosen.sum()), dtype=torch.long)
        offsets.append([torch.cat([in_sync, entry.true_offset(i)[inside[i]]]) for i in levels])
        masks = {"other": chosen, "reversed": chosen, "far": chosen & entry.far}
        mismatched.append(
            [torch.cat([*(curves[kind][i][of] for kind, of in masks.items()), curves["moved"][i][outside[i]]]) for i in levels]
        )
    return fit_calibration(matched, mismatched, [entry.windows for entry in found], offsets=offsets)


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
                    posterior = offset_posterior(distances[rest], count[None], calibration=numbers, prior=prior)
                    probability[rest] = posterior.probability
                results.append(
                    {"frames": entry.frames, "level": level, "kind": kind, "probability": probability}
                    | {"right": _right(entry, kind, level), "counts": _counted(entry, kind, level), "speech": entry.speech}
                )
    return results


def _right(entry: _Measured, kind: str, level: int) -> Tensor:
    """Return which crops have the right offset within one frame of the level; none where no right offset exists."""
    found = offset_from_distances(entry.distances[kind][level])
    if kind == "moved":
        return ((found.offset_frames - entry.true_offset(level)).abs() <= 1) & (found.confidence > 0)
    return found.within(1) if kind == "own" else torch.zeros_like(entry.speech)


def _counted(entry: _Measured, kind: str, level: int) -> Tensor:
    """Return which crops of a kind count at a level."""
    if kind == "moved":
        return entry.within(level)
    return entry.far if kind == "far" else torch.ones_like(entry.speech)


def _rows(results: Sequence[dict[str, Any]], level: int) -> list[dict[str, Any]]:
    """Count the crops of a level that have an answer, and the correct answers, by length and kind."""
    rows: list[dict[str, Any]] = []
    for result in (result for result in results if result["level"] == level):
        for speech, name in ((True, result["kind"]), (False, "own, hardly any speech")):
            if not speech and result["kind"] != "own":
                continue
            mask = (result["speech"] == speech) & result["counts"]
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
