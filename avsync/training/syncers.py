"""Training and judging of syncer pyramids."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from avsync.corpus.banks.augmentation import AugmentConfig
from avsync.corpus.banks.crops import Batch, CropBank
from avsync.errors import ArgumentError
from avsync.landmarks.motion_features import local_shape
from avsync.metrics.multi_scale import MAX_OFFSETS, multi_scale_offset
from avsync.models.syncer.interface import Embeddings, MultiScaleSyncer
from avsync.models.syncer.pyramid import SyncerPyramid
from avsync.training.chance import RandomState, rank_generator
from avsync.training.checkpoint import Stateful
from avsync.training.doctor.vitals import loss_temperatures, vital_signs
from avsync.training.ema import WeightAverage
from avsync.training.engine import History, train_loop
from avsync.training.level_losses import level_losses
from avsync.training.objectives import LevelObjective, SyncerTrainingConfig
from avsync.training.processes import Precision, Trained, world_group
from avsync.training.schedule import cosine_schedule, set_learning_rate
from avsync.training.speech_weights import speech_weights
from avsync.training.store import CheckpointStore

__all__ = [
    "LevelReport",
    "SyncerTrainingConfig",
    "average_shape",
    "embed_crops",
    "evaluate_syncers",
    "judge_offsets",
    "train_syncers",
]

SHORTEST_SPAN = 5
"""Frames of the shortest stretch whose mean face motion is measured from, those of one window."""


class LevelReport(NamedTuple):
    """How well one level finds offsets."""

    clips: int
    """Clips judged."""
    within_one: float
    """Share of clips whose offset is within one frame of the level."""
    exact: float
    """Share of clips whose offset is exactly 0."""
    confidence: float
    """Mean confidence."""
    distance: float
    """Mean distance at the best offset (LSE-D)."""


@torch.no_grad()
def judge_offsets(
    pyramid: MultiScaleSyncer, crops: Batch, *, margin: int, max_offsets: tuple[int, ...] = MAX_OFFSETS, chunk: int = 128
) -> tuple[Tensor, Tensor, Tensor]:
    """Offset, confidence and distance of every crop at every level.

    Args:
        pyramid: Syncers.
        crops: Crops with ``margin`` frames of sound around them, as :meth:`avsync.corpus.banks.crops.CropBank.windows` cuts them.
        margin: That margin, in motion frames.
        max_offsets: Frames of the level searched to both sides, one a level.
        chunk: Crops handled at once.

    Returns:
        Offsets in frames of the level (int64), confidences and distances, each (levels, crops).
    """
    parts = []
    for start in range(0, crops.landmarks.shape[0], chunk):
        landmarks, audio = crops.landmarks[start : start + chunk], crops.audio[start : start + chunk]
        levels = multi_scale_offset(pyramid, landmarks, audio, margin=margin, max_offsets=max_offsets)
        parts.append(
            [torch.stack([getattr(level, name) for level in levels]) for name in ("offset_frames", "confidence", "distance")]
        )
    offsets, confidences, distances = (torch.cat(column, dim=1) for column in zip(*parts, strict=True))
    return offsets, confidences, distances


def evaluate_syncers(
    pyramid: MultiScaleSyncer, crops: Batch, *, margin: int, max_offsets: tuple[int, ...] = MAX_OFFSETS
) -> list[LevelReport]:
    """Offset accuracy and confidence on crops that are in sync.

    Args:
        pyramid: Syncers; judged in eval mode, then put back.
        crops: Crops with ``margin`` frames of sound around them.
        margin: That margin, in motion frames.
        max_offsets: Frames of the level searched to both sides, one a level.

    Returns:
        One :class:`LevelReport` a level.
    """
    training = pyramid.training
    pyramid.eval()
    offsets, confidences, distances = judge_offsets(pyramid, crops, margin=margin, max_offsets=max_offsets)
    pyramid.train(training)
    return [
        LevelReport(
            clips=offset.numel(),
            # Where all offsets look alike, the confidence is 0 and the offset says nothing.
            within_one=float(((offset.abs() <= 1) & (confidence > 0)).float().mean()),
            exact=float(((offset == 0) & (confidence > 0)).float().mean()),
            confidence=float(confidence.mean()),
            distance=float(distance.mean()),
        )
        for offset, confidence, distance in zip(offsets, confidences, distances, strict=True)
    ]


def embed_crops(
    encoder: Callable[..., list[Embeddings]],
    batch: Batch,
    levels: Sequence[int],
    fine_frames: int,
    reference: str | Tensor,
) -> list[Embeddings]:
    """Some levels of a batch's embeddings, level 0 of the first ``fine_frames`` frames only.

    Args:
        encoder: A :class:`avsync.models.syncer.pyramid.SyncerPyramid`, perhaps wrapped for other devices.
        batch: Crops.
        levels: Which levels, in order.
        fine_frames: Frames that level 0 sees.
        reference: "first", "mean", or faces (batch, points, dims).

    Returns:
        One :class:`avsync.models.syncer.interface.Embeddings` a level.
    """
    coarse = [level for level in levels if level > 0]
    embedded = encoder(batch.landmarks, batch.audio, reference=reference, levels=coarse) if coarse else []
    if 0 not in levels:
        return embedded
    frames = min(fine_frames, batch.landmarks.shape[1])
    stride = batch.audio.shape[1] // batch.landmarks.shape[1]
    return encoder(batch.landmarks[:, :frames], batch.audio[:, : stride * frames], reference=reference, levels=[0]) + embedded


def embed_single_windows(pyramid: SyncerPyramid, batch: Batch, frames: int) -> Embeddings:
    """Level 0 of the first ``frames`` frames of a batch, the motion of each window embedded as a clip that has no other frames.

    Args:
        pyramid: Syncers.
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
    """What a batch's motion is measured from: see ``first_share`` and ``short_share`` of :class:`SyncerTrainingConfig`.

    Args:
        landmarks: (batch, frames, points, dims).
        config: The shares.
        generator: Source of chance.

    Returns:
        "first", "mean", or faces (batch, points, dims).
    """
    chance = float(torch.rand((), generator=generator))
    if chance < config.first_share:
        return "first"
    if chance >= config.first_share + config.short_share:
        return "mean"
    frames = landmarks.shape[1]
    span, start = torch.rand(2, generator=generator).tolist()
    span = min(frames, round(SHORTEST_SPAN * (frames / SHORTEST_SPAN) ** span))  # short stretches as often as long ones
    begin = round(start * (frames - span))
    return landmarks[:, begin : begin + span].mean(dim=1)


