"""The generator one frame at a time: the rollout that every use of it shares, and its streaming face.

In a stream sound goes in by pieces of one motion frame, faces come out as soon as the look-ahead allows.

Every convolution keeps the few inputs that its next output needs, and every map the few frames that are still to be used, so that
a step costs the same work and memory after an hour as after a second. What comes out equals the generator's ``forward``.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from avsync._checks import check_shape
from avsync.audio_pyramid import AUDIO_FRAMES_PER_FRAME, AudioPyramid, StridedConvNeXtBlock
from avsync.errors import ArgumentError
from avsync.landmarks import normalise
from avsync.stacked import deferred, layer_norm, lstm_update, merge_branches

if TYPE_CHECKING:
    from avsync.generator import MultiScaleGenerator


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

        if config.initial_state == "random":
            source = observed.device if generator is None else generator.device
            state = torch.randn(2, batch, config.hidden, generator=generator, device=source, dtype=observed.dtype)
            self._hidden, self._cell = state.to(observed.device).unbind(0)
        else:
            self._hidden = self._cell = observed.new_zeros(batch, config.hidden)
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


class _BlockStream:
    """One strided block with the inputs that its next outputs still need."""

    def __init__(self, block: StridedConvNeXtBlock) -> None:
        self.block = block
        self.cache: Tensor | None = None

    def push(self, x: Tensor, *, last: bool = False) -> Tensor:
        """Take (batch, n, channels) more inputs and return all outputs that they complete; ``last`` adds the padding at the end."""
        left, right = self.block.padding
        if self.cache is None:
            self.cache = x.new_zeros(x.shape[0], left, x.shape[2])
        pieces = [self.cache, x]
        if last:
            pieces.append(x.new_zeros(x.shape[0], right, x.shape[2]))
        window = torch.cat(pieces, dim=1)
        outputs = max(0, (window.shape[1] - self.block.kernel_size) // 2 + 1)
        self.cache = window[:, 2 * outputs :].clone()
        if outputs == 0:
            return x.new_zeros(x.shape[0], 0, self.block.project.out_features)
        return self.block.valid(window[:, : 2 * (outputs - 1) + self.block.kernel_size])


class AudioPyramidStream:
    """:class:`~avsync.audio_pyramid.AudioPyramid` for sound that arrives in pieces.

    Args:
        pyramid: The pyramid whose weights are used.

    Example:
        >>> pyramid = AudioPyramid(channels=8, levels=1, causal=True)
        >>> [vector.shape for vector in AudioPyramidStream(pyramid).push(torch.zeros(2, 4, 26))]
        [torch.Size([1, 2, 8])]

    Source: ours.
    """

    def __init__(self, pyramid: AudioPyramid) -> None:
        self.pyramid = pyramid
        self._blocks = [_BlockStream(block) for block in pyramid.blocks]
        self._frames: list[deque[Tensor]] = [deque() for _ in range(pyramid.levels)]
        self._first = [0] * pyramid.levels  # index of the oldest frame kept, by level
        self._time = 0

    def _vector(self, level: int, *, ended: bool) -> Tensor | None:
        frames, first = self._frames[level], self._first[level]
        left = self._time >> level
        position = left - first
        if position >= len(frames):
            return None
        fraction = (self._time - (left << level)) / 2**level
        if self.pyramid.causal or fraction == 0:
            return frames[position]
        if position + 1 < len(frames):
            return torch.lerp(frames[position], frames[position + 1], fraction)
        return frames[position] if ended else None

    def push(self, audio: Tensor, *, last: bool = False) -> list[Tensor]:
        """Take more sound and return the vectors that it completes.

        Args:
            audio: (batch, audio_frames, coeffs); none at all (0 audio frames) is allowed with ``last``.
            last: The sound ends here: return everything that is left.

        Returns:
            For each further motion frame a tensor (levels, batch, channels).

        Raises:
            ShapeError: Wrong rank or number of coefficients.
        """
        x = self.pyramid.embed_audio(audio)
        stem = len(self._blocks) - self.pyramid.levels + 1
        for index, block in enumerate(self._blocks):
            x = block.push(x, last=last)
            if index >= stem - 1:
                self._frames[index - stem + 1].extend(x.unbind(1))
        result: list[Tensor] = []
        while True:
            vectors = [self._vector(level, ended=last) for level in range(self.pyramid.levels)]
            complete = [vector for vector in vectors if vector is not None]
            if len(complete) < len(vectors):
                return result
            result.append(torch.stack(complete))
            self._time += 1
            for level, frames in enumerate(self._frames):
                while frames and self._first[level] < self._time >> level:
                    frames.popleft()
                    self._first[level] += 1


class GeneratorStream:
    """A rollout in progress; made by :meth:`avsync.generator.MultiScaleGenerator.stream`.

    Sound is pushed one motion frame at a time, that of the observed frames first. With a look-ahead of L frames, step k returns
    generated frame k - L once that lies behind the observed frames, and None before.

    Args:
        network: The generator.
        observed: (batch, n, points, dims), the frames before the first generated one.
        generator: Source of the random initial state.

    Source: ours.
    """

    def __init__(self, network: MultiScaleGenerator, observed: Tensor, *, generator: torch.Generator | None = None) -> None:
        self.network = network
        self._observed = observed.shape[1]
        self._audio = AudioPyramidStream(network.audio_pyramid)
        with torch.no_grad():
            self._rollout = network.start(observed, generator=generator)
        self._pending: deque[Tensor] = deque()
        self._pushed = 0
        self._next = 0  # the frame that the oldest pending vector belongs to
        self._ended = False

    @property
    def look_ahead(self) -> int:
        """Motion frames of sound that a frame waits for after its own."""
        return self.network.look_ahead

    def _advance(self, until: int) -> list[Tensor]:
        faces = []
        while self._pending and self._next < until:
            vector = self._pending.popleft()
            if self._next >= self._observed:
                step = self._rollout.step(self.network.audio_terms(vector[:, :, None])[0])
                faces.append(self._rollout.faces(step.displacement[:, None]))
            self._next += 1
        return faces

    @torch.no_grad()
    def step(self, audio: Tensor) -> Tensor | None:
        """Push the sound of one more motion frame.

        Args:
            audio: (batch, 4, coeffs), the four audio frames of the next motion frame.

        Returns:
            (batch, points, dims), the next generated face, or None while the look-ahead is still being filled.

        Raises:
            ShapeError: Not four audio frames of this batch.
            ArgumentError: The stream was flushed before.
        """
        self._check_open()
        check_shape("audio", audio, "batch audio_frames coeffs", batch=self._rollout.batch, audio_frames=AUDIO_FRAMES_PER_FRAME)
        self._pushed += 1
        # The coarse maps complete several vectors at once; they leave one a step, each exactly `look_ahead` steps after its sound.
        self._pending.extend(self._audio.push(audio))
        faces = self._advance(self._pushed - self.look_ahead)
        return faces[0][:, 0] if faces else None

    @torch.no_grad()
    def flush(self) -> Tensor:
        """End the sound and return the frames that were waiting for their look-ahead.

        Returns:
            (batch, frames, points, dims), at most ``look_ahead`` frames.

        Raises:
            ArgumentError: The stream was flushed before.
        """
        self._check_open()
        self._ended = True
        config = self.network.config
        weight = self.network.displacement_weight
        empty = weight.new_zeros(self._rollout.batch, 0, config.audio_features)
        self._pending.extend(self._audio.push(empty, last=True))
        faces = self._advance(self._pushed)
        if not faces:
            return weight.new_zeros(self._rollout.batch, 0, config.points, config.dims)
        return torch.cat(faces, dim=1)

    def _check_open(self) -> None:
        if self._ended:
            raise ArgumentError("`stream`: expected one that still runs, got one that was flushed; start another")
