"""Streaming form of the generator, one frame at a time.

Audio is pushed one motion frame at a time, and faces are returned as soon as the look-ahead allows.

Every convolution stores the few inputs that its next output needs, and every map stores the few frames that are still needed.
The time and memory of a step are therefore constant. The output equals that of the generator's ``forward``.
"""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from avsync._checks import at_least_float32, check_positive, check_shape, checked, is_tensor
from avsync.errors import ArgumentError
from avsync.models.generator.audio_pyramid import AudioPyramid, StridedConvNeXtBlock
from avsync.models.generator.model import NOISE_PERIOD, MultiScaleGenerator
from avsync.pyramid import AUDIO_FRAMES_PER_FRAME


class _BlockStream:
    """Strided block together with the inputs that its next outputs need."""

    def __init__(self, block: StridedConvNeXtBlock) -> None:
        self.block = block
        self.cache: Tensor | None = None

    def push(self, x: Tensor, *, last: bool = False) -> Tensor:
        """Add inputs (batch, n, channels) and return the outputs that they complete; ``last`` adds the padding at the end."""
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
    """Streaming form of :class:`~avsync.models.generator.audio_pyramid.AudioPyramid`.

    Args:
        pyramid: The pyramid to apply.

    Example:
        >>> pyramid = AudioPyramid(channels=8, levels=1, causal=True)
        >>> [vector.shape for vector in AudioPyramidStream(pyramid=pyramid).push(torch.zeros(2, 4, 26))]
        [torch.Size([1, 2, 8])]

    Source: ours.
    """

    @checked
    def __init__(self, *, pyramid: AudioPyramid) -> None:
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

    @checked
    def push(self, audio: Tensor, *, last: bool = False) -> list[Tensor]:
        """Add audio and return the vectors that it completes.

        Args:
            audio: (batch, audio_frames, coeffs); 0 audio frames are allowed with ``last``.
            last: True if the audio ends here; all remaining vectors are then returned.

        Returns:
            One tensor (levels, batch, channels) per completed motion frame.

        Raises:
            ShapeError: The rank or the number of coefficients is wrong.
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
    """Rollout whose audio arrives one motion frame at a time; the output equals that of the generator's ``forward``.

    The audio of the observed frames is pushed first. With a look-ahead of L frames, step k returns frame k - L if that frame is
    a generated one, and None before that.

    Args:
        network: The generator.
        observed: (batch, n, points, dims), the frames before the first generated frame, or one face (batch, points, dims),
            which is repeated ``warm_up`` times. Push the audio of these frames first; for a single face,
            :func:`~avsync.models.generator.audio_pyramid.mirror_audio` returns this audio.
        warm_up: Repetitions of a single face.
        generator: Random generator for the initial state; torch's default if None.

    Raises:
        ShapeError: The rank, points or dims are wrong.

    Example:
        >>> from avsync.models.generator.model import GeneratorConfig
        >>> config = GeneratorConfig(hidden=8, position_embed=8, audio_channels=8, branch_width=8, causal=True)
        >>> stream = GeneratorStream(network=MultiScaleGenerator(config), observed=torch.rand(1, 68, 2), warm_up=1)
        >>> [face is None for face in (stream.step(torch.zeros(1, 4, 26)) for _ in range(3))]
        [True, False, False]

    Source: ours.
    """

    @checked
    def __init__(
        self,
        *,
        network: MultiScaleGenerator,
        observed: Tensor,
        warm_up: int = 3,
        generator: torch.Generator | None = None,
    ) -> None:
        if is_tensor(observed) and observed.ndim == 3:
            check_positive("warm_up", warm_up)
            observed = observed[:, None].expand(-1, warm_up, -1, -1)
        self.network = network
        self._observed = observed.shape[1]
        self._audio = AudioPyramidStream(pyramid=network.audio_pyramid)
        with torch.no_grad():
            self._rollout = network.start(observed, generator=generator)
        self._generator = generator
        # The last two vectors of the noise, and the number of generated frames; see `MultiScaleGenerator.draw_noise`.
        self._knots: tuple[Tensor, Tensor] | None = None
        self._generated = 0
        self._pending: deque[Tensor] = deque()
        self._pushed = 0
        self._next = 0  # frame of the oldest pending vector
        self._ended = False

    @property
    def look_ahead(self) -> int:
        """Number of motion frames of audio after a frame that must arrive before the frame is returned."""
        return self.network.look_ahead

    def _advance(self, until: int) -> list[Tensor]:
        faces = []
        while self._pending and self._next < until:
            vector = self._pending.popleft()
            if self._next >= self._observed:
                step = self._rollout.step(self.network.audio_terms(vector[:, :, None], self._next_noise())[0])
                faces.append(self._rollout.faces(step.displacement[:, None]))
            self._next += 1
        return faces

    def _next_noise(self) -> Tensor:
        """Return the noise of the next generated frame, (batch, 1, noise)."""
        channels, batch = self.network.config.noise, self._rollout.batch
        weight = self.network.displacement_weight
        if not channels:
            return weight.new_zeros(batch, 1, 0)
        source = weight.device if self._generator is None else self._generator.device

        def draw() -> Tensor:
            return torch.randn(batch, channels, generator=self._generator, device=source).to(weight.device)

        if self._knots is None:
            self._knots = (draw(), draw())
        elif self._generated % NOISE_PERIOD == 0:
            self._knots = (self._knots[1], draw())
        fraction = (self._generated % NOISE_PERIOD) / NOISE_PERIOD
        self._generated += 1
        return torch.lerp(*self._knots, fraction)[:, None]

    @torch.no_grad()
    def step(self, audio: Tensor) -> Tensor | None:
        """Push the audio of one more motion frame.

        Args:
            audio: (batch, 4, coeffs), the four audio frames of the next motion frame.

        Returns:
            (batch, points, dims), the next generated face, or None until the look-ahead is filled.

        Raises:
            ShapeError: ``audio`` is not four audio frames of this batch.
            ArgumentError: The stream was already flushed.
        """
        self._check_open()
        check_shape("audio", audio, "batch audio_frames coeffs", batch=self._rollout.batch, audio_frames=AUDIO_FRAMES_PER_FRAME)
        self._pushed += 1
        # The coarse maps complete several vectors at once; one vector is used per step, `look_ahead` steps after its audio.
        self._pending.extend(self._audio.push(audio))
        faces = self._advance(self._pushed - self.look_ahead)
        return faces[0][:, 0] if faces else None

    @torch.no_grad()
    def flush(self) -> Tensor:
        """End the audio and return the frames that were waiting for their look-ahead.

        Returns:
            (batch, frames, points, dims), at most ``look_ahead`` frames.

        Raises:
            ArgumentError: The stream was already flushed.
        """
        self._check_open()
        self._ended = True
        config = self.network.config
        weight = self.network.displacement_weight
        empty = weight.new_zeros(self._rollout.batch, 0, config.audio_features)
        self._pending.extend(self._audio.push(empty, last=True))
        faces = self._advance(self._pushed)
        if not faces:
            return at_least_float32(weight).new_zeros(self._rollout.batch, 0, config.points, config.dims)
        return torch.cat(faces, dim=1)

    def _check_open(self) -> None:
        if self._ended:
            raise ArgumentError("`stream`: expected an open stream, got one that was flushed; start a new one")
