"""Streaming form of the generator, one frame at a time.

Audio is pushed one motion frame at a time, and faces are returned as soon as the look-ahead allows.

The last frames of the audio and of every map are held, as many as later outputs need. The time and memory of a step are
therefore constant. The output equals that of the generator's ``forward``.

All held tensors change in place, so that a CUDA graph can replay a step. The step's operations depend on the number of frames
before it. They repeat with the period of the coarsest map.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from avsync._checks import (
    at_least_float32,
    check_floating,
    check_positive,
    check_same_device,
    check_shape,
    checked,
    is_tensor,
)
from avsync._graphs import CudaRecorder, GraphedStep, Recorder
from avsync.errors import ArgumentError
from avsync.models.generator.audio_pyramid import AudioPyramid
from avsync.models.generator.model import NOISE_PERIOD, MultiScaleGenerator, RolloutState
from avsync.pyramid import AUDIO_FRAMES_PER_FRAME

MOST_RECORDINGS = 32
"""CUDA graphs per stream; the default generator with four maps needs eight."""


class _Plan(NamedTuple):
    """Frames that one push reads and writes, counted from the end; with the shapes it determines all operations of the push."""

    windows: tuple[tuple[int, int], ...]
    """For each block: distance of its next window's start from the end of its inputs, and number of new outputs."""
    picks: tuple[tuple[tuple[int, int, float], ...], ...]
    """For each vector and level: distances of the two frames from the end of the map, and the share of the second."""
    last: bool
    """True if the audio ends here."""


