r"""Multi-scale audio-visual synchrony loss, equation (4).

:math:`L_{sync}^i = - \operatorname{mean}_t \cos(e_a(a^i_t), e_x(x^i_t))` over the windows :math:`t` of each level :math:`i`,
with frozen syncers :math:`e_a, e_x` and the generator's output :math:`x`; :math:`L_{sync}` is the mean over the levels.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from avsync._checks import (
    at_least_float32,
    check_floating,
    check_positive,
    check_same_device,
    check_shape,
    check_some_clips,
    checked,
    constant,
    describe_shape,
    device_of_module,
    is_launch_bound,
    is_tensor,
    same_precision,
    values_known,
)
from avsync._files import read_json
from avsync.errors import ArgumentError, CheckpointError, ClipTooShortError, ShapeError
from avsync.landmarks.layouts import Layout
from avsync.losses.silence import silence_loss
from avsync.models.syncer.interface import (
    Embeddings,
    MultiScaleSyncer,
    check_mask,
    check_same_duration,
    check_windows,
    cosine_similarity,
    hide,
    window_mask,
)
from avsync.models.syncer.pyramid import fill_motion_frames
from avsync.pretrained import REFERENCE_VALUES
from avsync.pyramid import (
    AUDIO_FRAMES_PER_FRAME,
    FPS,
    SAMPLE_RATE,
    check_lengths,
    hold_last_frame,
    level_lengths,
    temporal_pyramid,
)
from avsync.resampling import check_fps, fit_frames, resample_frames, resampled_length, resampled_lengths


class SyncLossOutput(NamedTuple):
    """Multi-scale sync loss and its parts."""

    total: Tensor
    """Weighted mean over the levels, a scalar in [-1, 1]; -1 is perfect agreement."""
    per_level: Tensor
    """Loss of each level, the weighted mean over its regions, (levels,); 0 for levels without a window."""
    per_region: Tensor
    """Unweighted loss of each region at each level, (regions, levels); 0 for levels that a region does not have or that have no
    window. Syncers other than :class:`avsync.models.syncer.regions.SyncerRegions` have one region."""
    silence: Tensor
    """:func:`avsync.losses.silence.silence_loss` of the mouths, unweighted, a scalar; 0 if no ``speech`` was given."""


def level_sync_loss(motion: Tensor, audio: Tensor, *, mask: Tensor | None = None) -> Tensor:
    r"""Compute equation (4) at one level: the negative mean cosine of the embeddings of the same windows.

    Args:
        motion: Embeddings of motion windows, (batch, windows, embed), of any model.
        audio: Embeddings of audio windows, (batch, windows, embed).
        mask: True for the windows that count, (batch, windows), bool. Other embeddings affect neither value nor gradient, even
            if they are NaN.

    Returns:
        A scalar in [-1, 1]; 0 if no window counts.

    Raises:
        ShapeError: The shapes do not match.
        ClipTooShortError: There is no window.

    Example:
        >>> level_sync_loss(torch.ones(2, 7, 4), torch.ones(2, 7, 4)).round(decimals=4)
        tensor(-1.)

    Source: paper section 3.1.
    """
    return _level_losses([motion], [audio], [mask])[0]


def _level_losses(motion: Sequence[Tensor], audio: Sequence[Tensor], masks: Sequence[Tensor | None]) -> Tensor:
    """Compute :func:`level_sync_loss` of each level, (levels,)."""
    for x, a, mask in zip(motion, audio, masks, strict=True):
        check_windows(x, a)
        check_mask(mask, x.shape[0], x.shape[1], x.device)
    with torch.autocast(device_type=audio[0].device.type, enabled=False):
        pairs = [(hide(x, mask), hide(a, mask)) for x, a, mask in zip(motion, audio, masks, strict=True)]
        if len({(len(x), x.shape[2], x.dtype) for x in motion}) == 1:
            windows = [x.shape[1] for x in motion]
            # The levels are scored together, because a GPU spends its time on the number of operations.
            if is_launch_bound(motion[0]) and not any(mask is not None for mask in masks):
                return _joined_losses(same_precision(*motion, *audio), windows)
            scores = cosine_similarity(*(torch.cat(levels, dim=1) for levels in zip(*pairs, strict=True))).split(windows, dim=1)
        else:
            scores = tuple(cosine_similarity(*pair) for pair in pairs)
    return torch.stack(
        [
            # If all clips are too short for this level, there is no window; clamping gives a loss of 0 instead of 0 / 0.
            -score.mean() if mask is None else -torch.where(mask, score, 0.0).sum() / mask.sum().clamp_min(1)
            for score, mask in zip(scores, masks, strict=True)
        ]
    )


def _joined_losses(embeddings: Sequence[Tensor], windows: Sequence[int]) -> Tensor:
    """Compute the loss of each level, (levels,), from the embeddings of motion and then of audio, in few operations."""
    scores = _Cosine.apply(*embeddings).sum(dim=0)
    owner = [level for level, count in enumerate(windows) for _ in range(count)]
    belongs = constant([float(level == own) for own in owner for level in range(len(windows))], scores.device)
    counts = constant([-float(len(embeddings[0]) * count) for count in windows], scores.device)
    losses: Tensor = scores @ belongs.view(len(owner), -1).to(scores) / counts.to(scores)
    return losses


class _Cosine(torch.autograd.Function):
    """Cosines of the windows of all levels: (batch, windows, embed) of motion and of audio -> (batch, windows of all levels).

    The gradient has few operations, and there are no second derivatives.
    """

    @staticmethod
    def forward(ctx: Any, *embeddings: Tensor) -> Tensor:
        both = torch.cat(embeddings, dim=1).unflatten(1, (2, -1))
        # A vector of zeros has an infinite length here, so that its cosines and gradients are zero.
        lengths = F.threshold(torch.linalg.vector_norm(both, dim=-1), 1e-12, math.inf)
        product = lengths[:, 0] * lengths[:, 1]
        dot = torch.linalg.vecdot(both[:, 0], both[:, 1])
        ctx.save_for_backward(both, lengths, product, dot)
        ctx.windows = [x.shape[1] for x in embeddings[: len(embeddings) // 2]]
        return dot / product

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        both, lengths, product, dot = ctx.saved_tensors
        scale, count = (gradient / product)[..., None], len(ctx.windows)
        found: list[Tensor | None] = []
        for own, needed in enumerate([any(part) for part in (ctx.needs_input_grad[:count], ctx.needs_input_grad[count:])]):
            if not needed:
                found += [None] * count
                continue
            projection = (dot / lengths[:, own].square())[..., None]
            gradients = torch.addcmul(both[:, 1 - own], both[:, own], projection, value=-1) * scale
            found += gradients.split(ctx.windows, dim=1)
        return tuple(found)


def multi_scale_sync_loss(
    motion: Sequence[Tensor],
    audio: Sequence[Tensor],
    *,
    level_weights: Sequence[float] | Tensor | None = None,
    masks: Sequence[Tensor | None] | None = None,
) -> SyncLossOutput:
    """Compute equation (4) over all levels, from embeddings of any model.

    Args:
        motion: Embeddings of motion windows, one (batch, windows, embed) per level.
        audio: Embeddings of audio windows, one (batch, windows, embed) per level.
        level_weights: Weight of each level in the total, (levels,); normalised to sum to one. Default: equal, the paper's mean.
        masks: Windows that count at each level, (batch, windows) or None. A level without such windows is left out of the
            total.

    Returns:
        :class:`SyncLossOutput`.

    Raises:
        ArgumentError: The lists differ in length or are empty, or ``level_weights`` is negative, not finite or all zero.
        ShapeError: The embeddings of a level do not match.

    Example:
        >>> levels = [torch.ones(2, windows, 4) for windows in (76, 36, 16, 6)]
        >>> multi_scale_sync_loss(levels, levels).total.round(decimals=4)
        tensor(-1.)

    Source: paper section 3.1.
    """
    for name, levels in (("motion", motion), ("audio", audio), ("masks", masks)):
        if not isinstance(levels, (list, tuple)) and not (name == "masks" and levels is None):
            raise ArgumentError(f"`{name}`: expected a list with one entry per level, got {describe_shape(levels)}")
    if not len(audio) == len(motion) > 0:
        raise ArgumentError(
            f"`audio`: expected as many levels as `motion` and at least one, got {len(audio)} and {len(motion)}"
        )
    masks = [None] * len(audio) if masks is None else masks
    if len(masks) != len(audio):
        raise ArgumentError(f"`masks`: expected one for each of {len(audio)} levels, got {len(masks)}")
    per_level = _level_losses(motion, audio, masks)
    total = _total(per_level, level_weights, masks)
    return SyncLossOutput(total, per_level, per_level[None], torch.zeros_like(total))


def _total(per_level: Tensor, level_weights: Sequence[float] | Tensor | None, masks: Sequence[Tensor | None]) -> Tensor:
    """Compute the weighted mean over the levels that have a window."""
    weights = _level_weights(level_weights, per_level)
    if any(mask is not None for mask in masks):
        filled = [
            torch.ones_like(part, dtype=torch.bool) if mask is None else mask.any()
            for part, mask in zip(per_level, masks, strict=True)
        ]
        weights = weights * torch.stack(filled)
    # The floor matters only if no level has a window that counts: the total is then 0.
    return (weights * per_level).sum() / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)


def _level_weights(level_weights: Sequence[float] | Tensor | None, per_level: Tensor) -> Tensor:
    """Return the weights as a tensor like ``per_level``, (levels,)."""
    if level_weights is None:
        return torch.ones_like(per_level)
    levels = per_level.shape[0]
    if is_tensor(level_weights):
        weights = cast(Tensor, level_weights)
        check_shape("level_weights", weights, "levels", levels=levels)
        check_same_device("level_weights", weights, per_level.device, "the embeddings")
        return weights.to(per_level.dtype)
    numbers = checked_weights(cast(Sequence[float], level_weights), levels)
    # The tensor is filled on the device, because copying a list to a GPU makes the GPU wait.
    return torch.stack([torch.full_like(per_level[0], number) for number in numbers]).detach()


def checked_weights(values: Sequence[float], count: int, *, name: str = "level_weights") -> list[float]:
    """Return weights as numbers.

    Raises:
        ArgumentError: There are not ``count`` numbers, a number is not finite or negative, or all are zero.
    """
    try:
        weights = [float(weight) for weight in values]
    except (TypeError, ValueError, RuntimeError):
        raise ArgumentError(f"`{name}`: expected {count} numbers, got {values!r}") from None
    if len(weights) != count or not all(0 <= weight < math.inf for weight in weights) or not any(weights):
        raise ArgumentError(f"`{name}`: expected {count} weights, finite, not negative and not all zero, got {values}")
    return weights


def _region_numbers(region_weights: Mapping[str, float] | None, syncers: MultiScaleSyncer | _EncoderPairs) -> list[float]:
    """Return the weight of each region.

    Raises:
        ArgumentError: There is not one number per region, a number is not finite or negative, or all are zero.
    """
    names = syncers.regions
    if region_weights is None:
        return list(syncers.region_weights)
    if not isinstance(region_weights, Mapping) or set(region_weights) != set(names):
        got = sorted(region_weights) if isinstance(region_weights, Mapping) else describe_shape(region_weights)
        raise ArgumentError(f"`region_weights`: expected one number for each of the regions {list(names)}, got {got}")
    return checked_weights([region_weights[name] for name in names], len(names), name="region_weights")


class _EncoderPairs(nn.Module):
    """Encoder pairs of a user, with the part of the interface of syncers that the loss needs: a single region, "all"."""

    fps = FPS
    audio_stride = AUDIO_FRAMES_PER_FRAME
    regions = ("all",)
    region_weights = (1.0,)

    def __init__(self, pairs: Sequence[tuple[nn.Module, nn.Module]]) -> None:
        super().__init__()
        self.motion_encoders = nn.ModuleList(pair[0] for pair in pairs)
        self.audio_encoders = nn.ModuleList(pair[1] for pair in pairs)

    def columns(self, _: int) -> tuple[slice | None, ...]:
        return (slice(None),)

    def forward(self, landmarks: Tensor, audio: Tensor, lengths: Tensor | None, levels: Sequence[int]) -> list[Embeddings]:
        stride = audio.shape[1] // max(landmarks.shape[1], 1)
        check_same_duration(landmarks, audio, stride)
        if lengths is not None:
            lengths = check_lengths(lengths, landmarks)
            landmarks = hold_last_frame(landmarks, landmarks.shape[1], lengths)
        motions = temporal_pyramid(landmarks, max(levels) + 1, lengths=lengths)
        audios = temporal_pyramid(audio, max(levels) + 1, lengths=None if lengths is None else stride * lengths)
        embedded = []
        for level in levels:
            true = None if lengths is None else level_lengths(stride * lengths, level)
            filled = fill_motion_frames(audios[level], stride * motions[level].shape[1], lengths=true)
            motion = self.motion_encoders[level](motions[level])
            audio_windows = self.audio_encoders[level](filled)
            if audio_windows.shape != motion.shape:
                raise ShapeError(
                    f"`syncers`: expected equal shapes from the encoders of level {level}, got {tuple(motion.shape)} of motion "
                    f"and {tuple(audio_windows.shape)} of audio"
                )
            window = motions[level].shape[1] - motion.shape[1] + 1
            embedded.append(Embeddings(motion, audio_windows, window_mask(lengths, level, motion.shape[1], window)))
        return embedded


class MultiScaleSyncLoss(nn.Module):
    """Multi-scale sync loss, equation (4): the agreement of motion and audio at every level, measured by frozen syncers.

    The loss keeps frozen copies of the syncers and of ``audio_transform``. They are not submodules: their weights are not among
    ``parameters()``, no optimiser or ``requires_grad_`` reaches them, ``train()`` leaves them in eval mode, and
    ``state_dict()`` does not hold them. ``to()``, ``half()``, ``cuda()``, ``copy.deepcopy`` and pickle include the copies,
    which can be read as ``loss.syncers`` and ``loss.audio_transform``. A module that holds the loss works in
    ``DistributedDataParallel``, which leaves the copies alone, but not in ``nn.DataParallel``. Gradients reach the
    landmarks only. Lower is better; -1 is perfect.

    Args:
        syncers: A trained :class:`~avsync.models.syncer.pyramid.SyncerPyramid`, several as a
            :class:`~avsync.models.syncer.ensemble.SyncerEnsemble`, several of different regions as
            :class:`~avsync.models.syncer.regions.SyncerRegions`, or a list of your own ``(motion_encoder, audio_encoder)``
            pairs, finest level first. The encoders of a pair map (batch, frames, points, dims) and (batch, audio_frames,
            coeffs) of its level, as the pyramid of equation (5) returns them, to (batch, windows, embed) each.
        level_weights: Weight of each level, (levels,), not negative and not all zero; normalised to sum to one. Default: equal.
        region_weights: Weight of each region of :class:`~avsync.models.syncer.regions.SyncerRegions` by its name, not negative
            and not all zero. At each level the weights of the regions that have it are normalised to sum to one; a level whose
            regions all have weight 0 is left out of the total. Default: the weights of the syncers.
        audio_transform: Module from waveform (batch, samples) to features (batch, audio_frames, coeffs), such as
            :class:`avsync.audio.SpeechFeatures`; it must be the transform with which the syncers were trained. By default the
            one that their config names. Syncers of custom features, and encoder pairs, need one only if waveforms are passed.
        silence_weight: Weight of :func:`avsync.losses.silence.silence_loss`, which is added to the total. Above 0, ``forward``
            needs ``speech``, and the landmarks must be 68 points.
        skip_short: If clips are too short for the coarse levels, False raises an error and True leaves these levels out of the
            total. It must be False with encoder pairs of your own, because their shortest clip is unknown.
        layout: Layout of the landmarks, or its name, such as "mediapipe478", if it differs from the layout of the syncers. It
            must map to the layout of the syncers (:meth:`avsync.models.SyncerPyramid.for_layout`).
        fps: Frames per second of the landmarks. If the syncers have another rate, landmarks are resampled to their rate
            (:func:`avsync.resampling.resample_frames`), and gradients pass through the resampling. None for the rate of the
            syncers, and with encoder pairs of your own.

    Raises:
        ArgumentError: ``syncers`` is empty, or another argument is not valid.

    Example:
        >>> from avsync import SyncerConfig, SyncerPyramid, SyncerPyramidConfig
        >>> pyramid = SyncerPyramid(SyncerPyramidConfig(syncer=SyncerConfig(width=8, embed=4)))
        >>> loss = MultiScaleSyncLoss(syncers=pyramid)
        >>> landmarks = torch.rand(2, 40, 68, 2, requires_grad=True)
        >>> total, per_level, per_region, _ = loss(landmarks, torch.zeros(2, 160, 26))
        >>> total.backward()
        >>> landmarks.grad.shape, per_level.shape, per_region.shape
        (torch.Size([2, 40, 68, 2]), torch.Size([4]), torch.Size([1, 4]))

    Source: paper section 3.1; lengths, weights and skipping are ours.
    """

    level_weights: Tensor
    region_shares: Tensor

    def __init__(
        self,
        *,
        syncers: MultiScaleSyncer | Sequence[tuple[nn.Module, nn.Module]],
        level_weights: Sequence[float] | None = None,
        region_weights: Mapping[str, float] | None = None,
        audio_transform: nn.Module | None = None,
        silence_weight: float = 0.0,
        skip_short: bool = False,
        layout: str | Layout | None = None,
        fps: float | None = None,
    ) -> None:
        super().__init__()
        check_positive("silence_weight", silence_weight, allow_zero=True)
        self.silence_weight = float(silence_weight)
        if isinstance(syncers, MultiScaleSyncer):
            held: MultiScaleSyncer | _EncoderPairs = syncers if layout is None else syncers.for_layout(layout)
            self.num_levels = syncers.num_levels
        else:
            held = _EncoderPairs(_checked_pairs(syncers))
            self.num_levels = len(syncers)
            for name, value, wanted in (("skip_short", skip_short, False), ("layout", layout, None), ("fps", fps, None)):
                if value is not wanted:
                    raise ArgumentError(f"`{name}`: expected {wanted} with encoder pairs of your own, got {value!r}")
        self._syncer_fps = held.fps
        self.fps = self._syncer_fps if fps is None else check_fps("fps", fps)
        if audio_transform is not None and not isinstance(audio_transform, nn.Module):
            raise ArgumentError(f"`audio_transform`: expected a module or None, got {describe_shape(audio_transform)}")
        if audio_transform is None and isinstance(syncers, MultiScaleSyncer):
            audio_transform = syncers.speech_features()
            if audio_transform is not None:
                audio_transform.to(device_of_module(syncers))
        numbers = [1.0] * self.num_levels if level_weights is None else checked_weights(level_weights, self.num_levels)
        shares = _shares(_region_numbers(region_weights, held), [held.columns(level) for level in range(self.num_levels)])
        numbers = [number if any(column) else 0.0 for number, column in zip(numbers, zip(*shares, strict=True), strict=True)]
        if not any(numbers):
            raise ArgumentError(
                "`region_weights`: expected a region with a weight above 0 at a level with a weight above 0, got"
                f" {dict(region_weights or {})}"
            )
        self._first_weighted = next(level for level, weight in enumerate(numbers) if weight)
        device = device_of_module(held)
        self.register_buffer("level_weights", torch.tensor(numbers, device=device), persistent=False)
        self.register_buffer("region_shares", torch.tensor(shares, device=device), persistent=False)
        self.skip_short = skip_short
        # A copy, so that further training of the originals does not change the loss; not registered, see the docstring.
        self._frozen: dict[str, nn.Module | None] = {
            name: None if module is None else copy.deepcopy(module).requires_grad_(False).eval()
            for name, module in (("syncers", held), ("audio_transform", audio_transform))
        }

    @property
    def regions(self) -> tuple[str, ...]:
        """Names of the rows of ``per_region``."""
        return self.syncers.regions

    @property
    def syncers(self) -> MultiScaleSyncer | _EncoderPairs:
        """Frozen syncers."""
        return cast("MultiScaleSyncer | _EncoderPairs", self._frozen["syncers"])

    @property
    def audio_transform(self) -> nn.Module | None:
        """Module from waveforms to features, or None."""
        return self._frozen["audio_transform"]

    @property
    def reference_values(self) -> dict[str, tuple[float, ...]]:
        """Mean of ``per_level`` for input of known synchrony, by the name of the input, such as "true pair".

        The values were measured on clips of 80 frames with speech, of unseen speakers; the page "Expected values" shows them.
        Empty for syncers that are not pretrained models of the package.

        Example:
            >>> loss = MultiScaleSyncLoss.from_pretrained("landmarks68-25fps")
            >>> loss.reference_values["true pair"][0] < loss.reference_values["audio of another speaker"][0]
            True

        Source: ours.
        """
        checksum = getattr(self.syncers, "weights_checksum", None)
        measured = read_json(REFERENCE_VALUES, error=CheckpointError).get(checksum, {})
        return {case: tuple(values) for case, values in measured.items()}

    @classmethod
    @checked
    def from_pretrained(
        cls,
        name: str | os.PathLike[str] = "landmarks68-25fps",
        *,
        level_weights: Sequence[float] | None = None,
        region_weights: Mapping[str, float] | None = None,
        silence_weight: float = 0.0,
        skip_short: bool = False,
        layout: str | Layout | None = None,
        fps: float | None = None,
        revision: str | None = None,
    ) -> MultiScaleSyncLoss:
        """Build the loss from pretrained syncers, for waveforms and features.

        Args:
            name: A pretrained model, a folder, or a hub repository; see :func:`avsync.pretrained.model_folder`.
            level_weights: Weight of each level; equal by default.
            region_weights: Weight of each region by its name; by default as the model states.
            silence_weight: Weight of the silence loss.
            skip_short: Allow clips that are too short for the coarse levels.
            layout: Layout of the landmarks, such as "mediapipe478"; by default the layout of the model.
            fps: Frames per second of the landmarks; by default the rate of the model (25).
            revision: Branch, tag or commit of a hub repository.

        Returns:
            The loss, on the CPU.

        Raises:
            CheckpointError: The model does not exist or is damaged.
            ArgumentError: ``level_weights`` or ``region_weights`` does not match the model, or the layout does not map to that
                of the model.

        Example:
            >>> loss = MultiScaleSyncLoss.from_pretrained("landmarks68-25fps")
            >>> loss(torch.rand(1, 40, 68, 2), torch.rand(1, 40 * 640)).per_level.shape
            torch.Size([4])
            >>> loss = MultiScaleSyncLoss.from_pretrained("landmarks68-25fps", layout="mediapipe478", fps=30)
            >>> loss(torch.rand(1, 60, 478, 3), torch.rand(1, 2 * 16000)).per_level.shape
            torch.Size([4])

        Source: ours.
        """
        return cls(
            syncers=MultiScaleSyncer.from_pretrained(name, revision=revision),
            level_weights=level_weights,
            region_weights=region_weights,
            silence_weight=silence_weight,
            skip_short=skip_short,
            layout=layout,
            fps=fps,
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MultiScaleSyncLoss:
        """Move or cast the frozen modules, too; the weights of levels and regions stay in float32."""
        weights, shares = self.level_weights, self.region_shares
        super()._apply(fn, recurse)
        if recurse:
            for module in self._frozen.values():
                if module is not None:
                    module._apply(fn)
        if self.level_weights.dtype != weights.dtype:
            self.level_weights = weights.to(self.level_weights.device)
            self.region_shares = shares.to(self.level_weights.device)
        return self

    def _replicate_for_data_parallel(self) -> MultiScaleSyncLoss:
        """Raise, because ``nn.DataParallel`` copies registered modules only; the frozen ones would stay behind."""
        raise ArgumentError(
            "`module`: expected the sync loss outside of `torch.nn.DataParallel`, which does not copy its frozen syncers to the"
            " other devices; use DistributedDataParallel, or compute the loss from the gathered outputs of the wrapped module"
        )

    def forward(
        self,
        landmarks: Tensor,
        audio: Tensor,
        *,
        target: Tensor | None = None,
        target_share: float | None = None,
        speech: Tensor | None = None,
        reference: str | Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> SyncLossOutput:
        """Compute the loss of a batch of clips.

        Args:
            landmarks: The generator's output, (batch, frames, points, dims), ``fps`` frames per second (25 by default), in any
                unit.
            audio: Features (batch, 4 * frames, coeffs), or, with ``audio_transform``, the waveform (batch, 640 * frames) at 16
                kHz. At another rate than that of the syncers, the features (100 per second) or samples of the same duration,
                within one motion frame.
            target: Real motion for the same audio, with the shape of ``landmarks``. The motion embeddings of the target replace
                the audio embeddings, so that the loss is -1 if both motions have the same embeddings. Without a target,
                equation (4) rewards motion that is clearer than that of real speakers; a target prevents this. The target needs
                no gradient. With the references "mean" and "first", each motion has its own reference face.
            target_share: With a target, compare with the audio after all, but end at this share of the target's agreement with
                the audio: a level whose loss is lower has the target's loss times this share, and no gradient. 1 for clips that
                the syncers were not trained on; below 1 for training clips of the pretrained syncers, which agree with these
                more than other clips do (0.8 in docs/guidance.md).
            speech: True for frames with speech, (batch, frames) bool, such as ``Batch.speech`` or
                :func:`avsync.corpus.speech.speech_mask`; needed with ``silence_weight``. Landmarks must then be 68 points.
            reference: Face from which motion is measured: "first" frame, "mean" face, or the observed face, (batch, points,
                dims). The observed face is preferred, because the generator cannot move it. Default: as the syncers are
                configured. Must be None with encoder pairs of your own, which take landmarks as they are.
            lengths: Valid motion frames of each clip in a padded batch, (batch,), on any device. The padding of landmarks and
                audio affects neither value nor gradient. Clips that are too short for a level have no window at this level. A
                level without any window is left out of the total.

        Returns:
            :class:`SyncLossOutput` (total, per_level, per_region, silence).

        Raises:
            ShapeError: The shapes are wrong, or audio and landmarks differ in duration, for example because of a wrong rate.
            ClipTooShortError: The clips are too short for the coarsest level (the message names the shortest possible length).
            ArgumentError: A waveform without ``audio_transform``, ``reference`` with encoder pairs, lengths beyond the clips,
                ``target_share`` without a target or not above 0, or tensors on different devices.
        """
        check_shape("landmarks", landmarks, "batch frames points dims")
        check_floating("landmarks", landmarks)
        check_some_clips("landmarks", landmarks)
        check_same_device("landmarks", landmarks, self.level_weights.device, "the loss")
        lengths = None if lengths is None else check_lengths(lengths, landmarks)
        silence = self._silence(landmarks, speech, reference, lengths)
        if target is not None:
            _check_target(target, landmarks)
        if target_share is not None:
            check_positive("target_share", target_share)
            if target is None:
                raise ArgumentError("`target`: expected real motion with `target_share`, got None")
        if self.fps != self._syncer_fps:
            audio = self._audio_of(audio, landmarks.shape[1])
            if target is not None:
                target = resample_frames(target, fps=self.fps, to_fps=self._syncer_fps, lengths=lengths)
            landmarks = resample_frames(landmarks, fps=self.fps, to_fps=self._syncer_fps, lengths=lengths)
            if lengths is not None:
                lengths = resampled_lengths(lengths, self.fps, self._syncer_fps).clamp(max=landmarks.shape[1])
        features = self._features(landmarks, audio, lengths)
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
        motions, audios, masks = zip(*embedded, strict=True)
        real = None if target is None else self._embed_target(target, features, reference, lengths, levels)
        wanted = audios if real is None or target_share is not None else real
        per_region, per_level = self._compare(motions, wanted, masks, levels)
        if real is not None and target_share is not None:
            best = self._compare(real, audios, masks, levels)[1].detach()
            per_level = torch.maximum(per_level, float(target_share) * best)
        total = _total(per_level, self.level_weights[: len(levels)], masks)
        if len(levels) < self.num_levels:
            skipped = (0, self.num_levels - len(levels))
            per_level, per_region = nn.functional.pad(per_level, skipped), nn.functional.pad(per_region, skipped)
        if silence is None:
            return SyncLossOutput(total, per_level, per_region, torch.zeros_like(total))
        return SyncLossOutput(total + self.silence_weight * silence, per_level, per_region, silence)

    def _compare(
        self, motions: Sequence[Tensor], wanted: Sequence[Tensor], masks: Sequence[Tensor | None], levels: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Return the losses of regions, (regions, levels), and of levels, (levels,)."""
        regions = zip(*(self.syncers.columns(level) for level in levels), strict=True)
        parts = [_of_region(columns, motions, wanted, masks) for columns in regions]
        if len(parts) == 1:  # whose share is 1
            return parts[0][None], parts[0]
        per_region = torch.stack(parts)
        return per_region, (per_region * self.region_shares[:, : len(levels)]).sum(dim=0)

    def _silence(
        self, landmarks: Tensor, speech: Tensor | None, reference: str | Tensor | None, lengths: Tensor | None
    ) -> Tensor | None:
        """Compute the silence loss, a scalar; None without ``speech``. The padding of clips does not count as pause."""
        if speech is None:
            if self.silence_weight:
                raise ArgumentError("`speech`: expected a mask (batch, frames) with `silence_weight`, got None")
            return None
        if lengths is not None:
            check_shape("speech", speech, "batch frames", batch=landmarks.shape[0], frames=landmarks.shape[1])
            landmarks = hold_last_frame(landmarks, landmarks.shape[1], lengths)
            frame = torch.arange(landmarks.shape[1], device=landmarks.device)
            speech = speech | (frame >= lengths.to(landmarks.device)[:, None])
        return silence_loss(landmarks, speech, reference="first" if reference is None else reference, fps=self.fps)

    @torch.no_grad()
    def _embed_target(
        self,
        target: Tensor,
        features: Tensor,
        reference: str | Tensor | None,
        lengths: Tensor | None,
        levels: Sequence[int],
    ) -> tuple[Tensor, ...]:
        """Return the motion embeddings of the real motion, one (batch, windows, embed) per level."""
        if isinstance(self.syncers, MultiScaleSyncer):
            return tuple(self.syncers.embed_motion(target, reference=reference, lengths=lengths, levels=levels))
        return tuple(pair.motion for pair in self.syncers(target, features, lengths, levels))

    def _audio_of(self, audio: Tensor, frames: int) -> Tensor:
        """Return audio with the length of ``frames`` motion frames after resampling to the syncers' rate."""
        if not is_tensor(audio) or audio.ndim not in (2, 3) or not audio.is_floating_point():
            return audio  # an error follows
        fps = self._syncer_fps
        wanted = resampled_length(frames, self.fps, fps)
        stride = self.syncers.audio_stride
        per_frame = stride if audio.ndim == 3 else round(SAMPLE_RATE / fps)
        unit = "audio frames" if audio.ndim == 3 else "samples"
        exact = frames * per_frame * fps / self.fps
        if abs(audio.shape[1] - exact) > per_frame * max(1.0, fps / self.fps):
            raise ShapeError(
                f"`audio`: expected about {round(exact)} {unit} for {frames} motion frames at {self.fps:g} per second, got"
                f" {audio.shape[1]}"
            )
        if audio.ndim == 3:
            return fit_frames(audio, per_frame * wanted)
        return nn.functional.pad(audio, (0, max(0, per_frame * wanted - audio.shape[1])))[:, : per_frame * wanted]

    def _features(self, landmarks: Tensor, audio: Tensor, lengths: Tensor | None) -> Tensor:
        if not is_tensor(audio) or audio.ndim not in (2, 3):
            raise ShapeError(
                "`audio`: expected features (batch, audio_frames, coeffs) or a waveform (batch, samples), got"
                f" {describe_shape(audio)}"
            )
        check_same_device("audio", audio, landmarks.device, "`landmarks`")
        if audio.dtype in (torch.int16, torch.int32):
            raise ShapeError(
                f"`audio`: expected floating point in [-1, 1], got {audio.dtype}; divide by {torch.iinfo(audio.dtype).max}"
            )
        check_floating("audio", audio)
        if audio.ndim == 3:
            return audio
        # A few samples are enough to detect integers, and their cost is negligible compared to the features.
        if values_known(audio) and audio.numel() and audio.detach()[:, ::64].abs().amax() > 64:
            raise ArgumentError(
                "`audio`: expected a waveform in [-1, 1], got one of integers; divide it by 32768 if they have 16 bits"
            )
        if self.audio_transform is None:
            raise ArgumentError(
                "`audio`: expected features, because the loss has no `audio_transform` for waveforms, got a waveform"
            )
        frames = landmarks.shape[1]
        if audio.shape[0] != landmarks.shape[0]:
            raise ShapeError(
                f"`audio`: expected (batch={landmarks.shape[0]}, samples) as `landmarks`, got {describe_shape(audio)}"
            )
        if lengths is not None:
            # Frames near the end of a clip see half an analysis window of the samples after the end.
            sample = torch.arange(audio.shape[1], device=audio.device)
            audio = torch.where(sample < round(SAMPLE_RATE / self._syncer_fps) * lengths[:, None], audio, 0.0)
        features = self.audio_transform(audio)
        if features.ndim == 3 and features.shape[1] != self.syncers.audio_stride * frames:
            raise ShapeError(_rate_message(audio.shape[1], frames, self._syncer_fps))
        return features

    def _levels(self, frames: int, syncers: MultiScaleSyncer) -> list[int]:
        """Return the levels that clips of ``frames`` frames can fill: all levels, unless ``skip_short`` is True."""
        levels = list(range(self.num_levels))
        if not self.skip_short:
            shortest = syncers.shortest_clip()
            if frames < shortest:
                raise ClipTooShortError(
                    f"`landmarks`: expected at least {shortest} frames to fill level {self.num_levels - 1} (or skip_short=True "
                    f"to leave out the levels that are too coarse), got {frames}"
                )
            return levels
        fitting = [level for level in levels if frames >= syncers.shortest_clip([level])]
        if self._first_weighted not in fitting:
            shortest = syncers.shortest_clip([self._first_weighted])
            raise ClipTooShortError(
                f"`landmarks`: expected at least {shortest} frames to fill level {self._first_weighted}, got {frames}"
            )
        return fitting


