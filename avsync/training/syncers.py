"""Training and judging of syncer pyramids."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch import distributed as dist

from avsync.contrastive import AllPairsInfoNCE, InfoNCE, MarginLoss, chance_level, info_nce_within_clips
from avsync.corpus.augment import AugmentConfig
from avsync.corpus.dataset import Batch, ClipBank
from avsync.errors import ConfigError
from avsync.metrics.multi_scale import MAX_OFFSETS, multi_scale_offset
from avsync.syncer import Embeddings, SyncerPyramid
from avsync.training.chance import RandomState, rank_generator
from avsync.training.engine import History, train_loop
from avsync.training.processes import Precision, Trained, world_group
from avsync.training.schedule import cosine_schedule, set_learning_rate
from avsync.training.store import CheckpointStore

OBJECTIVES = ("all_pairs", "info_nce", "margin")


@dataclass(frozen=True)
class SyncerTrainingConfig:
    """How a pyramid of syncers is trained (ours; ``objective="info_nce"`` with 48 negatives is the paper's loss).

    Attributes:
        steps: Optimisation steps.
        batch_size: Clips in a batch, of each process.
        accumulate: Batches whose gradients are averaged for one step. For "margin", whose negatives lie in the clip, that is the step
            of one large batch; the InfoNCE objectives see no more negatives by it, since those come from one batch only.
        frames: Frames of a crop; longer crops hold more misaligned windows of the same clip, the negatives that teach most.
        fine_frames: Frames of each crop that level 0 sees. It has most windows and learns within a few hundred steps, so showing it
            half of a crop saves a third of the time and costs it nothing.
        first_share: Share of the batches in which motion is measured from the first face of a crop instead of the mean face. Some of
            each make syncers that serve both, as a loss that starts from an observed face and as a metric.
        learning_rate: Peak rate of AdamW.
        weight_decay: Decay of AdamW.
        warm_up: Steps of linear warm-up before the cosine.
        objective: "all_pairs" (InfoNCE over the whole batch plus InfoNCE within clips), "info_nce" (sampled negatives, the
            paper's) or "margin" (SyncNet's, for metric syncers).
        within_clip_weight: Weight of the part within clips in "all_pairs".
        temperature: Start of the learnable temperature of the InfoNCE objectives.
        num_negatives: Sampled negatives of "info_nce" and "margin".
        margin: Margin of "margin", a distance between unit vectors; 1.4, nearly that of orthogonal ones, learns about twice as fast as
            the published 1.
        grad_clip: Largest gradient norm; 0 for none.
        seed: Seed of crops, augmentation and negatives.
    """

    steps: int = 600
    batch_size: int = 16
    accumulate: int = 1
    frames: int = 160
    fine_frames: int = 80
    first_share: float = 0.3
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warm_up: int = 50
    objective: str = "all_pairs"
    within_clip_weight: float = 3.0
    temperature: float = 0.07
    num_negatives: int = 48
    margin: float = 1.0
    grad_clip: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "frames", "fine_frames", "num_negatives"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}`: expected at least 1, got {getattr(self, name)}")
        if self.objective not in OBJECTIVES:
            raise ConfigError(f"`objective`: expected one of {OBJECTIVES}, got {self.objective!r}")


class LevelObjective(nn.Module):
    """The training loss of one level, and what it would be at chance.

    Args:
        config: Which loss, and its settings.
    """

    def __init__(self, *, config: SyncerTrainingConfig) -> None:
        super().__init__()
        self.config = config
        if config.objective == "margin":
            self.loss: nn.Module = MarginLoss(margin=config.margin, num_negatives=config.num_negatives, source="in_clip")
        elif config.objective == "info_nce":
            self.loss = InfoNCE(num_negatives=config.num_negatives, temperature=config.temperature, learnable=True)
        else:
            # 60 is below the scale from which the loss needs a maximum, a third of its time; the temperature never gets there.
            self.loss = AllPairsInfoNCE(temperature=config.temperature, learnable=True, max_scale=60.0)

    def chance(self, clips: int, windows: int) -> float:
        """The loss of embeddings that say nothing, of ``clips`` clips of all processes together."""
        if self.config.objective == "margin":
            # The best single distance d for aligned and misaligned pairs alike minimises (d^2 + (margin - d)^2) / 4.
            return self.config.margin**2 / 8
        if self.config.objective == "info_nce":
            return chance_level(self.config.num_negatives)
        return math.log(clips * windows) + self.config.within_clip_weight * math.log(windows)

    def forward(self, embedded: Embeddings, generator: torch.Generator, group: dist.ProcessGroup | None = None) -> Tensor:
        """The loss of one level's embeddings; negatives are drawn from ``generator`` where they are drawn.

        The InfoNCE objectives take the windows of all processes of ``group`` as negatives; those of "margin" lie in the clip.
        """
        if isinstance(self.loss, MarginLoss):
            return self.loss(embedded.audio, embedded.motion, generator=generator, mask=embedded.mask)
        if isinstance(self.loss, InfoNCE):
            return self.loss(embedded.audio, embedded.motion, generator=generator, mask=embedded.mask, group=group)
        across = self.loss(embedded.audio, embedded.motion, mask=embedded.mask, group=group)
        if not self.config.within_clip_weight or not isinstance(self.loss, AllPairsInfoNCE):
            return across
        temperature = self.loss.current_temperature()
        within = info_nce_within_clips(embedded.audio, embedded.motion, temperature=temperature, mask=embedded.mask)
        return across + self.config.within_clip_weight * within


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
    pyramid: SyncerPyramid, crops: Batch, *, margin: int, max_offsets: tuple[int, ...] = MAX_OFFSETS, chunk: int = 128
) -> tuple[Tensor, Tensor, Tensor]:
    """Offset, confidence and distance of every crop at every level.

    Args:
        pyramid: Syncers.
        crops: Crops with ``margin`` frames of sound around them, as :meth:`avsync.corpus.dataset.ClipBank.windows` cuts them.
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
    pyramid: SyncerPyramid, crops: Batch, *, margin: int, max_offsets: tuple[int, ...] = MAX_OFFSETS
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
            within_one=float((offset.abs() <= 1).float().mean()),
            exact=float((offset == 0).float().mean()),
            confidence=float(confidence.mean()),
            distance=float(distance.mean()),
        )
        for offset, confidence, distance in zip(offsets, confidences, distances, strict=True)
    ]


