"""Adversarial training of the generator: equations (9) to (14)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from avsync._checks import (
    check_fields,
    check_floating,
    check_same_device,
    check_seed,
    check_shape,
    checked,
    is_launch_bound,
)
from avsync._streams import on_streams
from avsync.corpus.banks.augmentation import AugmentConfig
from avsync.corpus.banks.bank import CropBank
from avsync.errors import ConfigError
from avsync.landmarks.geometry import normalise
from avsync.losses.adversarial import hinge_discriminator_loss, hinge_generator_loss
from avsync.losses.sync import MultiScaleSyncLoss
from avsync.models.discriminators import FrameDiscriminator, PairDiscriminator, WindowDiscriminator
from avsync.models.generator.model import GeneratorOutput, MultiScaleGenerator
from avsync.training.checkpoint import Stateful
from avsync.training.ema import weight_average
from avsync.training.engine import History, LoopOptions, flat_settings, train_averaged
from avsync.training.graphs import CudaRecorder, GraphedStep, make_capturable, use_cuda_graphs
from avsync.training.motion_terms import liveliness_loss, opening_loss, variety_loss
from avsync.training.optimisation import (
    OptimizerState,
    Precision,
    Trained,
    cosine_schedule,
    set_learning_rate,
    step_schedule,
    to_device,
)
from avsync.training.processes import check_fabric
from avsync.training.random_state import RandomState, rank_generator

SYNC_TARGETS = ("audio", "capped", "motion")


@dataclass(frozen=True)
class GanTrainingConfig:
    """Training settings of the generator; the defaults are those of the paper and its code.

    Attributes:
        steps: Iterations, each with one update of the discriminators and one of the generator.
        batch_size: Clips per batch and process; even, because the pair discriminator takes two clips at a time.
        accumulate: Batches whose gradients are averaged for one step. The step equals that of one large batch, except that
            pairs of clips come from one batch and that spectral norms are updated once per batch. Above 1, every batch is
            generated twice, before and after the discriminators' update, so that only one rollout is held at a time.
        frames: Generated frames (40: MS-Sync-short, 80: MS-Sync-long).
        observed: Real frames before the generated ones.
        generator_lr: Learning rate of the generator.
        discriminator_lr: Learning rate of the discriminators.
        schedule: "paper" (constant, then a tenth) or "cosine".
        sync_weight: lambda of equation (13).
        sync_target: "audio": equation (4). "capped": equation (4), but without gradient at the levels where the batch already
            agrees with the audio as much as the real motion does, because equation (4) alone rewards motion that is clearer
            than that of people (ours). "motion": agreement with the embeddings of the real motion (ours; ``target`` of
            :class:`~avsync.losses.sync.MultiScaleSyncLoss`).
        sync_share: Share of the real motion's agreement at which "capped" stops. The real clips are those that the syncers were
            trained on, and they agree with these more than with syncers that never heard their speakers; a share below 1 makes
            up for it (ours).
        frame_weight: Weight of L_f.
        window_weight: Weight of L_s.
        pair_weight: Weight of L_j; 0 trains no pair discriminator.
        reconstruction_weight: Weak reconstruction loss on the predicted frames, in squared face heights; the paper saw no gain.
        observed_weight: The same on predictions of the observed frames from the second one on, each from the real frames before
            it (1e-3 in the paper's code).
        variety_weight: Weight of the variety loss; above 0, every clip is drawn twice with different noise and initial states,
            so a batch holds half as many clips (ours; see :func:`avsync.training.variety_loss`).
        variety: Distance of two samples of one clip, as a share of the real displacement, above which the variety loss is zero.
        liveliness_weight: Weight of the loss between where, how far and how fast generated and real faces move, as
            distributions over the clips of a batch (ours; see :func:`avsync.training.liveliness_loss`).
        opening_weight: Weight of the loss between how far generated and real mouths open, clip by clip; for 68 points (ours;
            see :func:`avsync.training.opening_loss`).
        grad_clip: Largest gradient norm of the generator; 0 for none.
        ema_decay: Decay of the moving average of the generator's weights (:func:`avsync.training.ema.weight_average`), with
            which the generator is evaluated and which it holds at the end; 0 for none.
        seed: Seed of crops, augmentation and initial states.
    """

    steps: int = 75_000
    batch_size: int = 50
    accumulate: int = 1
    frames: int = 40
    observed: int = 3
    generator_lr: float = 2e-5
    discriminator_lr: float = 1e-5
    schedule: str = "paper"
    sync_weight: float = 1.0
    sync_target: str = "audio"
    sync_share: float = 1.0
    frame_weight: float = 1.0
    window_weight: float = 1.0
    pair_weight: float = 1.0
    reconstruction_weight: float = 0.0
    observed_weight: float = 0.0
    variety_weight: float = 0.0
    variety: float = 0.5
    liveliness_weight: float = 0.0
    opening_weight: float = 0.0
    grad_clip: float = 1.0
    ema_decay: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        check_seed("seed", self.seed)
        for name in ("steps", "batch_size", "accumulate", "frames", "observed"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}`: expected at least 1, got {getattr(self, name)}")
        if (self.pair_weight or self.variety_weight) and self.batch_size % 2:
            raise ConfigError(
                f"`batch_size`: expected an even number for pairs (pair_weight, variety_weight), got {self.batch_size}"
            )
        if self.pair_weight and self.variety_weight and self.batch_size % 4:
            raise ConfigError(
                f"`batch_size`: expected a multiple of 4 for pair_weight together with variety_weight, got {self.batch_size}"
            )
        if self.sync_target not in SYNC_TARGETS:
            raise ConfigError(f"`sync_target`: expected one of {SYNC_TARGETS}, got {self.sync_target!r}")
        if not 0 < self.sync_share <= 1:
            raise ConfigError(f"`sync_share`: expected a number above 0 and up to 1, got {self.sync_share!r}")
        if self.sync_share != 1 and self.sync_target != "capped":
            raise ConfigError(f"`sync_share`: expected 1 with sync_target {self.sync_target!r}, got {self.sync_share!r}")
        if self.schedule not in ("paper", "cosine"):
            raise ConfigError(f"`schedule`: expected 'paper' or 'cosine', got {self.schedule!r}")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"`ema_decay`: expected a number from 0 to below 1, got {self.ema_decay!r}")


class Discriminators(nn.Module):
    """The discriminators of a training run, and equation (14) over them.

    Args:
        frame: D_f; it may share the frame embedding of ``window``, as in the paper's code.
        window: D_s.
        pair: D_j; None leaves the pair loss out. If it shares the frame embedding of ``window``, frames are embedded once for
            both.
    """

    def __init__(
        self, *, frame: FrameDiscriminator, window: WindowDiscriminator, pair: PairDiscriminator | None = None
    ) -> None:
        super().__init__()
        self.frame = frame
        self.window = window
        self.pair = pair

    @checked
    def forward(self, observed: Tensor, landmarks: Tensor) -> dict[str, Tensor]:
        """Compute the logits of each discriminator for the clips (batch, frames, points, dims) that follow ``observed``."""
        return self._logits(observed, landmarks, parts=1)

    def _logits(self, observed: Tensor, landmarks: Tensor, *, parts: int) -> dict[str, Tensor]:
        """Compute the logits of a batch of equal parts; on a GPU the discriminators work side by side."""
        frame, window, pair = self.frame, self.window, self.pair
        of_frame = frame.embedding is window.embedding
        of_pair = pair is not None and pair.embedding is window.embedding
        # One coordinate frame for the whole clip: frames normalised one by one would hide drift in place and size.
        embedded = window.embed(observed, landmarks) if of_frame or of_pair else None
        following = embedded[observed.shape[1] :].transpose(0, 1) if of_frame and embedded is not None else None
        functions = {
            "window": lambda: window(observed, landmarks, embedded=embedded, parts=parts),
            "frame": lambda: frame(landmarks, reference=observed[:, 0], embedded=following),
        }
        if pair is not None:
            functions["pair"] = lambda: pair(observed, landmarks, embedded=embedded if of_pair else None, parts=parts)
        if is_launch_bound(landmarks):
            # Views, because a leaf would collect the gradients of several streams, about which torch warns.
            observed, landmarks = observed.view_as(observed), landmarks.view_as(landmarks)
            inputs = [observed, landmarks] if embedded is None else [observed, landmarks, embedded]
            logits = dict(zip(functions, on_streams(list(functions.values()), inputs), strict=True))
        else:
            logits = {name: function() for name, function in functions.items()}
        return {name: logits[name] for name in ("frame", "window", "pair") if name in logits}

    @checked
    def loss(self, observed: Tensor, real: Tensor, fake: Tensor) -> Tensor:
        """Compute equation (14): the sum of the hinge losses of all discriminators.

        Embeddings, LSTMs and D_f see real and generated clips in one batch. The layers with spectral norm score the real clips
        first, then the generated ones, with a power iteration before each, as in two calls of ``forward``.

        Args:
            observed: The real first frames, (batch, observed, points, dims).
            real: The real frames after them, (batch, frames, points, dims).
            fake: The generated frames after them, of the same shape.

        Raises:
            ShapeError: Ranks or sizes are wrong or differ.
            ClipTooShortError: No window fits; the message names the shortest length.
            ArgumentError: The landmarks and the model are not on one device.
        """
        check_shape("observed", observed, "batch frames points dims")
        check_shape("real", real, "batch frames points dims", batch=observed.shape[0])
        _, frames, points, dims = real.shape
        sizes = {"batch": observed.shape[0], "frames": frames, "points": points, "dims": dims}
        check_shape("fake", fake, "batch frames points dims", **sizes)
        for name, clips in (("observed", observed), ("real", real), ("fake", fake)):
            check_floating(name, clips)
            check_same_device(name, clips, self.frame.score.weight.device, "the model")
        logits = self._logits(torch.cat([observed, observed]), torch.cat([real, fake]), parts=2)
        return torch.stack([hinge_discriminator_loss(*both.chunk(2)) for both in logits.values()]).sum()


def _sync(
    sync_loss: MultiScaleSyncLoss,
    observed: Tensor,
    output: GeneratorOutput,
    real: Tensor,
    audio: Tensor,
    config: GanTrainingConfig,
) -> Tensor:
    """Compute the sync loss of the generated clip behind its observed frames, by ``config.sync_target``."""
    clip, reference = torch.cat([observed, output.landmarks], dim=1), observed[:, 0]
    if config.sync_target == "audio":
        return sync_loss(clip, audio, reference=reference).total
    share = config.sync_share if config.sync_target == "capped" else None
    return sync_loss(clip, audio, target=real, target_share=share, reference=reference).total


@checked
def generator_losses(
    discriminators: Discriminators,
    sync_loss: MultiScaleSyncLoss | None,
    observed: Tensor,
    output: GeneratorOutput,
    real: Tensor,
    audio: Tensor,
    config: GanTrainingConfig,
) -> dict[str, Tensor]:
    """Compute the weighted parts of equation (13), and their sum under "generator".

    Args:
        discriminators: The discriminators, whose parameters need no gradients here.
        sync_loss: Equation (4) with frozen syncers; None trains without it.
        observed: The real first frames, (batch, observed, points, dims).
        output: The generated frames after them.
        real: The real clip, (batch, observed + frames, points, dims).
        audio: Its audio features, (batch, 4 * (observed + frames), coeffs).
        config: The weights.
    """
    logits = discriminators(observed, output.landmarks)
    weights = {"frame": config.frame_weight, "window": config.window_weight, "pair": config.pair_weight}
    parts = {key: weights[key] * hinge_generator_loss(value) for key, value in logits.items()}
    if sync_loss is not None and config.sync_weight:
        parts["sync"] = config.sync_weight * _sync(sync_loss, observed, output, real, audio, config)
    height = normalise(observed).height.reshape(-1, 1, 1, 1)
    if config.reconstruction_weight:
        error = output.landmarks - real[:, observed.shape[1] :]
        parts["reconstruction"] = config.reconstruction_weight * (error / height).square().mean()
    if output.observed is not None:
        error = output.observed - observed[:, 1:]
        parts["observed"] = config.observed_weight * (error / height).square().mean()
    if config.variety_weight:
        parts["variety"] = config.variety_weight * variety_loss(output.landmarks, real, variety=config.variety)
    if config.liveliness_weight:
        parts["liveliness"] = config.liveliness_weight * liveliness_loss(output.landmarks, real)
    if config.opening_weight:
        parts["opening"] = config.opening_weight * opening_loss(output.landmarks, real)
    parts["generator"] = torch.stack(list(parts.values())).sum()
    return parts


class GanSteps:
    """Alternating optimisation steps of a generator and its discriminators.

    Args:
        generator: Trained in place.
        discriminators: Trained in place.
        bank: Clips to train on.
        config: Settings.
        sync_loss: The multi-scale sync loss; None for training without it.
        fabric: A launched Lightning Fabric.
        augment: Augmentation of the clips; None for none.
        cuda_graphs: See :func:`train_generator`.
    """

    @checked
    def __init__(
        self,
        generator: MultiScaleGenerator,
        *,
        discriminators: Discriminators,
        bank: CropBank,
        config: GanTrainingConfig,
        sync_loss: MultiScaleSyncLoss | None,
        fabric: Any,
        augment: AugmentConfig | None,
        cuda_graphs: bool | None,
    ) -> None:
        check_fabric(fabric)
        self.generator, self.discriminators, self.bank, self.config = generator, discriminators, bank, config
        self.sync_loss, self.fabric, self.augment = sync_loss, fabric, augment
        self.rng = rank_generator(config.seed, fabric.global_rank)
        # On a GPU the choice is torch's, because a fused update does not work with the loss scale of 16-mixed and clipping.
        settings: dict[str, Any] = {"betas": (0.0, 0.999), "fused": True if fabric.device.type == "cpu" else None}
        adam_g = torch.optim.Adam(generator.parameters(), lr=config.generator_lr, **settings)
        adam_d = torch.optim.Adam(discriminators.parameters(), lr=config.discriminator_lr, **settings)
        self._generate = Trained(fabric, generator.forward, [generator], adam_g)
        self._discriminate = Trained(fabric, discriminators.loss, [discriminators], adam_d)
        self.average = weight_average(generator, decay=config.ema_decay) if config.ema_decay else None
        self._update: Any = self.update
        if use_cuda_graphs(cuda_graphs, fabric):
            recorder = CudaRecorder(fabric.device)
            self._update = GraphedStep(self.update, recorder=recorder, before_recording=self.make_capturable)

    @property
    def state(self) -> dict[str, Stateful]:
        """The training state by name, for a checkpoint."""
        state: dict[str, Stateful] = {
            "generator": self.generator,
            "discriminators": self.discriminators,
            "optimizer_g": OptimizerState(self._generate.optimizer),
            "optimizer_d": OptimizerState(self._discriminate.optimizer),
            "precision": Precision(self.fabric),
            "random": RandomState(self.rng),
        }
        return state if self.average is None else {**state, "average": self.average}

    def make_capturable(self) -> None:
        """Prepare both optimisers for a CUDA graph."""
        for part in (self._generate, self._discriminate):
            make_capturable(part.optimizer.optimizer, self.fabric.device)

    @checked
    def step(self, now: int) -> dict[str, Tensor]:
        """Do one optimisation step and return the scalars to log.

        Args:
            now: Number of the step, from 1.
        """
        schedule = step_schedule if self.config.schedule == "paper" else cosine_schedule
        for part in (self._generate, self._discriminate):
            set_learning_rate(part.optimizer, schedule(now, self.config.steps))
        scalars: dict[str, Tensor] = self._update(self.draw())
        if self.average is not None:
            self.average.update_parameters(self.generator)
        return scalars

    def draw(self) -> list[Tensor]:
        """Draw everything random of a step: for each batch landmarks, audio, the generator's initial state and its noise."""
        config, device = self.config, self.fabric.device
        frames = config.observed + config.frames
        samples = 2 if config.variety_weight else 1
        batches = [
            self.bank.sample(config.batch_size // samples, frames, generator=self.rng, augment=self.augment)
            for _ in range(config.accumulate)
        ]
        drawn = []
        for batch in batches:
            drawn += [x.repeat_interleave(samples, dim=0) for x in (batch.landmarks, batch.audio)]
            drawn.append(self.generator.draw_state(config.batch_size, generator=self.rng))
            drawn.append(self.generator.draw_noise(config.batch_size, config.frames, generator=self.rng))
        return [to_device(tensor, device) for tensor in drawn]

    def _rollout(self, observed: Tensor, audio: Tensor, state: Tensor, noise: Tensor) -> GeneratorOutput:
        """Generate the frames after the observed ones, and predict the observed ones if a loss needs them."""
        predicted = bool(self.config.observed_weight) and self.config.observed > 1
        output: GeneratorOutput = self._generate(observed, audio, initial_state=state, noise=noise, return_observed=predicted)
        return output

    @checked
    def update(self, drawn: Sequence[Tensor]) -> dict[str, Tensor]:
        """Update the discriminators, then the generator against them.

        Shapes are fixed, all randomness is in ``drawn``, and no number is read from the device, so that the whole update can be
        captured in a CUDA graph.

        Args:
            drawn: See :meth:`draw`.

        Returns:
            The losses, averaged over the batches, and the generator's gradient norm.
        """
        batches = [tuple(drawn[index : index + 4]) for index in range(0, len(drawn), 4)]
        loss_d, outputs = self._update_discriminators(batches)
        parts, norm = self._update_generator(batches, outputs)
        return {**parts, "discriminator": loss_d, "grad": norm}

    def _update_discriminators(self, batches: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, list[GeneratorOutput | None]]:
        """Return the loss and each batch's rollout; None if there are several, which are generated again."""
        outputs: list[GeneratorOutput | None] = []
        total = torch.zeros((), device=self.fabric.device)
        self.discriminators.requires_grad_(True)
        self._discriminate.optimizer.zero_grad()
        for part, (clip, audio, state, noise) in enumerate(batches, start=1):
            observed, real = clip.tensor_split([self.config.observed], dim=1)
            # A single rollout serves both updates, because the rollout is the most expensive part of a step.
            with torch.set_grad_enabled(len(batches) == 1):
                output = self._rollout(observed, audio, state, noise)
            outputs.append(output if len(batches) == 1 else None)
            with self._discriminate.gradients_stay(part < len(batches)):
                loss = self._discriminate(observed, real, output.landmarks.detach())
                self.fabric.backward(loss / len(batches))
            total += loss.detach() / len(batches)
        self._discriminate.optimizer.step()
        return total, outputs

    def _update_generator(
        self, batches: Sequence[tuple[Tensor, ...]], outputs: Sequence[GeneratorOutput | None]
    ) -> tuple[dict[str, Tensor], Tensor]:
        means: dict[str, Tensor] = {}
        self.discriminators.requires_grad_(False)
        self._generate.optimizer.zero_grad()
        for part, ((clip, audio, state, noise), first) in enumerate(zip(batches, outputs, strict=True), start=1):
            observed = clip[:, : self.config.observed]
            with self._generate.gradients_stay(part < len(batches)):
                output = self._rollout(observed, audio, state, noise) if first is None else first
                # Not through `self._discriminate`, which would wait for gradients of the discriminators.
                with self.fabric.autocast():
                    losses = generator_losses(self.discriminators, self.sync_loss, observed, output, clip, audio, self.config)
                self.fabric.backward(losses["generator"] / len(batches))
            for key, loss in losses.items():
                means[key] = means.get(key, 0.0) + loss.detach() / len(batches)
        (norm,) = self._generate.clip([self.generator], self.config.grad_clip)
        self._generate.optimizer.step()
        return means, norm


@checked
def train_generator(
    generator: MultiScaleGenerator,
    discriminators: Discriminators,
    bank: CropBank,
    config: GanTrainingConfig,
    *,
    sync_loss: MultiScaleSyncLoss | None,
    fabric: Any,
    augment: AugmentConfig | None = None,
    cuda_graphs: bool | None = None,
    name: str = "generator",
    **options: Unpack[LoopOptions],
) -> History:
    """Train a generator against discriminators and, if given, frozen syncers: equations (13) and (14) in alternation.

    Args:
        generator: Trained in place.
        discriminators: Trained in place.
        bank: Clips to train on.
        config: Settings.
        sync_loss: The multi-scale sync loss; None for training without it.
        fabric: A launched Lightning Fabric (:func:`avsync.training.processes.make_fabric`).
        augment: Augmentation of the clips; None for none.
        cuda_graphs: Record the step as a CUDA graph after three eager steps: True, False, or None for wherever it is possible,
            which is on one GPU in the precisions 32-true and bf16-mixed.
        name: Label of the progress bar.
        **options: See :class:`avsync.training.engine.LoopOptions`. During ``evaluate`` the generator holds the average of its
            weights, if ``config.ema_decay`` is set.

    Returns:
        The history of all losses, and of the generator's gradient norm before clipping.

    Raises:
        ArgumentError: ``cuda_graphs=True`` where graphs are not possible.
        CheckpointError, DivergedError, TrainingInterrupted: See :func:`avsync.training.engine.train_loop`.

    Source: paper section 3.3; the average of weights ours.
    """
    if sync_loss is not None:
        sync_loss = sync_loss.to(fabric.device)
    steps = GanSteps(
        generator,
        discriminators=discriminators,
        bank=bank,
        config=config,
        sync_loss=sync_loss,
        fabric=fabric,
        augment=augment,
        cuda_graphs=cuda_graphs,
    )
    discriminators.train()
    return train_averaged(
        name,
        generator,
        steps.average,
        steps=config.steps,
        step=steps.step,
        state=steps.state,
        settings=flat_settings(config=config, augment=augment, sync_loss=sync_loss is not None),
        fabric=fabric,
        **options,
    )
