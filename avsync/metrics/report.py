"""Report of all sync metrics for clips, level by level: printed by the command line, averaged by evaluations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from avsync._checks import check_frame_mask, check_positive, check_shape, checked
from avsync.errors import ArgumentError, ShapeError
from avsync.landmarks.geometry import displacement
from avsync.metrics.calibration import Calibration, check_calibrated
from avsync.metrics.multi_scale import MAX_OFFSETS, check_max_offsets, multi_scale_embeddings
from avsync.metrics.offset import (
    SyncOffset,
    at_edge,
    known_offset,
    mean_over_windows,
    offset_from_distances,
    offset_milliseconds,
    window_distances,
)
from avsync.metrics.posterior import OffsetPosterior, offset_posterior
from avsync.models.syncer.interface import MultiScaleSyncer
from avsync.pyramid import check_lengths, level_fps

ANSWERS = ("offset", "unsure", "edge", "silent", "still", "nothing")
"""Answers for a clip at a level. "offset": the offset is determined. "unsure": the probability is too small. "edge": the best
offset lies at the edge of the search. "silent": too little speech. "still": too little motion. "nothing": no valid window, or
NaN in one."""
LEAST_SPEECH = 0.2
"""Share of frames that must hold speech; see ``avsync.corpus.speech.speech_mask``."""
LEAST_SPEED = 0.02
"""Mean speed of the points, in face heights per second, below which a face is still; real clips start at 0.07."""


class LevelSync(NamedTuple):
    """Report of clips at one level; lists and tensors hold one entry per clip."""

    level: int
    """The level, 0 the finest."""
    frame_ms: float
    """Duration of a frame of the level in milliseconds."""
    sync: SyncOffset
    """Offset (frames of the level, positive: the audio is early), confidence, distances and rank by SyncNet's protocol."""
    offset_ms: Tensor
    """The whole-frame offset in milliseconds, (batch,)."""
    windows: Tensor
    """Number of valid motion windows, (batch,) int64."""
    posterior: OffsetPosterior | None
    """Sub-frame estimate and calibrated probabilities; None without a calibration."""
    answers: tuple[str, ...]
    """One of ``ANSWERS`` per clip; see :func:`level_answers`."""
    fps: float = 25.0
    """Frames per second of the landmarks as they were given."""

    @property
    def input_frames(self) -> Tensor:
        """The whole-frame offset in frames of the landmarks as they were given, (batch,); a fraction if the rates differ."""
        return self.offset_ms * (self.fps / 1000)


@checked
def face_speed(
    landmarks: Tensor, *, fps: float = 25.0, lengths: Tensor | None = None, frame_mask: Tensor | None = None
) -> Tensor:
    """Compute the mean speed of a face over points and frames.

    Args:
        landmarks: (batch, frames, points, dims), in any unit.
        fps: Frames per second.
        lengths: True frames of each clip, (batch,).
        frame_mask: True for the frames that count, (batch, frames) bool; a step counts if both of its frames do.

    Returns:
        (batch,), in face heights per second; 0 for clips without a step.

    Raises:
        ShapeError: Shapes do not fit together.

    Example:
        >>> face_speed(torch.rand(1, 1, 68, 2).expand(1, 10, 68, 2))
        tensor([0.])

    Source: ours.
    """
    check_shape("landmarks", landmarks, "batch frames points dims")
    check_positive("fps", fps)
    if lengths is not None:
        lengths = check_lengths(lengths, landmarks)
    moved = displacement(landmarks, scale=1.0, lengths=lengths).diff(dim=1).norm(dim=-1).mean(-1)
    inside = torch.ones_like(moved, dtype=torch.bool)
    if lengths is not None:
        inside = torch.arange(1, landmarks.shape[1], device=moved.device)[None] < lengths.to(moved.device)[:, None]
    if frame_mask is not None:
        check_frame_mask("frame_mask", frame_mask, batch=landmarks.shape[0], frames=landmarks.shape[1])
        inside = inside & (frame_mask[:, 1:] & frame_mask[:, :-1]).to(moved.device)
    return torch.where(inside, moved, 0.0).sum(1) / inside.sum(1).clamp(min=1) * fps