def embed_crops(
    encoder: Callable[..., list[Embeddings]], batch: Batch, num_levels: int, fine_frames: int, reference: str
) -> list[Embeddings]:
    """All levels of a batch's embeddings, level 0 of the first ``fine_frames`` frames only.

    Args:
        encoder: A :class:`avsync.syncer.SyncerPyramid`, perhaps wrapped for other devices.
        batch: Crops.
        num_levels: Levels of the pyramid.
        fine_frames: Frames that level 0 sees.
        reference: "first" or "mean".

    Returns:
        One :class:`avsync.syncer.Embeddings` a level.
    """
    frames = min(fine_frames, batch.landmarks.shape[1])
    stride = batch.audio.shape[1] // batch.landmarks.shape[1]
    fine = encoder(batch.landmarks[:, :frames], batch.audio[:, : stride * frames], reference=reference, levels=[0])
    if num_levels == 1:
        return fine
    return fine + encoder(batch.landmarks, batch.audio, reference=reference, levels=list(range(1, num_levels)))


def train_syncers(
    pyramid: SyncerPyramid,
    bank: ClipBank,
    config: SyncerTrainingConfig,
    *,
    fabric: Any,
    augment: AugmentConfig | None = None,
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
    """Train all levels of a pyramid together; they share nothing but the batch.

    Args:
        pyramid: Trained in place; its audio statistics are set from ``bank``.
        bank: Clips to train on.
        config: How.
        fabric: A launched Lightning Fabric (:func:`avsync.training.processes.make_fabric`).
        augment: How clips are varied; None for not at all.
        checkpoint: Folder in which the state is kept, or a :class:`avsync.training.store.CheckpointStore`; None keeps nothing.
        resume: Go on from the newest good checkpoint, if there is one.
        checkpoint_every: Steps between checkpoints.
        evaluate: Called with the step number; what it returns is logged.
        evaluate_every: Steps between evaluations.
        logs: Folder for ``metrics.csv`` and TensorBoard's events; None writes none.
        compiled: Compile the pyramid with ``torch.compile``; ``benchmarks/bench_compile.py`` measures what it brings.
        progress: Show a progress bar.
        name: What the bar is called.

    Returns:
        The history: loss, chance level, each level's loss over its chance level, and each level's gradient norm before clipping.

    Source: paper section 3.1, Figure 1.
    """
    pyramid.set_audio_statistics(*bank.audio_statistics())
    objectives = [LevelObjective(config=config) for _ in range(pyramid.num_levels)]
    objective_modules = nn.ModuleList(objectives)
    scales = list(objective_modules.parameters())
    # Decaying a temperature would pull it towards scale 1, which is no neutral value.
    groups: list[dict[str, Any]] = [{"params": list(pyramid.parameters())}]
    groups += [{"params": scales, "weight_decay": 0.0}] if scales else []
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.98))
    generator = rank_generator(config.seed, fabric.global_rank)
    group = world_group(fabric)
    encode = torch.compile(pyramid.forward) if compiled else pyramid
    chances: list[float] = []

    def level_losses(batch: Batch, reference: str) -> Tensor:
        embedded = embed_crops(encode, batch, pyramid.num_levels, config.fine_frames, reference)
        pairs = list(zip(objectives, embedded, strict=True))
        clips = fabric.world_size * len(batch)
        chances[:] = [objective.chance(clips, level.motion.shape[1]) for objective, level in pairs]
        return torch.stack([objective(level, generator, group) for objective, level in pairs])

    compute = Trained(fabric, level_losses, [pyramid, objective_modules], optimizer)

    def step(now: int) -> dict[str, Tensor]:
        set_learning_rate(compute.optimizer, cosine_schedule(now, config.steps, warm_up=config.warm_up))
        compute.optimizer.zero_grad()
        total = torch.zeros(pyramid.num_levels, device=fabric.device)
        for part in range(config.accumulate):
            batch = bank.sample(config.batch_size, config.frames, generator=generator, augment=augment).to(fabric.device)
            reference = "first" if float(torch.rand((), generator=generator)) < config.first_share else "mean"
            with compute.gradients_stay(part + 1 < config.accumulate):
                losses = compute(batch, reference)
                fabric.backward(losses.sum() / config.accumulate)
            total += losses.detach() / config.accumulate
        # One norm a level: a coarse level's gradients must not shrink a fine one's.
        norms = compute.clip(list(pyramid.syncers), config.grad_clip)
        compute.optimizer.step()
        scalars = {"loss": total.mean(), "chance": torch.tensor(sum(chances) / len(chances))}
        scalars |= {f"loss{level}": total[level] / chances[level] for level in range(len(chances))}
        return scalars | {f"grad{level}": norm for level, norm in enumerate(norms)}

    pyramid.train()
    history = train_loop(
        name,
        steps=config.steps,
        step=step,
        state={
            "pyramid": pyramid,
            "objectives": objective_modules,
            "optimizer": compute.optimizer,
            "precision": Precision(fabric),
            "random": RandomState(generator),
        },
        checkpoint=checkpoint,
        resume=resume,
        checkpoint_every=checkpoint_every,
        evaluate=evaluate,
        evaluate_every=evaluate_every,
        logs=logs,
        progress=progress,
        fabric=fabric,
    )
    pyramid.eval()
    return history