def _shares(weights: Sequence[float], columns: Sequence[Sequence[slice | None]]) -> list[list[float]]:
    """Return each region's share of the loss of each level, regions x levels; zeros at levels without a weighted region."""
    shares = [[weight * (level[region] is not None) for level in columns] for region, weight in enumerate(weights)]
    totals = [sum(column) or 1.0 for column in zip(*shares, strict=True)]
    return [[share / total for share, total in zip(row, totals, strict=True)] for row in shares]


def _of_region(
    columns: Sequence[slice | None], motion: Sequence[Tensor], audio: Sequence[Tensor], masks: Sequence[Tensor | None]
) -> Tensor:
    """Compute the loss of a region at each level, (levels,); 0 for levels without this region."""
    present = [(level, part) for level, part in enumerate(columns) if part is not None]
    if not present:
        return at_least_float32(motion[0]).new_zeros(len(columns))
    losses = _level_losses(
        [motion[level][..., part] for level, part in present],
        [audio[level][..., part] for level, part in present],
        [masks[level] for level, _ in present],
    )
    if len(present) == len(columns):
        return losses
    found = {level: loss for (level, _), loss in zip(present, losses.unbind(), strict=True)}
    return torch.stack([found[level] if level in found else torch.zeros_like(losses[0]) for level in range(len(columns))])