@torch.no_grad()
@checked
def sync_report(
    pyramid: MultiScaleSyncer,
    landmarks: Tensor,
    audio: Tensor,
    *,
    margin: int = 0,
    calibration: Calibration | None = None,
    prior: float = 0.5,
    threshold: float = 0.5,
    speech_fraction: Tensor | None = None,
    max_offsets: Sequence[int] = MAX_OFFSETS,
    reference: str | Tensor | None = None,
    edges: str = "masked",
    lengths: Tensor | None = None,
    frame_mask: Tensor | None = None,
    has_audio: Tensor | None = None,
    fps: float | None = None,
) -> list[LevelSync]:
    """Compute offset, confidence, distances, rank, posterior and answer of clips at every level.

    Args:
        pyramid, landmarks, audio, margin, max_offsets, reference, edges, lengths, frame_mask, has_audio: As in
            :func:`avsync.metrics.multi_scale.multi_scale_offset`.
        calibration: Calibration of this pyramid; None for a report without probabilities.
        prior, threshold: As in :func:`avsync.metrics.posterior.offset_posterior`.
        speech_fraction: Share of each clip's frames with audio that hold speech, (batch,); the answer is "silent" below
            ``LEAST_SPEECH`` (0.2). None disables this answer.
        fps: Frames per second of ``landmarks``; None for the rate of the syncers. See
            :func:`avsync.metrics.multi_scale.multi_scale_offset`.

    Returns:
        One :class:`LevelSync` per level.

    Raises:
        ArgumentError: The calibration has fewer levels than the pyramid; and as
            :func:`avsync.metrics.multi_scale.multi_scale_offset`.
        ShapeError: Shapes do not fit together.

    Example:
        >>> from avsync.models.syncer.pyramid import SyncerConfig
        >>> from avsync.models.syncer.pyramid import SyncerPyramid, SyncerPyramidConfig
        >>> pyramid = SyncerPyramid(config=SyncerPyramidConfig(syncer=SyncerConfig(width=8, embed=4)))
        >>> still = torch.rand(1, 1, 68, 2).expand(1, 80, 68, 2)
        >>> [level.answers for level in sync_report(pyramid, still, torch.rand(1, 320, 26))]
        [('still',), ('still',), ('still',), ('still',)]

    Source: paper section 4.3; posterior and answers ours.
    """
    check_max_offsets(max_offsets, pyramid.num_levels)
    check_calibrated(calibration, pyramid.num_levels)
    if speech_fraction is not None and speech_fraction.shape != landmarks.shape[:1]:
        raise ShapeError(f"`speech_fraction`: expected (batch={landmarks.shape[0]}), got {tuple(speech_fraction.shape)}")
    embedded = multi_scale_embeddings(
        pyramid,
        landmarks,
        audio,
        margin=margin,
        reference=reference,
        lengths=lengths,
        frame_mask=frame_mask,
        has_audio=has_audio,
        fps=fps,
    )
    fps = pyramid.fps if fps is None else fps
    before = 0 if has_audio is None else (has_audio.shape[1] - landmarks.shape[1]) // 2
    own = None if has_audio is None else has_audio[:, before : before + landmarks.shape[1]]
    speed = face_speed(landmarks, fps=fps, lengths=lengths, frame_mask=own)
    report = []
    for number, level in enumerate(embedded):
        distances, weights = window_distances(**level._asdict(), max_offset=max_offsets[number], edges=edges)
        sync = offset_from_distances(mean_over_windows(distances, weights))
        windows = torch.full_like(sync.offset_frames, level.motion.shape[1]) if level.mask is None else level.mask.sum(1)
        posterior = None
        if calibration is not None:
            numbers = calibration.levels[number]
            counts = windows if weights is None else weights.sum(1)
            posterior = offset_posterior(sync.distances, counts, calibration=numbers, prior=prior, threshold=threshold)
        answers = level_answers(sync, speed=speed, speech_fraction=speech_fraction, posterior=posterior)
        milliseconds = offset_milliseconds(sync.offset_frames, level=number, fps=pyramid.fps)
        frame_ms = 1000.0 / level_fps(pyramid.fps, number)
        report.append(LevelSync(number, frame_ms, sync, milliseconds, windows, posterior, answers, fps))
    return report