class _HeldMaps:
    """Last frames of the embedded audio and of every map, in tensors that are changed in place.

    Zeros stand for the frames before the first, which is the padding of the blocks.
    """

    def __init__(self, pyramid: AudioPyramid) -> None:
        self.pyramid = pyramid
        self.stem = len(pyramid.blocks) - pyramid.levels + 1
        self.counts = [0] * (len(pyramid.blocks) + 1)  # frames so far: of the audio, and of each block's outputs
        self.held: list[Tensor] = []

    def counts_after(self, audio_frames: int, *, last: bool = False) -> list[int]:
        """Return the counts after a push."""
        counts = [self.counts[0] + audio_frames]
        for block in self.pyramid.blocks:
            left, right = block.padding
            counts.append(max(0, (counts[-1] + left + (right if last else 0) - block.kernel_size) // 2 + 1))
        return counts

    def is_complete(self, time: int, counts: Sequence[int], *, last: bool) -> bool:
        """Return whether the vector of a motion frame can be computed."""
        for level, count in enumerate(counts[self.stem :]):
            left = time >> level
            between = not (self.pyramid.causal or left << level == time or last)
            if left + between >= count:
                return False
        return True

    def plan(self, counts: Sequence[int], times: Sequence[int], *, last: bool = False) -> _Plan:
        """Plan a push that leads to ``counts`` and computes the vectors of the motion frames ``times``."""
        windows = tuple(
            (counts[index] - 2 * self.counts[index + 1] + block.padding[0], counts[index + 1] - self.counts[index + 1])
            for index, block in enumerate(self.pyramid.blocks)
        )
        picks = []
        for time in times:
            levels = []
            for level, count in enumerate(counts[self.stem :]):
                left = time >> level
                share = 0.0 if self.pyramid.causal or left + 1 >= count else (time - (left << level)) / 2**level
                levels.append((count - left, count - left - (share > 0), share))
            picks.append(tuple(levels))
        return _Plan(windows, tuple(picks), last)

    def push(self, audio: Tensor, plan: _Plan) -> list[Tensor]:
        """Add audio (batch, audio_frames, coeffs) and return the planned vectors, (levels, batch, channels) each."""
        new = self.pyramid.embed_audio(audio)
        if not self.held:
            self.held = self._zeros(new)
        windows = []
        for index, held in enumerate(self.held):
            windows.append(torch.cat([held, new], dim=1) if new.shape[1] else held)
            if index < len(self.pyramid.blocks):
                new = self._outputs(index, windows[-1], plan)
        maps = windows[self.stem :]
        vectors = [
            torch.stack([self._pick(frames, *pick) for frames, pick in zip(maps, picks, strict=True)]) for picks in plan.picks
        ]
        for held, window in zip(self.held, windows, strict=True):
            if window is not held:
                held.copy_(window[:, window.shape[1] - held.shape[1] :])
        return vectors

    def _zeros(self, x: Tensor) -> list[Tensor]:
        """Return the frames before the first push: as many as a block's window or a later vector may still need."""
        blocks = self.pyramid.blocks
        channels = [self.pyramid.embed.out_features, *(block.project.out_features for block in blocks)]
        lengths = [block.kernel_size - 1 for block in blocks] + [0]
        for level in range(self.pyramid.levels):
            lengths[self.stem + level] = max(lengths[self.stem + level], (self.pyramid.look_ahead >> level) + 2)
        dtype = self.pyramid.embed.weight.dtype
        with torch.inference_mode(False):  # inference tensors cannot be changed in place elsewhere
            return [
                torch.zeros(x.shape[0], length, width, dtype=dtype, device=x.device)
                for length, width in zip(lengths, channels, strict=True)
            ]

    def _outputs(self, index: int, window: Tensor, plan: _Plan) -> Tensor:
        block, (start, outputs) = self.pyramid.blocks[index], plan.windows[index]
        if outputs == 0:
            return window.new_zeros(window.shape[0], 0, block.project.out_features)
        begin = window.shape[1] - start
        if plan.last:
            window = torch.cat([window, window.new_zeros(window.shape[0], block.padding[1], window.shape[2])], dim=1)
        return block.valid(window[:, begin : begin + 2 * (outputs - 1) + block.kernel_size])

    @staticmethod
    def _pick(frames: Tensor, first: int, second: int, share: float) -> Tensor:
        return torch.lerp(frames[:, -first], frames[:, -second], share) if share else frames[:, -first]


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
        self._maps = _HeldMaps(pyramid)
        self._time = 0

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
        check_shape("audio", audio, "batch audio_frames coeffs")
        counts = self._maps.counts_after(audio.shape[1], last=last)
        until = self._time
        while self._maps.is_complete(until, counts, last=last):
            until += 1
        vectors = self._maps.push(audio, self._maps.plan(counts, range(self._time, until), last=last))
        self._maps.counts, self._time = counts, until
        return vectors


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
        cuda_graphs: Record the work of a frame as CUDA graphs and replay it, with the same results: True, False, or None for on
            a GPU. Frames before the look-ahead is filled, frames under autocast and those of :meth:`flush` are not recorded.
            The weights may change in place only.

    Raises:
        ShapeError: The rank, points or dims are wrong.
        ArgumentError: ``cuda_graphs=True`` without a GPU.

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
        cuda_graphs: bool | None = None,
    ) -> None:
        if is_tensor(observed) and observed.ndim == 3:
            check_positive("warm_up", warm_up)
            observed = observed[:, None].expand(-1, warm_up, -1, -1)
        device = network.displacement_weight.device
        if cuda_graphs and device.type != "cuda":
            raise ArgumentError(f"`cuda_graphs`: expected a GPU, got {device.type}")
        self.network = network
        self._observed = observed.shape[1]
        self._maps = _HeldMaps(network.audio_pyramid)
        with torch.inference_mode(False), torch.no_grad():
            self._rollout = network.start(observed, generator=generator)
            # The state of the rollout, which each frame changes in place.
            self._state = RolloutState(*(None if x is None else x.clone() for x in self._rollout.state))  # type: ignore[arg-type]
        self._recorder: Recorder | None = CudaRecorder(device) if device.type == "cuda" and cuda_graphs is not False else None
        self._recorded: dict[tuple[_Plan, torch.dtype], GraphedStep] = {}
        self._generator = generator
        # Of `MultiScaleGenerator.draw_noise`: the style, the last two vectors of the noise, and the number of generated frames.
        self._style: Tensor | None = None
        self._knots: tuple[Tensor, Tensor] | None = None
        self._generated = 0
        self._pushed = 0
        self._ended = False

    @property
    def look_ahead(self) -> int:
        """Number of motion frames of audio after a frame that must arrive before the frame is returned."""
        return self.network.look_ahead

    def _face(self, vector: Tensor, noise: Tensor) -> Tensor:
        """Generate the next face (batch, points, dims) from its audio vector and noise, and change the state in place."""
        self._rollout.restore(self._state)
        step = self._rollout.step(self.network.audio_terms(vector[:, :, None], noise)[0])
        for held, new in zip(self._state, self._rollout.state, strict=True):
            if held is not None and new is not None and held is not new:
                held.copy_(new)
        return self._rollout.faces(step.displacement[:, None])[:, 0]

    def _frame(self, inputs: Sequence[Tensor], *, plan: _Plan) -> dict[str, Tensor]:
        """Push the audio of a motion frame and generate a face; this changes only tensors held by the stream."""
        audio, noise = inputs
        (vector,) = self._maps.push(audio, plan)
        return {"face": self._face(vector, noise)}

    def _next_face(self, audio: Tensor, plan: _Plan) -> Tensor:
        """Do the work of :meth:`_frame` by a replay where possible."""
        inputs = (audio, self._next_noise())
        frame = functools.partial(self._frame, plan=plan)
        # Autocast may free the casts of the weights that a recording has read.
        if self._recorder is None or torch.is_autocast_enabled(audio.device.type):
            return frame(inputs)["face"]
        key = (plan, audio.dtype)
        if key not in self._recorded:
            if len(self._recorded) >= MOST_RECORDINGS:
                return frame(inputs)["face"]
            self._recorded[key] = GraphedStep(frame, recorder=self._recorder, warm_up=1)
        return self._recorded[key](inputs)["face"]

    def _next_noise(self) -> Tensor:
        """Return the noise of the next generated frame, (batch, 1, noise + style)."""
        config, batch = self.network.config, self._rollout.batch
        device = self.network.displacement_weight.device
        source = device if self._generator is None else self._generator.device

        def draw(channels: int) -> Tensor:
            return torch.randn(batch, channels, generator=self._generator, device=source).to(device, non_blocking=True)

        if self._style is None:
            self._style = draw(config.style)
        if not config.noise:
            return self._style[:, None]
        if self._knots is None:
            self._knots = (draw(config.noise), draw(config.noise))
        elif self._generated % NOISE_PERIOD == 0:
            self._knots = (self._knots[1], draw(config.noise))
        fraction = (self._generated % NOISE_PERIOD) / NOISE_PERIOD
        self._generated += 1
        return torch.cat([torch.lerp(*self._knots, fraction), self._style], dim=1)[:, None]

    @torch.inference_mode(False)
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
        sizes = {"batch": self._rollout.batch, "coeffs": self.network.config.audio_features}
        check_shape("audio", audio, "batch audio_frames coeffs", audio_frames=AUDIO_FRAMES_PER_FRAME, **sizes)
        check_floating("audio", audio)
        check_same_device("audio", audio, self.network.displacement_weight.device, "the model")
        counts = self._maps.counts_after(AUDIO_FRAMES_PER_FRAME)
        time = self._pushed - self.look_ahead  # the frame whose look-ahead this audio completes
        face = None
        if time >= self._observed:
            face = self._next_face(audio, self._maps.plan(counts, [time]))
        else:
            self._maps.push(audio, self._maps.plan(counts, []))
        self._maps.counts = counts
        self._pushed += 1
        return face

    @torch.inference_mode(False)
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
        times = range(max(self._observed, self._pushed - self.look_ahead), self._pushed)
        vectors = self._maps.push(empty, self._maps.plan(self._maps.counts_after(0, last=True), times, last=True))
        self._recorded.clear()
        if not vectors:
            return at_least_float32(weight).new_zeros(self._rollout.batch, 0, config.points, config.dims)
        return torch.stack([self._face(vector, self._next_noise()) for vector in vectors], dim=1)

    def _check_open(self) -> None:
        if self._ended:
            raise ArgumentError("`stream`: expected an open stream, got one that was flushed; start a new one")
