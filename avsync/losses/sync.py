"""Equation (4): the multi-scale audio-visual synchrony loss.

``L_sync^i = - mean over windows t of cos(e_a(a^i_t), e_x(x^i_t))`` at each level ``i``, with the syncers frozen and ``x`` the
generator's output; ``L_sync`` is the mean over the levels.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from avsync._checks import check_shape, describe_shape
from avsync.errors import ArgumentError, ClipTooShortError, ShapeError
from avsync.losses._windows import check_mask
from avsync.models.syncer.interface import Embeddings, MultiScaleSyncer, check_same_duration, window_mask
from avsync.models.syncer.pyramid import fill_motion_frames
from avsync.models.syncer.similarity import cosine_similarity
from avsync.pyramid import check_lengths, hold_last_frame, level_lengths, temporal_pyramid


class SyncLossOutput(NamedTuple):
    """The multi-scale sync loss and its parts."""

    total: Tensor
    """Weighted mean over the levels, a scalar in [-1, 1]; -1 is perfect agreement."""
    per_level: Tensor
    """Unweighted loss of each level, (levels,); NaN-free, 0 for levels that were skipped."""


def level_sync_loss(motion: Tensor, audio: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Equation (4) at one level: minus the mean cosine of the embeddings of equal windows.

    Args:
        motion: Embeddings of motion windows, (batch, windows, embed).
        audio: Embeddings of audio windows, (batch, windows, embed), of any model.
        mask: True for the windows that count, (batch, windows), bool.

    Returns:
        A scalar in [-1, 1]; 0 if no window counts.

    Raises:
        ShapeError: The shapes do not fit together.
        ClipTooShortError: There is no window.

    Example:
        >>> level_sync_loss(torch.ones(2, 7, 4), torch.ones(2, 7, 4)).round(decimals=4)
        tensor(-1.)

    Source: paper section 3.1.
    """
    check_shape("audio", audio, "batch windows embed")
    check_shape("motion", motion, "batch windows embed", batch=audio.shape[0], windows=audio.shape[1], embed=audio.shape[2])
    if audio.shape[1] == 0:
        raise ClipTooShortError("`motion`, `audio`: expected at least 1 window, got 0")
    with torch.autocast(device_type=audio.device.type, enabled=False):
        score = cosine_similarity(motion, audio)
    if mask is None:
        return -score.mean()
    check_mask(mask, audio.shape[0], audio.shape[1])
    # A batch of clips all too short for this level has no window; clamping gives it a loss of 0 instead of 0 / 0.
    return -torch.where(mask, score, 0.0).sum() / mask.sum().clamp_min(1)


def multi_scale_sync_loss(
    motion: Sequence[Tensor],
    audio: Sequence[Tensor],
    *,
    level_weights: Sequence[float] | Tensor | None = None,
    masks: Sequence[Tensor | None] | None = None,
) -> SyncLossOutput:
    """Equation (4) over all levels, from embeddings of any model.

    Args:
        motion: Embeddings of motion windows, likewise.
        audio: Embeddings of audio windows, one (batch, windows, embed) a level.
        level_weights: Weight of each level in the total, (levels,); normalised to sum to one. Default: equal, the paper's mean.
        masks: Windows that count at each level, (batch, windows) or None. A level without any is left out of the total.

    Returns:
        :class:`SyncLossOutput`.

    Raises:
        ArgumentError: The lists differ in length or are empty.
        ShapeError: Embeddings of a level do not fit together.

    Example:
        >>> levels = [torch.ones(2, windows, 4) for windows in (76, 36, 16, 6)]
        >>> multi_scale_sync_loss(levels, levels).total.round(decimals=4)
        tensor(-1.)

    Source: paper section 3.1.
    """
    if not len(audio) == len(motion) > 0:
        raise ArgumentError(
            f"`audio`: expected as many levels as `motion` and at least one, got {len(audio)} and {len(motion)}"
        )
    masks = [None] * len(audio) if masks is None else masks
    if len(masks) != len(audio):
        raise ArgumentError(f"`masks`: expected one for each of {len(audio)} levels, got {len(masks)}")
    parts = [level_sync_loss(x, a, mask=mask) for x, a, mask in zip(motion, audio, masks, strict=True)]
    per_level = torch.stack(parts)
    if level_weights is None:
        weights = torch.ones_like(per_level)
    else:
        weights = torch.as_tensor(level_weights, dtype=per_level.dtype, device=per_level.device)
        check_shape("level_weights", weights, "levels", levels=len(parts))
    if any(mask is not None for mask in masks):
        filled = [
            torch.ones_like(part, dtype=torch.bool) if mask is None else mask.any()
            for part, mask in zip(parts, masks, strict=True)
        ]
        weights = weights * torch.stack(filled)
    # The floor matters only if no level has a window that counts: the total is then 0.
    return SyncLossOutput((weights * per_level).sum() / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny), per_level)