def level_answers(
    sync: SyncOffset, *, speed: Tensor, speech_fraction: Tensor | None = None, posterior: OffsetPosterior | None = None
) -> tuple[str, ...]:
    """Return the answer for each clip at one level: "offset", or the reason why the offset cannot be determined.

    Args:
        sync: Offsets of the clips; "edge" if the best offset lies at the edge of the search, see
            :func:`avsync.metrics.offset.at_edge`.
        speed: Mean speed of each face, (batch,), from :func:`face_speed`; "still" below ``LEAST_SPEED``.
        speech_fraction: Share of each clip's frames with speech, (batch,); "silent" below ``LEAST_SPEECH``. None for unknown.
        posterior: Calibrated probabilities; "unsure" if the probability is too small. Without probabilities, "unsure" if all
            distances of a clip are equal.

    Returns:
        One of ``ANSWERS`` for each clip.

    Example:
        >>> from avsync.metrics.offset import sync_offset
        >>> found = sync_offset(torch.ones(1, 5, 3), torch.ones(1, 5, 3), max_offset=2)
        >>> level_answers(found, speed=torch.tensor([0.3]))
        ('unsure',)

    Source: ours.
    """
    nothing = sync.distance.isnan().tolist()
    still = (speed < LEAST_SPEED).tolist()
    silent = [False] * len(still) if speech_fraction is None else (speech_fraction < LEAST_SPEECH).tolist()
    edge = at_edge(sync.distances).tolist()
    sure = ~known_offset(sync.offset_frames, sync.confidence).isnan()
    if posterior is not None:
        sure = sure & posterior.answered
    answers = []
    for number, certain in enumerate(sure.tolist()):
        reasons = {"nothing": nothing[number], "silent": silent[number], "still": still[number], "edge": edge[number]}
        answers.append(next((reason for reason, holds in reasons.items() if holds), "offset" if certain else "unsure"))
    return tuple(answers)


@checked
def report_rows(report: Sequence[LevelSync], *, ids: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Convert a report to plain rows, one per clip and level, for tables and JSON; values that are not finite become None.

    Args:
        report: From :func:`sync_report`.
        ids: Name of each clip; by default its number.

    Returns:
        Rows with the keys ``id``, ``level``, ``frame_ms``, ``offset_frames``, ``offset_ms``, ``input_frames``, ``confidence``,
        ``lse_d``, ``distance_at_zero``, ``rank_at_zero``, ``windows``, ``estimate_frames``, ``estimate_ms``, ``match``,
        ``probability``, ``answer``; ordered by clip, then by level. The mean of ``confidence`` over clips is LSE-C.

    Raises:
        ArgumentError: There are not as many ids as clips.

    Example:
        >>> from avsync.models.syncer.pyramid import SyncerConfig
        >>> from avsync.models.syncer.pyramid import SyncerPyramid, SyncerPyramidConfig
        >>> pyramid = SyncerPyramid(config=SyncerPyramidConfig(syncer=SyncerConfig(width=8, embed=4)))
        >>> rows = report_rows(sync_report(pyramid, torch.rand(1, 80, 68, 2), torch.rand(1, 320, 26)), ids=["anna"])
        >>> len(rows), rows[1]["id"], rows[1]["frame_ms"]
        (4, 'anna', 80.0)

    Source: ours.
    """
    clips = len(report[0].answers) if report else 0
    names = [str(number) for number in range(clips)] if ids is None else list(ids)
    if len(names) != clips:
        raise ArgumentError(f"`ids`: expected {clips}, one per clip, got {len(names)}")
    rows: list[dict[str, Any]] = []
    for clip, name in enumerate(names):
        for level in report:
            sync, posterior = level.sync, level.posterior
            known = level.answers[clip] != "nothing"
            row: dict[str, Any] = {
                "id": name,
                "level": level.level,
                "frame_ms": level.frame_ms,
                "offset_frames": int(sync.offset_frames[clip]) if known else None,
                "offset_ms": _number(level.offset_ms[clip]) if known else None,
                "input_frames": _number(level.input_frames[clip]) if known else None,
                "confidence": _number(sync.confidence[clip]),
                "lse_d": _number(sync.distance[clip]),
                "distance_at_zero": _number(sync.distance_at_zero[clip]),
                "rank_at_zero": int(sync.rank_at_zero[clip]) or None,
                "windows": int(level.windows[clip]),
                "estimate_frames": None,
                "estimate_ms": None,
                "match": None,
                "probability": None,
                "answer": level.answers[clip],
            }
            if posterior is not None and known:
                estimate = _number(posterior.offset_frames[clip])
                row["estimate_frames"] = estimate
                row["estimate_ms"] = None if estimate is None else estimate * level.frame_ms
                row["match"], row["probability"] = _number(posterior.match[clip]), _number(posterior.probability[clip])
            rows.append(row)
    return rows


def _number(value: Tensor) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
