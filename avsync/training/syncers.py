"""Training of syncer pyramids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Unpack

import torch
from einops import rearrange
from torch import Tensor, nn

from avsync._checks import checked
from avsync.corpus.banks.augmentation import AugmentConfig
from avsync.corpus.banks.bank import Batch, CropBank, encode_waveform
from avsync.corpus.clip import SAMPLES_PER_FRAME
from avsync.errors import ArgumentError
from avsync.landmarks.head_frame import local_shape
from avsync.landmarks.lip_leak import fit_lip_leak
from avsync.models.syncer.interface import Embeddings
from avsync.models.syncer.pyramid import SyncerPyramid
from avsync.training.checkpoint import Stateful
from avsync.training.doctor.vitals import loss_temperatures, vital_signs
from avsync.training.ema import weight_average
from avsync.training.engine import History, LoopOptions, flat_settings, train_averaged
from avsync.training.objectives import LevelObjective, SyncerTrainingConfig, level_losses
from avsync.training.optimisation import OptimizerState, Precision, Trained, cosine_schedule, set_learning_rate, to_device
from avsync.training.processes import check_fabric, world_group
from avsync.training.random_state import RandomState, rank_generator
from avsync.training.speech_weights import speech_weights

SHORTEST_SPAN = 5
"""Frames of a window: no shorter segment is used as the mean face of its motion."""


@checked
def embed_crops(
    encoder: Callable[..., list[Embeddings]],
    batch: Batch,
    levels: Sequence[int],
    fine_frames: int,
    reference: str | Tensor,
) -> list[Embeddings]:
    """Compute embeddings of some levels of a batch, at level 0 of the first ``fine_frames`` frames only.

    Args:
        encoder: A :class:`avsync.models.syncer.pyramid.SyncerPyramid`, or a wrapper around one.
        batch: Crops.
        levels: The levels, in order.
        fine_frames: Frames that level 0 sees.
        reference: "first", "mean", or faces (batch, points, dims).

    Returns:
        One :class:`avsync.models.syncer.interface.Embeddings` per level.
    """
    coarse = [level for level in levels if level > 0]
    embedded = encoder(batch.landmarks, batch.audio, reference=reference, levels=coarse) if coarse else []
    if 0 not in levels:
        return embedded
    frames = min(fine_frames, batch.landmarks.shape[1])
    stride = batch.audio.shape[1] // batch.landmarks.shape[1]
    return encoder(batch.landmarks[:, :frames], batch.audio[:, : stride * frames], reference=reference, levels=[0]) + embedded


def embed_single_windows(pyramid: SyncerPyramid, batch: Batch, frames: int) -> Embeddings:
    """Compute level 0 of the first ``frames`` frames of a batch, the motion of each window embedded as a clip of its own.

    Args:
        pyramid: The syncers.
        batch: Crops.
        frames: Frames that level 0 sees.

    Returns:
        As many windows as :func:`embed_crops` returns for level 0.

    Source: ours.
    """
    frames = min(frames, batch.landmarks.shape[1])
    stride = batch.audio.shape[1] // batch.landmarks.shape[1]
    alone = batch.landmarks[:, :frames].unfold(1, pyramid.config.syncer.window, 1)
    clips = rearrange(alone, "batch windows points dims frames -> (batch windows) frames points dims")
    motion = pyramid.embed_motion(clips, reference="mean", levels=[0])[0]
    audio = pyramid.embed_audio(batch.audio[:, : stride * frames], levels=[0])[0]
    return Embeddings(rearrange(motion, "(batch windows) 1 embed -> batch windows embed", batch=len(batch)), audio)


def draw_reference(landmarks: Tensor, config: SyncerTrainingConfig, generator: torch.Generator) -> str | Tensor:
    """Draw the reference of a batch's motion; see ``first_share`` and ``short_share`` of :class:`SyncerTrainingConfig`.

    Args:
        landmarks: (batch, frames, points, dims).
        config: The shares.
        generator: Random generator.

    Returns:
        "first", "mean", or faces (batch, points, dims).
    """
    drawn = float(torch.rand((), generator=generator))
    if drawn < config.first_share:
        return "first"
    if drawn >= config.first_share + config.short_share:
        return "mean"
    frames = landmarks.shape[1]
    span, start = torch.rand(2, generator=generator).tolist()
    span = min(frames, round(SHORTEST_SPAN * (frames / SHORTEST_SPAN) ** span))  # short segments as often as long ones
    begin = round(start * (frames - span))
    return landmarks[:, begin : begin + span].mean(dim=1)


@checked
def average_shape(bank: CropBank, *, stride: int = 25) -> Tensor:
    """Compute the mean of :func:`avsync.landmarks.head_frame.local_shape` over speakers, each counted once.

    Args:
        bank: Clips of the 68-point layout.
        stride: Frames from one face that is measured to the next.

    Returns:
        (points, dims).
    """
    faces = bank.windows(1, stride=stride)
    shapes = local_shape(faces.landmarks)[:, 0]
    number = {speaker: i for i, speaker in enumerate(bank.speakers)}
    speaker = torch.tensor([number[name] for name in bank.clip_speakers], device=shapes.device)[faces.clip_index]
    total = shapes.new_zeros(len(number), *shapes.shape[1:]).index_add_(0, speaker, shapes)
    return (total / speaker.bincount(minlength=len(number))[:, None, None]).mean(dim=0)


class _BatchLosses(NamedTuple):
    """Losses of one batch, and what is logged with them."""

    losses: Tensor
    """(levels,)."""
    chance: list[float]
    """Chance level of the loss of each level."""
    signs: dict[str, Tensor]
    """Vital signs of the embeddings."""


class SyncerSteps:
    """Optimisation steps of some levels of a pyramid; the levels share only the batch.

    Args:
        pyramid: Trained in place.
        bank: Clips to train on.
        config: Settings.
        levels: The levels to train, in order.
        fabric: A launched Lightning Fabric.
        augment: Augmentation of the clips; None for none.
        compiled: Compile the pyramid with ``torch.compile``.
    """

    def __init__(
        self,
        *,
        pyramid: SyncerPyramid,
        bank: CropBank,
        config: SyncerTrainingConfig,
        levels: Sequence[int],
        fabric: Any,
        augment: AugmentConfig | None,
        compiled: bool,
    ) -> None:
        check_fabric(fabric)
        self.pyramid, self.bank, self.config, self.augment = pyramid, bank, config, augment
        self.fabric, self.levels = fabric, list(levels)
        pyramid.to(fabric.device)  # also the levels that are not trained: they are evaluated with the others
        self.syncers = nn.ModuleList(pyramid.syncers[level] for level in levels)
        self.objectives = nn.ModuleList(LevelObjective(config=config) for _ in levels)
        self.generator = rank_generator(config.seed, fabric.global_rank)
        self._group = world_group(fabric)
        self._encode = torch.compile(pyramid.forward) if compiled else pyramid
        self._compute = Trained(fabric, self._batch_losses, [self.syncers, self.objectives], self._make_optimizer())
        # After Trained, which moves the weights to their device and copies them from the first process.
        self.average = weight_average(pyramid, decay=config.ema_decay) if config.ema_decay else None

    def _make_optimizer(self) -> torch.optim.Optimizer:
        config, scales = self.config, list(self.objectives.parameters())
        # Decay would pull a temperature towards scale 1, which is no neutral value.
        groups: list[dict[str, Any]] = [{"params": list(self.syncers.parameters())}]
        groups += [{"params": scales, "weight_decay": 0.0}] if scales else []
        return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.98))

    @property
    def state(self) -> dict[str, Stateful]:
        """The training state by name, for a checkpoint."""
        state: dict[str, Stateful] = {
            "pyramid": self.pyramid,
            "objectives": self.objectives,
            "optimizer": OptimizerState(self._compute.optimizer),
            "precision": Precision(self.fabric),
            "random": RandomState(self.generator),
        }
        return state if self.average is None else {**state, "average": self.average}

    def step(self, now: int) -> dict[str, Tensor]:
        """Do one optimisation step and return the scalars to log.

        Args:
            now: Number of the step, from 1.
        """
        config, compute = self.config, self._compute
        factor = cosine_schedule(now, config.schedule_steps or config.steps, warm_up=config.warm_up)
        set_learning_rate(compute.optimizer, factor)
        compute.optimizer.zero_grad()
        total = torch.zeros(len(self.levels), device=self.fabric.device)
        for part in range(config.accumulate):
            batch = self.bank.sample(config.batch_size, config.frames, generator=self.generator, augment=self.augment)
            batch = to_device(batch, self.fabric.device)
            reference = draw_reference(batch.landmarks, config, self.generator)
            with compute.gradients_stay(part + 1 < config.accumulate):
                result: _BatchLosses = compute(batch, reference)
                self.fabric.backward(result.losses.sum() / config.accumulate)
            total += result.losses.detach() / config.accumulate
        # One norm per level, so that a coarse level's gradients do not shrink a fine one's.
        norms = compute.clip(list(self.syncers), config.grad_clip)
        compute.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.pyramid)
        chance = result.chance
        scalars = {"loss": total.mean(), "chance": torch.full((), sum(chance) / len(chance))}
        for level, loss, at_chance, norm in zip(self.levels, total, chance, norms, strict=True):
            scalars |= {f"loss{level}": loss / at_chance, f"grad{level}": norm}
        return scalars | result.signs

    def _batch_losses(self, batch: Batch, reference: str | Tensor) -> _BatchLosses:
        config = self.config
        embedded = self._embed(batch, reference)
        windows = [level.motion.shape[1] for level in embedded]
        span = 1
        if config.offset_weight:
            span = config.spans[int(torch.randint(len(config.spans), (), generator=self.generator))]
        clips = self.fabric.world_size * len(batch)
        objectives: list[LevelObjective] = list(self.objectives)  # type: ignore[arg-type]
        chance = [objective.chance(clips, count, span) for objective, count in zip(objectives, windows, strict=True)]
        temperatures = loss_temperatures(objective.loss for objective in objectives)
        signs = vital_signs(embedded, temperatures=temperatures, levels=self.levels)
        weights = self._window_weights(batch, windows)
        losses = level_losses(objectives, embedded, self.generator, self._group, span=span, weights=weights)
        return _BatchLosses(losses, chance, signs)

    def _embed(self, batch: Batch, reference: str | Tensor) -> list[Embeddings]:
        config, levels = self.config, self.levels
        with_shares = config.window_share > 0 and levels[0] == 0
        if not with_shares or float(torch.rand((), generator=self.generator)) >= config.window_share:
            return embed_crops(self._encode, batch, levels, config.fine_frames, reference)
        coarse = embed_crops(self._encode, batch, levels[1:], config.fine_frames, reference)
        return [embed_single_windows(self.pyramid, batch, config.fine_frames), *coarse]

    def _window_weights(self, batch: Batch, windows: list[int]) -> list[Tensor | None]:
        """Return the weight of each window of the levels, which have ``windows`` windows; None if all weights are equal."""
        config, levels = self.config, self.levels
        if config.pause_weight == 1:
            return [None] * len(levels)
        window = self.pyramid.config.syncer.window
        weights = speech_weights(batch.speech, levels[-1] + 1, window=window, pause_weight=config.pause_weight)
        # Level 0 may use only the beginning of the crops.
        return [weights[level][:, :count] for level, count in zip(levels, windows, strict=True)]


def check_features(pyramid: SyncerPyramid, bank: CropBank) -> None:
    """Raise unless a bank has the audio features that the config of a pyramid names.

    Args:
        pyramid: The syncers; those with features of their own ("custom") accept every bank.
        bank: Clips to train on.

    Raises:
        ArgumentError: The features differ, so that the trained syncers would later compute other features from waveforms.
    """
    transform = pyramid.speech_features()
    if transform is None:
        return
    noise = 0.1 * torch.randn(25 * SAMPLES_PER_FRAME, generator=torch.Generator().manual_seed(0))
    wanted, given = (encode_waveform(noise.numpy(), features) for features in (transform.features, bank.features))
    # The tolerance covers the rounding of other devices; other settings cause much larger differences.
    if wanted.shape != given.shape or not torch.allclose(wanted, given, atol=0.05, rtol=1e-3):
        raise ArgumentError(
            f"`bank`: expected the features {transform.kind!r} of the pyramid's config, got {type(bank.features).__name__} with"
            f" {given.shape[1]} coefficients or other settings; SyncerPyramidConfig(audio=...) names the features"
        )


@checked
def lip_leak(bank: CropBank, *, frames: int = 100, region: str = "head") -> Tensor:
    """Fit :func:`avsync.landmarks.lip_leak.fit_lip_leak` to all clips of a bank.

    Args:
        bank: Clips of the 68-point layout.
        frames: Frames per crop; shorter clips are left out.
        region: "head" or "expression".

    Returns:
        The weights, (5, 40, 68, 2).
    """
    return fit_lip_leak(bank.windows(frames, stride=frames).landmarks, region=region)


@checked
def train_syncers(
    pyramid: SyncerPyramid,
    bank: CropBank,
    config: SyncerTrainingConfig,
    *,
    fabric: Any,
    augment: AugmentConfig | None = None,
    levels: Sequence[int] | None = None,
    compiled: bool = False,
    name: str = "syncers",
    **options: Unpack[LoopOptions],
) -> History:
    """Train levels of a pyramid together.

    Args:
        pyramid: Trained in place; its audio statistics are set from ``bank``.
        bank: Clips to train on.
        config: Settings.
        fabric: A launched Lightning Fabric (:func:`avsync.training.processes.make_fabric`).
        augment: Augmentation of the clips; None for none.
        levels: Levels to train; None for all. The other levels are not changed.
        compiled: Compile the pyramid with ``torch.compile``; ``benchmarks/bench_compile.py`` measures the gain. Batches of
            single windows (``window_share``) are not compiled.
        name: Label of the progress bar.
        **options: See :class:`avsync.training.engine.LoopOptions`. During ``evaluate`` the pyramid holds the average of its
            weights, if ``config.ema_decay`` is set.

    Returns:
        The history: loss, chance level, each level's loss over its chance level, each level's gradient norm before clipping,
        and the vital signs of the embeddings (:func:`avsync.training.doctor.vitals.vital_signs`).
        :func:`avsync.training.doctor.diagnosis.diagnose` interprets it.

    Raises:
        ArgumentError: ``levels`` names a level that the pyramid does not have, or the bank has other audio features than the
            config of the pyramid names.
        CheckpointError, DivergedError, TrainingInterrupted: See :func:`avsync.training.engine.train_loop`.

    Source: paper section 3.1, Figure 1.
    """
    chosen = list(range(pyramid.num_levels)) if levels is None else sorted(set(levels))
    if not chosen or not 0 <= chosen[0] <= chosen[-1] < pyramid.num_levels:
        raise ArgumentError(f"`levels`: expected some of 0 to {pyramid.num_levels - 1}, got {levels}")
    check_features(pyramid, bank)
    pyramid.set_audio_statistics(*bank.audio_statistics())
    if "shape" in pyramid.config.motion:
        pyramid.set_average_shape(average_shape(bank))
    if pyramid.config.remove_lips:
        pyramid.set_lip_leak(lip_leak(bank, region="expression" if pyramid.config.region == "expression" else "head"))
    steps = SyncerSteps(
        pyramid=pyramid, bank=bank, config=config, levels=chosen, fabric=fabric, augment=augment, compiled=compiled
    )
    settings = flat_settings(config=config, augment=augment, levels=chosen)
    # A run may be continued for more steps if the schedule stays the same.
    settings |= {"config.schedule_steps": config.schedule_steps or config.steps}
    del settings["config.steps"]
    return train_averaged(
        name,
        pyramid,
        steps.average,
        steps=config.steps,
        step=steps.step,
        state=steps.state,
        settings=settings,
        fabric=fabric,
        **options,
    )