class _EncoderPairs(nn.Module):
    """Gives a user's own encoder pairs the face of a :class:`~avsync.models.syncer.interface.MultiScaleSyncer`."""

    def __init__(self, pairs: Sequence[tuple[nn.Module, nn.Module]]) -> None:
        super().__init__()
        self.motion_encoders = nn.ModuleList(pair[0] for pair in pairs)
        self.audio_encoders = nn.ModuleList(pair[1] for pair in pairs)

    def forward(self, landmarks: Tensor, audio: Tensor, lengths: Tensor | None, levels: Sequence[int]) -> list[Embeddings]:
        stride = audio.shape[1] // max(landmarks.shape[1], 1)
        check_same_duration(landmarks, audio, stride)
        if lengths is not None:
            lengths = check_lengths(lengths, landmarks)
            landmarks = hold_last_frame(landmarks, landmarks.shape[1], lengths)
        motions = temporal_pyramid(landmarks, max(levels) + 1, lengths=lengths)
        sounds = temporal_pyramid(audio, max(levels) + 1, lengths=None if lengths is None else stride * lengths)
        embedded = []
        for level in levels:
            true = None if lengths is None else level_lengths(stride * lengths, level)
            sound = fill_motion_frames(sounds[level], stride * motions[level].shape[1], lengths=true)
            sound = self.audio_encoders[level](sound)
            motion = self.motion_encoders[level](motions[level])
            if sound.shape != motion.shape:
                raise ShapeError(
                    f"`syncers`: expected equal shapes from the encoders of level {level}, got {tuple(sound.shape)} of audio and"
                    f" {tuple(motion.shape)} of motion"
                )
            window = motions[level].shape[1] - motion.shape[1] + 1
            embedded.append(Embeddings(motion, sound, window_mask(lengths, level, motion.shape[1], window)))
        return embedded


