"""Equations (6)-(8): the multi-scale autoregressive generator of landmark motion from sound."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor, nn

from avsync._checks import check_floating, check_positive, check_shape, describe_shape
from avsync.audio_pyramid import AUDIO_FRAMES_PER_FRAME, AudioPyramid, mirror_audio
from avsync.errors import ArgumentError, ClipTooShortError, ConfigError
from avsync.landmarks import normalise
from avsync.stacked import StackedLinear, StackedPointwiseBlock
from avsync.streaming import GeneratorStream, Rollout


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


class MultiScaleGenerator(nn.Module):
    """Landmark motion from sound, at several rates at once: equations (6)-(8).

    An LSTM reads the faces so far. Its output and the embedding of the last face go to every branch, together with the branch's
    own audio vector for the frame that comes (map i of the :class:`~avsync.audio_pyramid.AudioPyramid` for branch i); the branches
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
        self.config = config = GeneratorConfig() if config is None else config
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
        """Set the principal motions that the branches speak in, as :func:`avsync.motion_basis.principal_motions` finds them.

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

    def start(self, observed: Tensor, terms: Tensor | None = None, *, generator: torch.Generator | None = None) -> Rollout:
        """Begin a rollout by reading the observed frames.

        Args:
            observed: (batch, n, points, dims), any unit.
            terms: (frames, branches, batch, branch_width) from :meth:`audio_terms` for the frames to generate; None if each step
                is to bring its own.
            generator: Source of the random initial state; torch's default if None.

        Returns:
            The rollout, before its first generated frame.

        Raises:
            ShapeError: Other points or dims than the configuration's, or no frame.
        """
        check_shape("observed", observed, "batch frames points dims", points=self.config.points, dims=self.config.dims)
        check_floating("observed", observed)
        if observed.shape[1] == 0:
            raise ClipTooShortError(f"`observed`: expected at least 1 frame, got {describe_shape(observed)}")
        return Rollout(self, observed, terms, generator)

    def forward(
        self,
        observed: Tensor,
        audio: Tensor,
        *,
        generator: torch.Generator | None = None,
        return_masks: bool = False,
    ) -> GeneratorOutput:
        """Continue the observed frames to the end of the sound.

        Args:
            observed: (batch, n, points, dims), any unit; n = 3 in the paper's training.
            audio: (batch, 4 * T, coeffs), the sound of the n observed and the T - n generated frames.
            generator: Source of the random initial state; torch's default if None.
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
        rollout = self.start(observed, terms, generator=generator)
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

    def stream(self, observed: Tensor, *, warm_up: int = 3, generator: torch.Generator | None = None) -> GeneratorStream:
        """Begin a rollout whose sound arrives one motion frame at a time; what comes out equals :meth:`forward`.

        Args:
            observed: (batch, n, points, dims), or one face (batch, points, dims), which is repeated ``warm_up`` times. Either way
                the sound of these frames has to be stepped through first (:func:`~avsync.audio_pyramid.mirror_audio` makes it for a single face).
            warm_up: Repetitions of a single face.
            generator: Source of the random initial state; torch's default if None.

        Returns:
            The stream; see :class:`~avsync.streaming.GeneratorStream`.

        Raises:
            ShapeError: Wrong rank, points or dims.

        Example:
            >>> config = GeneratorConfig(hidden=8, position_embed=8, audio_channels=8, branch_width=8, causal=True)
            >>> stream = MultiScaleGenerator(config).stream(torch.rand(1, 68, 2), warm_up=1)
            >>> [face is None for face in (stream.step(torch.zeros(1, 4, 26)) for _ in range(3))]
            [True, False, False]
        """
        if observed.ndim == 3:
            check_positive("warm_up", warm_up)
            observed = observed[:, None].expand(-1, warm_up, -1, -1)
        return GeneratorStream(self, observed, generator=generator)