def average_shape(bank: CropBank, *, stride: int = 25) -> Tensor:
    """Mean of :func:`avsync.landmarks.motion_features.local_shape` over speakers, each counted once, (points, dims).

    Args:
        bank: Clips of the 68-point layout.
        stride: Frames from one face that is looked at to the next.
    """
    faces = bank.windows(1, stride=stride)
    shapes = local_shape(faces.landmarks)[:, 0]
    number = {speaker: i for i, speaker in enumerate(bank.speakers)}
    speaker = torch.tensor([number[name] for name in bank.clip_speakers], device=shapes.device)[faces.clip_index]
    total = shapes.new_zeros(len(number), *shapes.shape[1:]).index_add_(0, speaker, shapes)
    return (total / speaker.bincount(minlength=len(number))[:, None, None]).mean(dim=0)


def train_syncers(
    pyramid: SyncerPyramid,
    bank: CropBank,
    config: SyncerTrainingConfig,
    *,
    fabric: Any,
    augment: AugmentConfig | None = None,
    levels: Sequence[int] | None = None,
    checkpoint: Path | CheckpointStore | None = None,
    resume: bool = False,
    checkpoint_every: int = 200,
    evaluate: Callable[[int], Mapping[str, float]] | None = None,
    evaluate_every: int = 0,
    logs: Path | None = None,
    compiled: bool = False,
    progress: bool = True,
    name: str = "syncers",
) -> History:
    """Train levels of a pyramid together; they share nothing but the batch.

    Args:
        pyramid: Trained in place; its audio statistics are set from ``bank``.
        bank: Clips to train on.
        config: How.
        fabric: A launched Lightning Fabric (:func:`avsync.training.processes.make_fabric`).
        augment: How clips are varied; None for not at all.
        levels: Which levels to train, the finest first; None for all. The others stay as they are.
        checkpoint: Folder in which the state is kept, or a :class:`avsync.training.store.CheckpointStore`; None keeps nothing.
        resume: Go on from the newest good checkpoint, if there is one.
        checkpoint_every: Steps between checkpoints.
        evaluate: Called with the step number; what it returns is logged.
        evaluate_every: Steps between evaluations.
        logs: Folder for ``metrics.csv`` and TensorBoard's events; None writes none.
        compiled: Compile the pyramid with ``torch.compile``; ``benchmarks/bench_compile.py`` measures what it brings. Batches of
            single windows (``window_share``) run as they are.
        progress: Show a progress bar.
        name: What the bar is called.

    Returns:
        The history: loss, chance level, each level's loss over its chance level, each level's gradient norm before clipping, and the
        vital signs of the embeddings (:func:`avsync.training.doctor.vitals.vital_signs`).
        :func:`avsync.training.doctor.diagnosis.diagnose` says in words what it shows.

    Source: paper section 3.1, Figure 1.
    """
    pyramid.set_audio_statistics(*bank.audio_statistics())
    if "shape" in pyramid.config.motion:
        pyramid.set_average_shape(average_shape(bank))
    chosen = list(range(pyramid.num_levels)) if levels is None else sorted(set(levels))
    if not chosen or not 0 <= chosen[0] <= chosen[-1] < pyramid.num_levels:
        raise ArgumentError(f"`levels`: expected some of 0 to {pyramid.num_levels - 1}, got {levels}")
    pyramid.to(fabric.device)  # levels that are not trained, too: they are evaluated beside the others
    syncers = nn.ModuleList(pyramid.syncers[level] for level in chosen)
    objectives = [LevelObjective(config=config) for _ in chosen]
    objective_modules = nn.ModuleList(objectives)
    scales = list(objective_modules.parameters())
    # Decaying a temperature would pull it towards scale 1, which is no neutral value.
    groups: list[dict[str, Any]] = [{"params": list(syncers.parameters())}]
    groups += [{"params": scales, "weight_decay": 0.0}] if scales else []
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.98))
    generator = rank_generator(config.seed, fabric.global_rank)
    group = world_group(fabric)
    encode = torch.compile(pyramid.forward) if compiled else pyramid
    chances: list[float] = []
    signs: dict[str, Tensor] = {}

    def embed(batch: Batch, reference: str | Tensor) -> list[Embeddings]:
        shares = config.window_share > 0 and chosen[0] == 0
        if not shares or float(torch.rand((), generator=generator)) >= config.window_share:
            return embed_crops(encode, batch, chosen, config.fine_frames, reference)
        coarse = embed_crops(encode, batch, chosen[1:], config.fine_frames, reference)
        return [embed_single_windows(pyramid, batch, config.fine_frames), *coarse]

    def level_weights(batch: Batch, windows: list[int]) -> list[Tensor | None]:
        if config.pause_weight == 1:
            return [None] * len(chosen)
        levels = speech_weights(
            batch.speech, chosen[-1] + 1, window=pyramid.config.syncer.window, pause_weight=config.pause_weight
        )
        # Level 0 may see the beginning of the crops alone.
        return [levels[level][:, :count] for level, count in zip(chosen, windows, strict=True)]

    def batch_losses(batch: Batch, reference: str | Tensor) -> Tensor:
        embedded = embed(batch, reference)
        clips = fabric.world_size * len(batch)
        span = config.spans[int(torch.randint(len(config.spans), (), generator=generator))] if config.offset_weight else 1
        chances[:] = [
            objective.chance(clips, level.motion.shape[1], span) for objective, level in zip(objectives, embedded, strict=True)
        ]
        temperatures = loss_temperatures(objective.loss for objective in objectives)
        signs.update(vital_signs(embedded, temperatures=temperatures, levels=chosen))
        weights = level_weights(batch, [level.motion.shape[1] for level in embedded])
        return level_losses(objectives, embedded, generator, group, span=span, weights=weights)

    compute = Trained(fabric, batch_losses, [syncers, objective_modules], optimizer)
    # Behind Trained, which brings the weights to their device and makes them those of the first process.
    average = WeightAverage(pyramid, decay=config.ema_decay) if config.ema_decay else None

    def step(now: int) -> dict[str, Tensor]:
        factor = cosine_schedule(now, config.schedule_steps or config.steps, warm_up=config.warm_up)
        set_learning_rate(compute.optimizer, factor)
        compute.optimizer.zero_grad()
        total = torch.zeros(len(chosen), device=fabric.device)
        for part in range(config.accumulate):
            batch = bank.sample(config.batch_size, config.frames, generator=generator, augment=augment).to(fabric.device)
            reference = draw_reference(batch.landmarks, config, generator)
            with compute.gradients_stay(part + 1 < config.accumulate):
                losses = compute(batch, reference)
                fabric.backward(losses.sum() / config.accumulate)
            total += losses.detach() / config.accumulate
        # One norm a level: a coarse level's gradients must not shrink a fine one's.
        norms = compute.clip(list(syncers), config.grad_clip)
        compute.optimizer.step()
        if average is not None:
            average.update()
        scalars = {"loss": total.mean(), "chance": torch.tensor(sum(chances) / len(chances))}
        for level, loss, chance, norm in zip(chosen, total, chances, norms, strict=True):
            scalars |= {f"loss{level}": loss / chance, f"grad{level}": norm}
        return scalars | signs

    def evaluate_average(now: int) -> Mapping[str, float]:
        with average.applied() if average is not None else contextlib.nullcontext():
            return evaluate(now) if evaluate is not None else {}

    state: dict[str, Stateful] = {
        "pyramid": pyramid,
        "objectives": objective_modules,
        "optimizer": compute.optimizer,
        "precision": Precision(fabric),
        "random": RandomState(generator),
    }
    state |= {} if average is None else {"average": average}
    pyramid.train()
    history = train_loop(
        name,
        steps=config.steps,
        step=step,
        state=state,
        checkpoint=checkpoint,
        resume=resume,
        checkpoint_every=checkpoint_every,
        evaluate=None if evaluate is None else evaluate_average,
        evaluate_every=evaluate_every,
        logs=logs,
        progress=progress,
        fabric=fabric,
    )
    if average is not None:
        average.copy_to_module()
    pyramid.eval()
    return history