def _checked_pairs(syncers: object) -> Sequence[tuple[nn.Module, nn.Module]]:
    """Return the encoder pairs of a user.

    Raises:
        ArgumentError: ``syncers`` is not a list of at least one pair of modules.
    """
    fits = isinstance(syncers, (list, tuple)) and len(syncers) > 0
    if fits:
        pairs = cast(Sequence[Any], syncers)
        fits = all(
            isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(part, nn.Module) for part in pair)
            for pair in pairs
        )
    if not fits:
        raise ArgumentError(
            "`syncers`: expected a SyncerPyramid, a SyncerEnsemble or a non-empty list of (motion_encoder, audio_encoder) "
            f"pairs, got {type(syncers).__name__}"
        )
    return cast(Sequence[tuple[nn.Module, nn.Module]], syncers)


def _check_target(target: object, landmarks: Tensor) -> None:
    """Raise an error unless the real motion has the shape and the device of the generated motion."""
    if not isinstance(target, Tensor) or target.shape != landmarks.shape:
        raise ShapeError(f"`target`: expected the shape of `landmarks`, {tuple(landmarks.shape)}, got {describe_shape(target)}")
    check_floating("target", target)
    check_same_device("target", target, landmarks.device, "`landmarks`")


def _rate_message(samples: int, frames: int, syncer_fps: float = FPS) -> str:
    """Return the error message for a waveform whose duration differs from that of the landmarks."""
    per_frame = round(SAMPLE_RATE / syncer_fps)
    expected = (
        f"`audio`: expected {per_frame} samples per frame (16 kHz audio, {syncer_fps:g} frames per second), that is"
        f" {per_frame * frames} for {frames} frames, got {samples}"
    )
    ratio = samples / (per_frame * max(frames, 1))
    sample_rates = [rate for rate in (8000, 22050, 24000, 32000, 44100, 48000) if _near(ratio, rate / SAMPLE_RATE)]
    frame_rates = [fps for fps in (12.5, 24, 29.97, 30, 50, 59.94, 60) if _near(ratio, syncer_fps / fps)]
    likely = [f"{rate / 1000:g} kHz audio" for rate in sample_rates]
    likely += [f"landmarks at {fps:g} frames per second" for fps in frame_rates]
    if not likely:
        return expected
    remedy = f"pass fps={frame_rates[0]:g} to the loss" if frame_rates else "resample it first"
    return f"{expected}; that is the length of {' or of '.join(likely)}: {remedy}"


def _near(ratio: float, expected: float) -> bool:
    return abs(ratio / expected - 1) < 0.0005