class MultiScaleSyncLoss(nn.Module):
    """Equation (4): how well motion agrees with sound at every level, by frozen syncers.

    The syncers are frozen for good: their parameters do not require gradients and they stay in eval mode through ``.train()``.
    Gradients reach the landmarks only. Lower is better; -1 is perfect.

    Args:
        syncers: A trained :class:`~avsync.models.syncer.pyramid.SyncerPyramid`, several as a
            :class:`~avsync.models.syncer.ensemble.SyncerEnsemble`, or a list of your own ``(motion_encoder, audio_encoder)`` pairs,
            finest level first. A pair maps (batch, frames, points, dims) and (batch, audio_frames, coeffs) of its level, as the
            pyramid of equation (5) leaves them, to (batch, windows, embed) each.
        level_weights: Weight of each level, (levels,), not negative and not all zero; normalised to sum to one. Default: equal.
        audio_transform: Module from waveform (batch, samples) to features (batch, audio_frames, coeffs), such as
            :class:`avsync.audio.features.LogMel`; needed only if ``forward`` is to take waveforms. It must be what the syncers were
            trained on, and the waveforms must be prepared alike: our trainings pass them through
            :func:`avsync.audio.features.normalise_waveform` first.
        skip_short: What to do with clips too short for the coarse levels: False raises, True leaves those levels out of the total.
            Not with encoder pairs of your own: how many frames those need is theirs to say.

    Raises:
        ArgumentError: ``syncers`` is empty, or ``level_weights`` or ``skip_short`` does not fit it.

    Example:
        >>> from avsync.models.syncer.encoders import SyncerConfig
        >>> from avsync.models.syncer.pyramid import SyncerPyramid, SyncerPyramidConfig
        >>> pyramid = SyncerPyramid(config=SyncerPyramidConfig(syncer=SyncerConfig(width=8, embed=4)))
        >>> loss = MultiScaleSyncLoss(syncers=pyramid)
        >>> landmarks = torch.rand(2, 40, 68, 2, requires_grad=True)
        >>> total, per_level = loss(landmarks, torch.zeros(2, 160, 26))
        >>> total.backward()
        >>> landmarks.grad.shape, per_level.shape
        (torch.Size([2, 40, 68, 2]), torch.Size([4]))

    Source: paper section 3.1; lengths, weights and skipping ours.
    """

    level_weights: Tensor

    def __init__(
        self,
        *,
        syncers: MultiScaleSyncer | Sequence[tuple[nn.Module, nn.Module]],
        level_weights: Sequence[float] | None = None,
        audio_transform: nn.Module | None = None,
        skip_short: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(syncers, MultiScaleSyncer):
            self.syncers: MultiScaleSyncer | _EncoderPairs = syncers
            self.num_levels = syncers.num_levels
        else:
            if isinstance(syncers, nn.Module) or len(syncers) == 0 or any(len(pair) != 2 for pair in syncers):
                raise ArgumentError(
                    "`syncers`: expected a SyncerPyramid, a SyncerEnsemble or a non-empty list of (motion_encoder, audio_encoder) pairs, got"
                    f" {type(syncers).__name__}"
                )
            if skip_short:
                raise ArgumentError("`skip_short`: expected False with encoder pairs of your own, got True")
            self.syncers = _EncoderPairs(syncers)
            self.num_levels = len(syncers)
        weights = [1.0] * self.num_levels if level_weights is None else [float(weight) for weight in level_weights]
        if len(weights) != self.num_levels or not all(0 <= weight < math.inf for weight in weights) or not any(weights):
            raise ArgumentError(
                f"`level_weights`: expected {self.num_levels} weights, finite, not negative and not all zero, got {level_weights}"
            )
        self._first_weighted = next(level for level, weight in enumerate(weights) if weight)
        self.register_buffer("level_weights", torch.tensor(weights), persistent=False)
        self.audio_transform = audio_transform
        self.skip_short = skip_short
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str] = "landmarks68-25fps",
        *,
        level_weights: Sequence[float] | None = None,
        skip_short: bool = False,
        revision: str | None = None,
    ) -> MultiScaleSyncLoss:
        """The loss of trained syncers, for waveforms as well as for features.

        Args:
            name: A model of the package, a folder, or a repository of the hub; see :func:`avsync.pretrained.model_folder`.
            level_weights: Weight of each level; default equal.
            skip_short: Whether clips may be too short for the coarse levels.
            revision: Branch, tag or commit of a repository of the hub.

        Returns:
            The loss, on the CPU.

        Raises:
            CheckpointError: There is no such model, or it is damaged.
            ArgumentError: ``level_weights`` does not fit it.

        Example:
            >>> loss = MultiScaleSyncLoss.from_pretrained("landmarks68-25fps")
            >>> loss(torch.rand(1, 40, 68, 2), torch.rand(1, 40 * 640)).per_level.shape
            torch.Size([4])

        Source: ours.
        """
        syncers = MultiScaleSyncer.from_pretrained(name, revision=revision)
        transform = syncers.speech_features()
        return cls(syncers=syncers, level_weights=level_weights, audio_transform=transform, skip_short=skip_short)

    def train(self, mode: bool = True) -> MultiScaleSyncLoss:
        """Stay in eval mode: a frozen judge must not change with the training of what it judges."""
        del mode
        return super().train(False)

    def forward(
        self,
        landmarks: Tensor,
        audio: Tensor,
        *,
        reference: str | Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> SyncLossOutput:
        """The loss of a batch of clips.

        Args:
            landmarks: The generator's output, (batch, frames, points, dims), 25 frames a second, in any unit.
            audio: Features (batch, 4 * frames, coeffs), or, with ``audio_transform``, the waveform (batch, 640 * frames) at 16 kHz.
            reference: The face that motion is measured from: "first" frame, "mean" face, or, better, the observed face itself,
                (batch, points, dims), which the generator cannot move. Default: as the syncers are configured. Encoder pairs of
                your own take landmarks as they are, so for them it must be None.
            lengths: True motion frames of each clip in a padded batch, (batch,). What lies behind them changes nothing (behind the
                end of a waveform it should be silence: the last audio frames see half a window of it). Clips too short for a
                level have no window there; a level without any window is left out of the total.

        Returns:
            :class:`SyncLossOutput` (total, per_level).

        Raises:
            ShapeError: Wrong shapes, or audio and landmarks that do not last equally long.
            ClipTooShortError: The clips are too short for the coarsest level (the message names the shortest possible length).
            ArgumentError: A waveform without ``audio_transform``, or ``reference`` with encoder pairs.
        """
        check_shape("landmarks", landmarks, "batch frames points dims")
        features = self._features(landmarks, audio)
        if isinstance(self.syncers, MultiScaleSyncer):
            levels = self._levels(landmarks.shape[1], self.syncers)
            embedded = self.syncers(landmarks, features, reference=reference, lengths=lengths, levels=levels)
        else:
            if reference is not None:
                raise ArgumentError(
                    "`reference`: expected None with encoder pairs of your own, which take landmarks as they are"
                )
            levels = list(range(self.num_levels))
            embedded = self.syncers(landmarks, features, lengths, levels)
        motions, sounds, masks = zip(*embedded, strict=True)
        loss = multi_scale_sync_loss(motions, sounds, level_weights=self.level_weights[: len(levels)], masks=masks)
        skipped = loss.per_level.new_zeros(self.num_levels - len(levels))
        return SyncLossOutput(loss.total, torch.cat([loss.per_level, skipped]))

    def _features(self, landmarks: Tensor, audio: Tensor) -> Tensor:
        if audio.ndim == 3:
            return audio
        if audio.ndim != 2:
            raise ShapeError(
                "`audio`: expected features (batch, audio_frames, coeffs) or a waveform (batch, samples), got"
                f" {describe_shape(audio)}"
            )
        if self.audio_transform is None:
            raise ArgumentError(
                "`audio`: expected features, because the loss has no `audio_transform` for waveforms, got a waveform"
            )
        features = self.audio_transform(audio)
        if features.shape[1] % max(landmarks.shape[1], 1):
            raise ShapeError(
                f"`audio`: expected 640 samples a frame at 16 kHz and 25 frames a second, that is {640 * landmarks.shape[1]} for"
                f" {landmarks.shape[1]} frames, got {audio.shape[1]}"
            )
        return features

    def _levels(self, frames: int, syncers: MultiScaleSyncer) -> list[int]:
        """Levels that clips of ``frames`` frames can fill; all, or an error, unless short clips may skip some."""
        levels = list(range(self.num_levels))
        if not self.skip_short:
            shortest = syncers.shortest_clip()
            if frames < shortest:
                raise ClipTooShortError(
                    f"`landmarks`: expected at least {shortest} frames to fill level {self.num_levels - 1} (or skip_short=True to"
                    f" leave out the levels that are too coarse), got {frames}"
                )
            return levels
        fitting = [level for level in levels if frames >= syncers.shortest_clip([level])]
        if self._first_weighted not in fitting:
            shortest = syncers.shortest_clip([self._first_weighted])
            raise ClipTooShortError(
                f"`landmarks`: expected at least {shortest} frames to fill level {self._first_weighted}, got {frames}"
            )
        return fitting
