"""Equations (6)-(8): the multi-scale autoregressive generator of landmark motion from sound."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avsync._checks import check_floating, check_positive, check_shape, checked_config, describe_shape
from avsync.errors import ArgumentError, ClipTooShortError, ConfigError
from avsync.landmarks.geometry import normalise
from avsync.models.generator.audio_pyramid import AudioPyramid, mirror_audio
from avsync.models.generator.stacked import (
    StackedLinear,
    StackedPointwiseBlock,
    deferred,
    layer_norm,
    lstm_update,
    merge_branches,
)
from avsync.pretrained import PretrainedModel
from avsync.pyramid import AUDIO_FRAMES_PER_FRAME


@dataclass(frozen=True)
class GeneratorConfig:
    """Sizes and choices of :class:`MultiScaleGenerator`; the defaults are the paper's size.

    The paper states the LSTM (one layer, 256), the four branches, the pyramid's rates and the form of the blocks; its code states
    the kernel of 7 and the branch width (twice the 136 coordinates). ``position_embed``, ``audio_channels``, ``branch_depth``,
    ``stem_kernel`` and the two scales are ours.

    Attributes:
        audio_features: Coefficients of an audio frame.
        points: Landmarks.
        dims: Coordinates of a landmark.
        hidden: State of the LSTM.
        position_embed: Width of the position embedding.
        audio_channels: Channels of every map of the audio pyramid.
        stem_kernel: Taps of the two blocks from 100 Hz to the motion rate.
        kernel_size: Taps of the blocks between the maps.
        num_branches: Maps, branches and masks; 1 is the single-scale generator of the ablation, with the finest map alone.
        branch_width: Channels of a branch.
        branch_depth: Pointwise ConvNeXt blocks of a branch.
        expansion: Hidden channels of those blocks over ``branch_width``.
        causal: Use no sound after the frame that is generated.
        initial_state: "random" (standard normal LSTM state) or "zeros".
        displacement_scale: Factor on the displacement from the first observed face, in face heights, that the network sees.
        velocity_scale: Velocity in face heights a frame of an output of 1.
        motion_components: 0 lets the branches move every coordinate by itself, as the paper does. Above 0 they speak in so many
            principal motions of real faces instead (:meth:`MultiScaleGenerator.set_motion_basis`), so that what they make is a
            face from the first step on, and in eval mode go no farther along them than real faces do; without it, short trainings
            pull faces apart (ours).

    Raises:
        ConfigError: An impossible value.
    """

    audio_features: int = 26
    points: int = 68
    dims: int = 2
    hidden: int = 256
    position_embed: int = 256
    audio_channels: int = 256
    stem_kernel: int = 5
    kernel_size: int = 7
    num_branches: int = 4
    branch_width: int = 272
    branch_depth: int = 1
    expansion: int = 4
    causal: bool = False
    initial_state: str = "random"
    displacement_scale: float = 8.0
    velocity_scale: float = 0.02
    motion_components: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                smallest = 0 if field.name in ("branch_depth", "motion_components") else 1e-12
                if not math.isfinite(value) or value < smallest:
                    raise ConfigError(f"`{field.name}`: expected a number above 0, got {value!r}")
        for name in ("stem_kernel", "kernel_size"):
            if getattr(self, name) % 2 == 0:
                raise ConfigError(f"`{name}`: expected an odd number, got {getattr(self, name)!r}")
        if self.initial_state not in ("random", "zeros"):
            raise ConfigError(f"`initial_state`: expected 'random' or 'zeros', got {self.initial_state!r}")


class GeneratorOutput(NamedTuple):
    """What :meth:`MultiScaleGenerator.forward` returns.

    Attributes:
        landmarks: (batch, frames, points, dims), the generated frames in the unit of the observed ones.
        velocities: (batch, frames, points, dims), v_t = x_t - x_{t-1}, same unit a frame.
        masks: (batch, frames, branches, points), equation (8); they sum to 1 over the branches. None unless asked for.
    """

    landmarks: Tensor
    velocities: Tensor
    masks: Tensor | None


class StepOutput(NamedTuple):
    """One step of a rollout.

    Attributes:
        displacement: (batch, points * dims), as the rollout keeps it; :meth:`Rollout.faces` makes a face of it.
        velocity: (batch, points, dims), in face heights a frame over ``velocity_scale``.
        mask: (branches, batch, points).
    """

    displacement: Tensor
    velocity: Tensor
    mask: Tensor


class Rollout:
    """The state of a rollout: the LSTM and the displacement of the face from the first observed one.

    Made by :meth:`MultiScaleGenerator.start`. The displacement is kept in face heights times ``displacement_scale``, which is what
    the position embedding reads; the first observed face itself enters as a constant term.
    """

    def __init__(
        self,
        network: MultiScaleGenerator,
        observed: Tensor,
        terms: Tensor | None,
        generator: torch.Generator | None,
        initial_state: Tensor | None = None,
    ) -> None:
        config = network.config
        batch, frames = observed.shape[:2]
        generated = 1 if terms is None else terms.shape[0]
        # Deferred gradients need to know the number of steps, and a term for each; else one term serves every step.
        defer = torch.is_grad_enabled() and terms is not None
        updates, steps = (frames + generated - 1, generated) if defer else (1, 1)
        observed = observed.to(network.displacement_weight.dtype)
        normalised = normalise(observed)
        self.batch = batch
        self._scale = config.displacement_scale * config.velocity_scale
        self._first = observed[:, :1]
        self._unit = (normalised.height / config.displacement_scale)[:, None, None, None]
        identity = network.identity(normalised.landmarks[:, 0].flatten(1))
        self._embed = deferred(network.displacement_weight, identity.expand(updates, -1, -1), defer=defer)
        self._gates = deferred(network.lstm_weight, network.lstm_bias.expand(updates, batch, -1), defer=defer)
        self._enter_weight = network.enter_weight
        self._enter = None if terms is None else deferred(network.enter_weight, terms)
        self._blocks = [
            (block.expand.unroll(steps, batch, defer=defer), block.project.unroll(steps, batch, defer=defer))
            for block in network.branch_blocks()
        ]
        self._head = network.head.unroll(steps, batch, defer=defer)
        self._basis = network.motion_basis
        self._velocities = (config.num_branches, batch, config.points, config.dims)
        self._updates = 0
        self._steps = 0

        if initial_state is None:
            source = observed.device if generator is None else generator.device
            initial_state = network.draw_state(batch, generator=generator, device=source).to(observed)
        self._hidden, self._cell = initial_state.unbind(0)
        displacements = ((observed - self._first) / self._unit).flatten(2)
        for displacement in displacements[:, :-1].unbind(1):
            self._observe(displacement)
        self._displacement = displacements[:, -1]
        if network.motion_basis is not None and network.motion_reach is not None:
            # The basis counts in typical velocities; so do `_place`, where the face is along each motion, and its bounds.
            self._analysis = torch.linalg.pinv(network.motion_basis)
            self._place = self._displacement @ self._analysis / self._scale
            # No bounds in training: a face held at one gives no gradient that would bring it back, and the discriminators win. A real
            # face that is already beyond the usual reach stays where it is.
            reach = torch.full_like(network.motion_reach, torch.inf) if network.training else network.motion_reach
            self._reach = torch.maximum(reach.expand_as(self._place), self._place.abs())

    def _observe(self, displacement: Tensor) -> Tensor:
        position = F.gelu(self._embed(displacement, self._updates))
        gates = self._gates(torch.cat([position, self._hidden], dim=1), self._updates)
        self._hidden, self._cell = lstm_update(gates, self._cell)
        self._updates += 1
        return torch.cat([self._hidden, position], dim=1)

    def step(self, term: Tensor | None = None) -> StepOutput:
        """Generate the next frame, equations (6)-(8).

        Args:
            term: (branches, batch, branch_width), the audio's part of the branches' first layer; None if the rollout was
                started with the terms of all frames.

        Returns:
            The new displacement, its velocity and the mask.

        Raises:
            ArgumentError: No term, neither here nor at the start.
        """
        step = self._steps
        shared = self._observe(self._displacement)[None]
        if term is None:
            if self._enter is None:
                raise ArgumentError("`term`: expected the audio's part of this step, since the rollout was started without any")
            x = self._enter(shared, step)
        else:
            x = deferred(self._enter_weight, term[None], defer=False)(shared, 0)
        for expand, project in self._blocks:
            x = x + project(F.gelu(expand(layer_norm(x), step)), step)
        outputs = self._head(layer_norm(x), step)
        split = outputs.shape[-1] - self._velocities[2]
        velocities = outputs[..., :split] if self._basis is None else outputs[..., :split] @ self._basis
        velocity, mask = merge_branches(velocities.reshape(self._velocities), outputs[..., split:])
        if self._basis is not None:
            velocity = self._within_reach(velocity, self._basis)
        self._displacement = torch.add(self._displacement, velocity.flatten(1), alpha=self._scale)
        self._steps += 1
        return StepOutput(self._displacement, velocity, mask)

    def _within_reach(self, velocity: Tensor, basis: Tensor) -> Tensor:
        """The part of a velocity (batch, points, dims) that lies in the span of the principal motions and within their reach.

        Masks differ from landmark to landmark, and so the merged velocity may pull a face apart although no branch does; and sums of
        velocities may go farther than any real face.
        """
        place = self._place + velocity.flatten(1) @ self._analysis
        place = torch.minimum(torch.maximum(place, -self._reach), self._reach)
        velocity = ((place - self._place) @ basis).view_as(velocity)
        self._place = place
        return velocity

    def faces(self, displacements: Tensor) -> Tensor:
        """Displacements (batch, frames, points * dims) as faces (batch, frames, points, dims) in the unit of the observed frames."""
        return torch.addcmul(self._first, self._unit, displacements.unflatten(2, self._first.shape[2:]))


class MultiScaleGenerator(PretrainedModel):
    """Landmark motion from sound, at several rates at once: equations (6)-(8).

    An LSTM reads the faces so far. Its output and the embedding of the last face go to every branch, together with the branch's
    own audio vector for the frame that comes (map i of the :class:`~avsync.models.generator.audio_pyramid.AudioPyramid` for branch i); the branches
    are independent stacks of pointwise blocks, and their velocities are merged by a mask learnt for each landmark.

    The network sees displacements from the first observed face in heights of that face (and, once, that face itself), so any unit
    comes in and the same unit comes out; the observed frames are never moved.

    Parameters at the default sizes: 6.1 million with four branches (2.1 of them in the audio pyramid), 1.7 million with one (0.3). An
    ablation that is to compare equal sizes can set ``num_branches=1, branch_width=749``, which has 6.1 million too.

    Args:
        config: Sizes and choices; the paper's if None.

    Example:
        >>> generator = MultiScaleGenerator(GeneratorConfig(hidden=8, position_embed=8, audio_channels=8, branch_width=8))
        >>> observed, audio = torch.rand(2, 3, 68, 2), torch.zeros(2, 4 * 10, 26)
        >>> generator(observed, audio).landmarks.shape
        torch.Size([2, 7, 68, 2])

    Source: paper, section 3.2.
    """

    config_class = GeneratorConfig

    def __init__(self, config: GeneratorConfig | None = None) -> None:
        super().__init__()
        self.config = config = checked_config(config, GeneratorConfig)
        coordinates = config.points * config.dims
        branches, width = config.num_branches, config.branch_width
        self.audio_pyramid = AudioPyramid(
            audio_features=config.audio_features,
            channels=config.audio_channels,
            levels=branches,
            stem_kernel=config.stem_kernel,
            kernel_size=config.kernel_size,
            causal=config.causal,
        )
        self.identity = nn.Linear(coordinates, config.position_embed)
        self.displacement_weight = nn.Parameter(torch.empty(config.position_embed, coordinates))
        self.lstm_weight = nn.Parameter(torch.empty(4 * config.hidden, config.position_embed + config.hidden))
        self.lstm_bias = nn.Parameter(torch.empty(4 * config.hidden))
        self.audio_entry = StackedLinear(in_features=config.audio_channels, out_features=width, branches=branches)
        self.enter_weight = nn.Parameter(torch.empty(branches, width, config.hidden + config.position_embed))
        self.blocks = nn.ModuleList(
            StackedPointwiseBlock(width=width, branches=branches, expansion=config.expansion)
            for _ in range(config.branch_depth)
        )
        spoken = config.motion_components or coordinates
        self.head = StackedLinear(in_features=width, out_features=spoken + config.points, branches=branches, gain=0.05)
        self.motion_basis: Tensor | None
        self.motion_reach: Tensor | None
        basis, reach = torch.empty(config.motion_components, coordinates), torch.full((config.motion_components,), math.inf)
        self.register_buffer("motion_basis", nn.init.orthogonal_(basis) if config.motion_components else None)
        self.register_buffer("motion_reach", reach if config.motion_components else None)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        for weight, fan_in in (
            (self.displacement_weight, self.displacement_weight.shape[1]),
            (self.lstm_weight, self.config.hidden),
            (self.lstm_bias, self.config.hidden),
            (self.enter_weight, self.enter_weight.shape[2]),
        ):
            nn.init.uniform_(weight, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    @property
    def look_ahead(self) -> int:
        """Motion frames of sound after a frame that it depends on: 29 at the default sizes, 0 if causal."""
        return self.audio_pyramid.look_ahead

    def branch_blocks(self) -> list[StackedPointwiseBlock]:
        """The pointwise blocks of the branches, in order."""
        return list(self.blocks)  # type: ignore[arg-type]

    def set_audio_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Set the mean and deviation (coeffs,) by which audio features are standardised; they are saved with the weights."""
        self.audio_pyramid.set_audio_statistics(mean, std)

    def set_motion_basis(self, motions: Tensor, reach: Tensor) -> None:
        """Set the principal motions that the branches speak in, as :func:`avsync.landmarks.principal_motions.principal_motions` finds them.

        Args:
            motions: (motion_components, points, dims), in face heights a frame; saved with the weights.
            reach: (motion_components,), how far the face may go along each from the first observed face, as a multiple of it. It
                holds in eval mode; training has no bounds.

        Raises:
            ArgumentError: The generator was built with ``motion_components=0``.
            ShapeError: Another number of motions, points or dims than configured.
        """
        config = self.config
        if self.motion_basis is None or self.motion_reach is None:
            raise ArgumentError("`motions`: expected a generator with motion_components above 0, got one with 0")
        sizes = {"components": config.motion_components, "points": config.points, "dims": config.dims}
        check_shape("motions", motions, "components points dims", **sizes)
        check_shape("reach", reach, "components", components=config.motion_components)
        self.motion_basis.copy_(motions.flatten(1) / config.velocity_scale)
        self.motion_reach.copy_(reach)

    def audio_terms(self, maps: Tensor) -> Tensor:
        """The audio's part of the branches' first layer, for all frames in one product.

        Args:
            maps: (branches, batch, frames, channels), from the audio pyramid.

        Returns:
            (frames, branches, batch, branch_width).
        """
        branches, batch, frames, _ = maps.shape
        return self.audio_entry(maps.flatten(1, 2)).view(branches, batch, frames, -1).permute(2, 0, 1, 3)

    def draw_state(
        self, batch: int, *, generator: torch.Generator | None = None, device: torch.device | str | None = None
    ) -> Tensor:
        """Draw the initial hidden and cell state of the LSTM, or zeros, as the configuration says.

        Args:
            batch: Number of clips.
            generator: Random generator; torch's default if None.
            device: Device of the generator, and of the result.

        Returns:
            (2, batch, hidden), float32.
        """
        if self.config.initial_state != "random":
            return torch.zeros(2, batch, self.config.hidden, device=device)
        return torch.randn(2, batch, self.config.hidden, generator=generator, device=device)

    def start(
        self,
        observed: Tensor,
        terms: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        initial_state: Tensor | None = None,
    ) -> Rollout:
        """Begin a rollout by reading the observed frames.

        Args:
            observed: (batch, n, points, dims), any unit.
            terms: (frames, branches, batch, branch_width) from :meth:`audio_terms` for the frames to generate; None if each step
                is to bring its own.
            generator: Source of the random initial state; torch's default if None.
            initial_state: (2, batch, hidden) from :meth:`draw_state`; drawn from ``generator`` if None.

        Returns:
            The rollout, before its first generated frame.

        Raises:
            ShapeError: Other points or dims than the configuration's, or no frame.
        """
        check_shape("observed", observed, "batch frames points dims", points=self.config.points, dims=self.config.dims)
        check_floating("observed", observed)
        if observed.shape[1] == 0:
            raise ClipTooShortError(f"`observed`: expected at least 1 frame, got {describe_shape(observed)}")
        return Rollout(self, observed, terms, generator, initial_state)

    def forward(
        self,
        observed: Tensor,
        audio: Tensor,
        *,
        generator: torch.Generator | None = None,
        initial_state: Tensor | None = None,
        return_masks: bool = False,
    ) -> GeneratorOutput:
        """Continue the observed frames to the end of the sound.

        Args:
            observed: (batch, n, points, dims), any unit; n = 3 in the paper's training.
            audio: (batch, 4 * T, coeffs), the sound of the n observed and the T - n generated frames.
            generator: Source of the random initial state; torch's default if None.
            initial_state: (2, batch, hidden) from :meth:`draw_state`; drawn from ``generator`` if None. A CUDA graph needs it given.
            return_masks: Return the masks of equation (8).

        Returns:
            Landmarks and velocities (batch, T - n, points, dims), and the masks (batch, T - n, branches, points) or None.

        Raises:
            ShapeError: Wrong rank, points, dims, coefficients, or batches that differ.
            ClipTooShortError: The sound ends with the observed frames or before.
        """
        check_shape("observed", observed, "batch frames points dims", points=self.config.points, dims=self.config.dims)
        check_shape("audio", audio, "batch audio_frames coeffs", batch=observed.shape[0], coeffs=self.config.audio_features)
        seen = observed.shape[1]
        if audio.shape[1] < AUDIO_FRAMES_PER_FRAME * (seen + 1):
            raise ClipTooShortError(
                f"`audio`: expected at least {AUDIO_FRAMES_PER_FRAME * (seen + 1)} audio frames "
                f"(4 for each of {seen} observed frames and one to generate), got {describe_shape(audio)}"
            )
        terms = self.audio_terms(self.audio_pyramid(audio)[:, :, seen:])
        rollout = self.start(observed, terms, generator=generator, initial_state=initial_state)
        steps = [rollout.step() for _ in range(terms.shape[0])]
        velocities = torch.stack([step.velocity for step in steps], dim=1)
        height = normalise(observed).height[:, None, None, None]
        return GeneratorOutput(
            rollout.faces(torch.stack([step.displacement for step in steps], dim=1)),
            velocities * (height * self.config.velocity_scale).to(velocities.dtype),
            torch.stack([step.mask for step in steps], dim=1).permute(2, 1, 0, 3) if return_masks else None,
        )

    def generate(
        self,
        face: Tensor,
        audio: Tensor,
        *,
        warm_up: int = 3,
        generator: torch.Generator | None = None,
        return_masks: bool = False,
    ) -> GeneratorOutput:
        """Animate one face: test-time use.

        The face is repeated ``warm_up`` times as the observed frames, with the audio mirrored in front as their sound.

        Args:
            face: (batch, points, dims), any unit.
            audio: (batch, 4 * T, coeffs), of any length.
            warm_up: Repetitions of the face.
            generator: Source of the random initial state; torch's default if None.
            return_masks: Return the masks of equation (8).

        Returns:
            T generated frames; see :meth:`forward`.

        Raises:
            ShapeError: See :meth:`forward`.
            ArgumentError: ``warm_up`` is below 1.
        """
        check_shape("face", face, "batch points dims", points=self.config.points, dims=self.config.dims)
        check_positive("warm_up", warm_up)
        observed = face[:, None].expand(-1, warm_up, -1, -1)
        return self(observed, mirror_audio(audio, warm_up), generator=generator, return_masks=return_masks)
