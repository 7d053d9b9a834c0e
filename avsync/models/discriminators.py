"""Discriminators of section 3.3, for single frames, windows of a sequence, and pairs of sequences.

The discriminators return logits for the losses of :mod:`avsync.losses.adversarial`. Coordinates are centred on the first
observed face and divided by its height. All frames of a clip have this one centre and height, so that the discriminators can
detect faces that grow or drift away. Landmarks of any floating-point dtype are accepted.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avsync._checks import (
    at_least_float32,
    check_count,
    check_fields,
    check_floating,
    check_same_device,
    check_shape,
    check_some_clips,
    checked,
    checked_config,
    constant,
    describe_shape,
)
from avsync.errors import ArgumentError, ClipTooShortError, ConfigError, ShapeError
from avsync.landmarks.geometry import normalise
from avsync.models.generator.model import RecurrentLinear, lstm_update, needs_plain_operations
from avsync.models.syncer.pyramid import PointwiseBlock
from avsync.pretrained import PretrainedModel, added_later


def _check_sizes(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value < 1:
            raise ConfigError(f"`{name}`: expected a number above 0, got {value!r}")


@dataclass(frozen=True)
class FrameDiscriminatorConfig:
    """Sizes of :class:`FrameDiscriminator`; the defaults are those of the paper's code.

    Attributes:
        points: Number of points of a face.
        dims: Coordinates per point.
        embed: Width of the frame embedding and of the blocks.
        depth: Pointwise ConvNeXt blocks after the embedding.
        expansion: Hidden channels of embedding and blocks, as a multiple of ``embed``.
        velocity_scale: Factor on the velocity, in face heights per frame, which the embedding then sees next to the
            coordinates, as in SUHMo; 0 leaves the velocity out.
        acceleration_scale: The same for the acceleration, in face heights per frame squared.

    Raises:
        ConfigError: A value is impossible.
    """

    points: int = 68
    dims: int = 2
    embed: int = 512
    depth: int = 4
    expansion: int = 4
    velocity_scale: float = added_later(0.0)
    acceleration_scale: float = added_later(0.0)

    def __post_init__(self) -> None:
        check_fields(self)
        _check_sizes(self, "points", "dims", "embed", "expansion")
        if self.depth < 0:
            raise ConfigError(f"`depth`: expected a number at least 0, got {self.depth!r}")


@dataclass(frozen=True)
class WindowDiscriminatorConfig:
    """Sizes of :class:`WindowDiscriminator` and :class:`PairDiscriminator`; the defaults are those of the paper's code.

    Attributes:
        points: Number of points of a face.
        dims: Coordinates per point.
        embed: Width of the frame embedding.
        expansion: Hidden channels of the embedding, as a multiple of ``embed``.
        hidden: Size of the LSTM's state.
        windows: Lengths of the windows in frames; the stride is half a window.
        displacement_scale: Factor on the displacement from the first observed face, in face heights. The embedding sees the
            displacement in addition to the coordinates (ours).
        velocity_scale: Factor on the velocity, in face heights per frame. The embedding also sees the velocity, as in SUHMo,
            because motion that is too slow or too smooth is visible in velocities but hardly in positions.
        acceleration_scale: Factor on the acceleration, in face heights per frame squared, which the embedding then also sees,
            as in SUHMo; 0 leaves the acceleration out.

    Raises:
        ConfigError: A value is impossible.
    """

    points: int = 68
    dims: int = 2
    embed: int = 512
    expansion: int = 4
    hidden: int = 1024
    windows: tuple[int, ...] = (5, 10, 20, 40)
    displacement_scale: float = 8.0
    velocity_scale: float = 40.0
    acceleration_scale: float = added_later(0.0)

    def __post_init__(self) -> None:
        check_fields(self)
        _check_sizes(self, "points", "dims", "embed", "expansion", "hidden")
        if not self.windows or min(self.windows) < 2:
            raise ConfigError(f"`windows`: expected lengths of at least 2 frames, got {self.windows!r}")


class FrameEmbedding(nn.Module):
    """Embedding of single frames: linear, LayerNorm, linear x4, GELU, linear.

    Args:
        in_features: Number of values per frame.
        embed: Width of the embedding.
        expansion: Hidden channels, as a multiple of ``embed``.

    Example:
        >>> FrameEmbedding(in_features=6, embed=4)(torch.zeros(2, 5, 6)).shape
        torch.Size([2, 5, 4])

    Source: the paper's code.
    """

    def __init__(self, *, in_features: int, embed: int, expansion: int = 4) -> None:
        super().__init__()
        self.enter = nn.Linear(in_features, embed)
        self.norm = nn.LayerNorm(embed)
        self.expand = nn.Linear(embed, expansion * embed)
        self.project = nn.Linear(expansion * embed, embed)

    def forward(self, x: Tensor) -> Tensor:
        """Embed frames, (..., in_features) -> (..., embed), in the dtype of the weights."""
        x = x.to(self.enter.weight.dtype)
        return self.project(F.gelu(self.expand(self.norm(self.enter(x)))))


class FrameDiscriminator(PretrainedModel):
    """Discriminator of single faces, D_f in equation (9).

    Args:
        config: Sizes; the defaults if None.
        embedding: Frame embedding shared with the other discriminators, as in the paper's code; its frames are then passed as
            ``embedded``. A new embedding if None.

    Raises:
        ArgumentError: ``config`` is of another class, or the width of ``embedding`` differs from it.

    Example:
        >>> discriminator = FrameDiscriminator(FrameDiscriminatorConfig(embed=8))
        >>> discriminator(torch.rand(2, 7, 68, 2)).shape
        torch.Size([2, 7])

    Source: paper, section 3.3; embedding and blocks from the paper's code.
    """

    config_class = FrameDiscriminatorConfig

    @checked
    def __init__(self, config: FrameDiscriminatorConfig | None = None, *, embedding: FrameEmbedding | None = None) -> None:
        super().__init__()
        self.config = config = checked_config(config, FrameDiscriminatorConfig)
        kinds = 1 + bool(config.velocity_scale) + bool(config.acceleration_scale)
        if embedding is None:
            features = kinds * config.points * config.dims
            embedding = FrameEmbedding(in_features=features, embed=config.embed, expansion=config.expansion)
        elif not isinstance(embedding, FrameEmbedding):
            raise ArgumentError(f"`embedding`: expected FrameEmbedding or None, got {type(embedding).__name__}")
        elif embedding.project.out_features != config.embed:
            raise ArgumentError(
                f"`embedding`: expected one to {config.embed} features, got one to {embedding.project.out_features}"
            )
        self.embedding = embedding
        self.blocks = nn.Sequential(
            *(PointwiseBlock(channels=config.embed, expansion=config.expansion) for _ in range(config.depth))
        )
        self.score = nn.Linear(config.embed, 1)

    @checked
    def forward(self, landmarks: Tensor, *, reference: Tensor | None = None, embedded: Tensor | None = None) -> Tensor:
        """Score every frame.

        Args:
            landmarks: (batch, frames, points, dims), any unit.
            reference: (batch, points, dims), the first observed face, which centres and scales the frames; the clip's own first
                frame if None. It should be passed, because a clip scaled by its own first frame does not reveal its size.
            embedded: (batch, frames, embed), the frames by a shared embedding; computed here if None.

        Returns:
            Logits (batch, frames), high for real.

        Raises:
            ShapeError: The rank, points or dims are wrong, or the batch is empty.
            ArgumentError: The landmarks and the model are not on one device.
        """
        _check_clip("landmarks", landmarks, self.config.points, self.config.dims)
        check_same_device("landmarks", landmarks, self.score.weight.device, "the model")
        batch, frames, points, dims = landmarks.shape
        if reference is not None:
            check_shape("reference", reference, "batch points dims", batch=batch, points=points, dims=dims)
        if embedded is None:
            config = self.config
            x = normalise(at_least_float32(landmarks), reference="first" if reference is None else reference).landmarks.flatten(
                2
            )
            embedded = self.embedding(torch.cat([x, *_derivatives(x, config.velocity_scale, config.acceleration_scale)], dim=2))
        else:
            check_shape("embedded", embedded, "batch frames embed", batch=batch, frames=frames, embed=self.config.embed)
            check_floating("embedded", embedded)
        return self.score(self.blocks(embedded)).squeeze(-1)


def _derivatives(x: Tensor, velocity_scale: float, acceleration_scale: float) -> list[Tensor]:
    """Return scaled velocity and acceleration of (batch, frames, features), zero at the start; none for a scale of 0."""
    velocity = F.pad(x[:, 1:] - x[:, :-1], (0, 0, 1, 0))
    found = [velocity_scale * velocity] if velocity_scale else []
    if acceleration_scale:
        # The first frame has no velocity, so the third frame is the first with an acceleration.
        found.append(acceleration_scale * F.pad(velocity[:, 2:] - velocity[:, 1:-1], (0, 0, min(2, x.shape[1]), 0)))
    return found


def window_starts(observed: int, frames: int, window: int) -> range:
    """Return the starts of the windows of one length, counted from the first frame after the observed frames.

    Windows overlap by half. The first windows reach back into the observed frames by up to half a window. At the end of a clip,
    fewer frames than a stride may lie outside all windows of this length.

    Args:
        observed: Observed frames.
        frames: Frames to score, after the observed frames.
        window: Length of a window.

    Returns:
        The starts, negative inside the observed frames; empty if no window fits.

    Example:
        >>> list(window_starts(3, 20, 10))
        [-3, 2, 7]

    Source: the paper's code.
    """
    stride = window // 2
    return range(max(-observed, stride - window), frames - window + 1, stride)


class WindowSegment(NamedTuple):
    """LSTM steps between two window lengths at which states are read."""

    frames: tuple[int, ...]
    """Frame of the clip for each step and each active start, step by step."""
    active: int
    """Number of starts with unfinished windows."""
    read: tuple[int, ...]
    """Indices of the starts whose window ends with this segment."""


class WindowPlan(NamedTuple):
    """Windows of a clip, arranged so that windows with the same start share their first steps.

    After 5 frames of a window of 20, an LSTM that starts from zeros has the same state as at the end of the window of 5 with
    the same start. With windows of 5, 10, 20 and 40, 43 frames need 200 steps instead of 273, and 40 sequential steps instead
    of 78.
    """

    segments: list[WindowSegment]
    distances: tuple[float, ...]
    """Distance of each window from the observed frames, at least 1, in the order in which states are read."""
    weights: tuple[float, ...]
    """Weights of the windows: the mean over the positions of a length, then over the lengths."""
    condition: int
    """Position of the observed frames among the states that are read."""


def window_plan(observed: int, frames: int, windows: Sequence[int]) -> WindowPlan:
    """Arrange the windows of a clip; the observed frames count as one more window."""
    places = {window: window_starts(observed, frames, window) for window in windows}
    filled = sum(len(starts) > 0 for starts in places.values())
    weights = {(start, window): 1 / (len(starts) * filled) for window, starts in places.items() for start in starts}
    wanted = {*weights, (-observed, observed)}
    longest: dict[int, int] = {}
    for start, length in wanted:
        longest[start] = max(longest.get(start, 0), length)
    order = sorted(longest, key=lambda start: (-longest[start], start))
    segments, read = [], []
    done = 0
    for length in sorted({length for _, length in wanted}):
        active = [start for start in order if longest[start] >= length]
        ending = tuple(index for index, start in enumerate(active) if (start, length) in wanted)
        steps = tuple(observed + start + step for step in range(done, length) for start in active)
        segments.append(WindowSegment(steps, len(active), ending))
        read += [(active[index], length) for index in ending]
        done = length
    return WindowPlan(
        segments,
        tuple(float(max(start, 1)) for start, _ in read),
        tuple(weights.get(key, 0.0) for key in read),
        read.index((-observed, observed)),
    )


class WindowLSTM(nn.Module):
    """Single-layer LSTM that returns the states at the ends of the windows of a clip; all windows start from zeros.

    :class:`torch.nn.LSTM` itself cannot be compiled in one graph. The gates are in the order of :func:`lstm_update`.

    Args:
        in_features: Number of features per frame.
        hidden: Size of the LSTM state.

    Source: ours.
    """

    def __init__(self, *, in_features: int, hidden: int) -> None:
        super().__init__()
        self.gates = nn.Linear(in_features, 4 * hidden)
        self.recurrent = nn.Parameter(torch.empty(4 * hidden, hidden))

    def reset_parameters(self) -> None:
        """Draw initial weights from the range of :class:`torch.nn.LSTM`."""
        bound = 1 / math.sqrt(self.recurrent.shape[1])
        for parameter in (self.gates.weight, self.gates.bias, self.recurrent):
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, embedded: Tensor, segments: Sequence[WindowSegment], *, fused: bool | None = None) -> list[Tensor]:
        """Compute the states that the segments read.

        Args:
            embedded: (frames, batch, in_features).
            segments: Steps and windows.
            fused: Use torch's fused LSTM, which is faster on a GPU and the default there, instead of a loop over the steps. The
                loop is faster on a CPU, because it multiplies each frame by the input weight once for all windows that hold the
                frame.

        Returns:
            The states that each segment reads, (windows, batch, hidden).
        """
        if embedded.is_cuda if fused is None else fused:
            return self._fused(embedded, segments)
        gates = self.gates(embedded)
        in_place = gates.device.type == "cpu" and gates.dtype in (torch.float32, torch.float64)
        if in_place and not needs_plain_operations(gates.device):
            states = _InPlaceLoop.apply(gates, self.recurrent, tuple(segments))
        else:
            states = _loop(gates, self.recurrent, segments)
        return [_rows(state, read) for state, (_, _, read) in zip(states, segments, strict=True)]

    def _fused(self, embedded: Tensor, segments: Sequence[WindowSegment]) -> list[Tensor]:
        # The weights are contiguous in one tensor, as cuDNN requires.
        bias = _reordered(self.gates.bias)
        weights = (_reordered(self.gates.weight), _reordered(self.recurrent), bias, torch.zeros_like(bias))
        pieces = torch.cat([weight.flatten() for weight in weights]).split([weight.numel() for weight in weights])
        flat = [piece.view_as(weight) for piece, weight in zip(pieces, weights, strict=True)]
        batch, size = embedded.shape[1], self.recurrent.shape[1]
        hidden = cell = embedded.new_zeros(1, segments[0].active * batch, size)
        found = []
        position = torch.arange(embedded.shape[0], device=embedded.device)
        for frames, active, read in segments:
            # A product selects the frames, because the gradient of indexing is an atomic sum on a GPU.
            chosen = (constant(frames, embedded.device)[:, None] == position).to(embedded.dtype)
            inputs = (chosen @ embedded.flatten(1)).view(-1, active * batch, embedded.shape[2])
            state = [hidden[:, : active * batch], cell[:, : active * batch]]
            _, hidden, cell = torch.lstm(inputs, state, flat, True, 1, 0.0, self.training, False, False)
            found.append(_rows(hidden.view(active, batch, size), read))
        return found


def _loop(gates: Tensor, recurrent: Tensor, segments: Sequence[WindowSegment]) -> list[Tensor]:
    """Compute the states at the end of each segment, (active, batch, hidden), from the gates of the input."""
    linear = RecurrentLinear(recurrent)
    batch, size = gates.shape[1], recurrent.shape[1]
    hidden: Tensor | None = None
    cell = at_least_float32(gates.new_zeros(segments[0].active * batch, size))
    states = []
    for frames, active, _ in segments:
        terms = gates.index_select(0, constant(frames, gates.device)).view(-1, active * batch, gates.shape[2])
        cell = cell[: active * batch]
        hidden = None if hidden is None else hidden[: active * batch]
        for term in terms.unbind(0):
            before = term if hidden is None else linear(hidden.to(term.dtype), term)
            hidden, cell = lstm_update(before, cell)
        assert hidden is not None
        states.append(hidden.view(active, batch, size))
    return states


class _Step(NamedTuple):
    """Rows of one step, in tensors that hold the rows of all steps one after another."""

    now: slice
    before: slice | None
    """Rows of the same windows one step earlier; None for the first step."""
    ends: int | None
    """Number of the segment that ends with this step; None if no segment does."""


@functools.lru_cache(maxsize=64)
def _steps(segments: tuple[WindowSegment, ...], batch: int) -> list[_Step]:
    steps: list[_Step] = []
    start = 0
    for number, (frames, active, _) in enumerate(segments):
        count = len(frames) // active
        for step in range(count):
            now = slice(start, start + active * batch)
            before = None
            if steps:
                first = steps[-1].now.start
                before = slice(first, first + active * batch)
            steps.append(_Step(now, before, number if step == count - 1 else None))
            start = now.stop
    return steps


class _InPlaceLoop(torch.autograd.Function):
    """:func:`_loop` in few operations, which write into tensors for all steps.

    The activations replace the gates, the backward pass writes their gradients side by side, and one product per segment forms
    the gradient of the weight. A backward pass that is differentiated itself repeats the loop with plain operations.
    """

    @staticmethod
    def forward(ctx: Any, gates: Tensor, recurrent: Tensor, segments: tuple[WindowSegment, ...]) -> tuple[Tensor, ...]:
        batch, size = gates.shape[1], recurrent.shape[1]
        weight = recurrent.t()
        active = gates.index_select(0, constant(_frames(segments), gates.device)).flatten(0, 1)
        hidden, cell, bounded = (active.new_empty(len(active), size) for _ in range(3))
        # tanh(x) = 2 sigmoid(2 x) - 1, because torch's tanh takes several times as long as its sigmoid on a CPU.
        minus_one = active.new_full((), -1.0)
        for now, before, _ in _steps(segments, batch):
            activation = active[now] if before is None else active[now].addmm_(hidden[before], weight)
            enter, forget, leave, new = activation.chunk(4, dim=1)
            new.mul_(2)
            activation.sigmoid_()
            torch.add(minus_one, new, alpha=2, out=new)
            torch.mul(enter, new, out=cell[now])
            if before is not None:
                cell[now].addcmul_(forget, cell[before])
            torch.mul(cell[now], 2, out=bounded[now])
            torch.add(minus_one, bounded[now].sigmoid_(), alpha=2, out=bounded[now])
            torch.mul(leave, bounded[now], out=hidden[now])
        ctx.segments = segments
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(gates, recurrent, active, hidden, cell, bounded)
        ends = [step.now for step in _steps(segments, batch) if step.ends is not None]
        return tuple(hidden[end].view(-1, batch, size) for end in ends)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        gates, recurrent, active, hidden, cell, bounded = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative may follow
            return (*_repeated(gates, recurrent, ctx.segments, gradients, ctx.needs_input_grad), None)
        size = recurrent.shape[1]
        steps = _steps(ctx.segments, gates.shape[1])
        of_active = torch.empty_like(active)
        # Rows of windows that end earlier stay zero until the loop reaches their last step.
        of_hidden, of_cell = active.new_zeros(2, steps[0].now.stop, size).unbind(0)
        after: slice | None = None
        for now, before, ends in reversed(steps):
            rows = now.stop - now.start
            if after is not None:
                torch.mm(of_active[after], recurrent, out=of_hidden[: after.stop - after.start])
            if ends is not None and (given := gradients[ends]) is not None:
                of_hidden[:rows] += given.reshape(rows, size)
            of_cell_now, of_hidden_now = of_cell[:rows], of_hidden[:rows]
            enter, forget, leave, new = active[now].chunk(4, dim=1)
            of_enter, of_forget, of_leave, of_new = of_active[now].chunk(4, dim=1)
            torch.mul(of_hidden_now, bounded[now], out=of_leave)
            of_cell_now += torch.ops.aten.tanh_backward(of_hidden_now.mul_(leave), bounded[now])
            torch.mul(of_cell_now, new, out=of_enter)
            torch.mul(of_cell_now, enter, out=of_new)
            if before is None:
                of_forget.zero_()
            else:
                torch.mul(of_cell_now, cell[before], out=of_forget)
            of_three, three = of_active[now][:, : 3 * size], active[now][:, : 3 * size]
            torch.ops.aten.sigmoid_backward.grad_input(of_three, three, grad_input=of_three)
            torch.ops.aten.tanh_backward.grad_input(of_new, new, grad_input=of_new)
            of_cell_now *= forget
            after = now
        of_gates = of_recurrent = None
        if ctx.needs_input_grad[0]:
            frames = constant(_frames(ctx.segments), gates.device)
            of_gates = torch.zeros_like(gates).index_add_(0, frames, of_active.view(-1, *gates.shape[1:]))
        if ctx.needs_input_grad[1]:
            of_recurrent = torch.zeros_like(recurrent)
            for now, before in _blocks(steps):
                of_recurrent.addmm_(of_active[now].t(), hidden[before])
        return of_gates, of_recurrent, None


def _frames(segments: Sequence[WindowSegment]) -> tuple[int, ...]:
    return tuple(frame for segment in segments for frame in segment.frames)


def _blocks(steps: Sequence[_Step]) -> list[tuple[slice, slice]]:
    """Join steps whose rows follow each other and whose rows one step earlier do, too."""
    blocks: list[tuple[slice, slice]] = []
    for now, before, _ in steps:
        if before is None:
            continue
        if blocks and blocks[-1][0].stop == now.start and blocks[-1][1].stop == before.start:
            blocks[-1] = slice(blocks[-1][0].start, now.stop), slice(blocks[-1][1].start, before.stop)
        else:
            blocks.append((now, before))
    return blocks


def _repeated(
    gates: Tensor,
    recurrent: Tensor,
    segments: Sequence[WindowSegment],
    gradients: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """Compute the gradients of gates and weight by a loop of plain operations, so that they can be differentiated."""
    inputs = [x for x, wanted in zip((gates, recurrent), needed, strict=False) if wanted]
    pairs = [(state, x) for state, x in zip(_loop(gates, recurrent, segments), gradients, strict=True) if x is not None]
    states, given = zip(*pairs, strict=True)
    found = iter(torch.autograd.grad(states, inputs, given, create_graph=True, allow_unused=True))
    return [next(found) if wanted else None for wanted in needed[:2]]


def _rows(states: Tensor, read: tuple[int, ...]) -> Tensor:
    """Select the states (active, batch, hidden) of some starts, in ascending order."""
    if len(read) == states.shape[0]:
        return states
    # Slices of adjacent starts, whose gradient is no atomic sum.
    ends = [index + 1 for index, start in enumerate(read) if start + 1 not in read]
    slices = [states[read[first] : read[end - 1] + 1] for first, end in zip([0, *ends[:-1]], ends, strict=True)]
    return slices[0] if len(slices) == 1 else torch.cat(slices)


def _reordered(gates: Tensor) -> Tensor:
    """Reorder weights of gates from the order of :func:`lstm_update` to torch's (input, forget, cell, output)."""
    enter, forget, new, leave = gates.chunk(4)
    return torch.cat([enter, forget, leave, new])


class SpectralLinear(nn.Linear):
    r"""Linear layer with spectral normalisation: the weight is divided by its largest singular value :math:`\sigma`.

    One power iteration per forward pass in training mode estimates :math:`\sigma`, as in
    :func:`torch.nn.utils.parametrizations.spectral_norm`, whose modules cannot be pickled.

    Args:
        in_features: Features of the input.
        out_features: Features of the output.

    Example:
        >>> layer = SpectralLinear(3, 5).eval()
        >>> gain = layer(torch.eye(3)) - layer(torch.zeros(1, 3))  # the normalised weight
        >>> round(torch.linalg.matrix_norm(gain, 2).item(), 2)
        1.0

    Source: Miyato et al. 2018, "Spectral normalization for generative adversarial networks".
    """

    left: Tensor
    right: Tensor

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.register_buffer("left", F.normalize(torch.randn(out_features), dim=0))
        self.register_buffer("right", F.normalize(torch.randn(in_features), dim=0))
        for _ in range(15):
            self._iterate()

    @torch.no_grad()
    def _iterate(self) -> None:
        weight = at_least_float32(self.weight)
        left = F.normalize(weight.mv(self.right.to(weight.dtype)), dim=0, eps=1e-12)
        self.left.copy_(left)
        self.right.copy_(F.normalize(weight.t().mv(left), dim=0, eps=1e-12))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: (..., in_features) -> (..., out_features)."""
        if self.training:
            self._iterate()
        weight = at_least_float32(self.weight)
        # Copies, because the next forward pass changes the buffers, and the graph of this one may still be needed.
        left, right = self.left.to(weight.dtype, copy=True), self.right.to(weight.dtype, copy=True)
        return F.linear(x, (weight / left.dot(weight.mv(right))).to(self.weight.dtype), self.bias)


class ProjectionScore(nn.Module):
    r"""Projection score of a window's state, given the state of the observed frames.

    .. math:: A \, (d^{-1/\beta} \langle y, V \varphi \rangle + \psi(\varphi)), \quad \varphi = \mathrm{relu}(P h), \quad
        \psi(\varphi) = \mathrm{relu}(Q \varphi)

    with the state :math:`h` of the window, the state :math:`y` of the observed frames, the distance :math:`d` of the window
    from the observed frames, and a learnable :math:`\beta`. The matrices A, V, P and Q carry spectral normalisation.

    Args:
        hidden: Size of the states.

    Example:
        >>> score = ProjectionScore(hidden=4)
        >>> score(torch.zeros(3, 2, 4), torch.zeros(2, 4), torch.tensor([1.0, 2.0, 7.0])).shape
        torch.Size([3, 2])

    Source: paper, section 3.3; the form from the paper's code.
    """

    def __init__(self, *, hidden: int) -> None:
        super().__init__()
        self.phi = SpectralLinear(hidden, 2 * hidden)
        self.psi = SpectralLinear(2 * hidden, 2 * hidden)
        self.value = SpectralLinear(2 * hidden, hidden)
        self.score = SpectralLinear(2 * hidden, 1)
        self.beta = nn.Parameter(torch.tensor(5.0))

    def forward(self, states: Tensor, condition: Tensor, distance: Tensor) -> Tensor:
        """Score windows.

        Args:
            states: (windows, rows, hidden), h of each window.
            condition: (rows, hidden), y.
            distance: (windows,), d >= 1, frames from the observed frames.

        Returns:
            (windows, rows).
        """
        # The power iteration would drift in half precision, so the score is computed in the dtype of the parameters.
        with torch.autocast(device_type=states.device.type, enabled=False):
            dtype = self.beta.dtype
            phi = F.relu(self.phi(states.to(dtype)))
            projection = (condition.to(dtype) * self.value(phi)).sum(dim=-1)
            weight = torch.exp(-at_least_float32(distance).log() / self.beta).to(dtype)
            return self.score((weight[:, None] * projection)[..., None] + F.relu(self.psi(phi))).squeeze(-1)


def _check_clip(name: str, landmarks: Tensor, points: int, dims: int, batch: int | None = None) -> None:
    sizes = {"points": points, "dims": dims}
    if batch is not None:
        sizes["batch"] = batch
    check_shape(name, landmarks, "batch frames points dims", **sizes)
    check_floating(name, landmarks)
    check_some_clips(name, landmarks)
    if landmarks.shape[1] == 0:
        raise ClipTooShortError(f"`{name}`: expected at least 1 frame, got {describe_shape(landmarks)}")


class _WindowNetwork(PretrainedModel):
    """Common part of the window and the pair discriminator: embedding, LSTM over all windows, projection score."""

    config_class = WindowDiscriminatorConfig

    @checked
    def __init__(self, config: WindowDiscriminatorConfig | None = None, *, embedding: FrameEmbedding | None = None) -> None:
        super().__init__()
        self.config = config = checked_config(config, WindowDiscriminatorConfig)
        kinds = 2 + bool(config.velocity_scale) + bool(config.acceleration_scale)
        features = kinds * config.points * config.dims
        if embedding is None:
            embedding = FrameEmbedding(in_features=features, embed=config.embed, expansion=config.expansion)
        elif not isinstance(embedding, FrameEmbedding):
            raise ArgumentError(f"`embedding`: expected a discriminator's embedding, got {type(embedding).__name__}")
        elif (embedding.enter.in_features, embedding.project.out_features) != (features, config.embed):
            raise ArgumentError(
                f"`embedding`: expected {features} inputs and {config.embed} outputs, got {embedding.enter.in_features} and "
                f"{embedding.project.out_features}"
            )
        self.embedding = embedding
        self.lstm = WindowLSTM(in_features=config.embed, hidden=config.hidden)
        self.head = ProjectionScore(hidden=config.hidden)
        self.lstm.reset_parameters()
        self.register_load_state_dict_pre_hook(_rename_weights)

    @checked
    def shortest(self, observed: int) -> int:
        """Return the fewest frames that can be scored after ``observed`` observed frames."""
        return min(window - min(observed, window - window // 2) for window in self.config.windows)

    def embed(self, observed: Tensor, landmarks: Tensor) -> Tensor:
        """Embed all frames, the observed frames first.

        Args:
            observed: (batch, n, points, dims), any unit; the first frame is the reference face.
            landmarks: (batch, frames, points, dims), the frames that follow.

        Returns:
            (n + frames, batch, embed).

        Raises:
            ShapeError: The rank, points or dims are wrong, or the batches differ or are empty.
            ArgumentError: The landmarks and the model are not on one device.
        """
        config = self.config
        _check_clip("observed", observed, config.points, config.dims)
        _check_clip("landmarks", landmarks, config.points, config.dims, observed.shape[0])
        check_same_device("observed", observed, self.head.beta.device, "the model")
        check_same_device("landmarks", landmarks, self.head.beta.device, "the model")
        # Converted to one dtype, at least float32, before concatenation and differences.
        clip = torch.cat([at_least_float32(observed), at_least_float32(landmarks)], dim=1)
        x = normalise(clip).landmarks.flatten(2)
        derivatives = _derivatives(x, config.velocity_scale, config.acceleration_scale)
        x = torch.cat([x, config.displacement_scale * (x - x[:, :1]), *derivatives], dim=2)
        return self.embedding(x.transpose(0, 1))

    def _merged(self, states: Tensor) -> Tensor:
        """Return the states (windows, rows, hidden) to score, from those of a batch (windows, batch, hidden)."""
        return states

    def _scores(self, observed: Tensor, landmarks: Tensor, embedded: Tensor | None, fused: bool | None, parts: int) -> Tensor:
        """Compute the logits of a batch: one pass of the LSTM, and one pass of the head per part."""
        check_count("parts", parts)
        if embedded is None:
            embedded = self.embed(observed, landmarks)
        batch, seen, frames = len(observed), observed.shape[1], landmarks.shape[1]
        if parts > 1 and batch % parts:
            raise ShapeError(f"`observed`: expected a batch of {parts} equal parts, got {describe_shape(observed)}")
        check_shape("embedded", embedded, "frames batch embed", frames=seen + frames, batch=batch, embed=self.config.embed)
        check_floating("embedded", embedded)
        embedded = embedded.to(self.lstm.gates.weight.dtype)
        if frames < self.shortest(seen):
            raise ClipTooShortError(
                f"`landmarks`: expected at least {self.shortest(seen)} frames after {seen} observed ones "
                f"for windows of {self.config.windows}, got {describe_shape(landmarks)}"
            )
        plan = window_plan(seen, frames, self.config.windows)
        read = self.lstm(embedded, plan.segments, fused=fused)
        logits = []
        # Parts are separated before the states are joined, so that the states of a part are contiguous without a copy.
        for part in zip(*(states.chunk(parts, dim=1) for states in read), strict=True):
            states = self._merged(torch.cat(part))
            scores = self.head(states, states[plan.condition], constant(plan.distances, states.device))
            logits.append(constant(plan.weights, scores.device).to(scores.dtype) @ scores)
        return logits[0] if parts == 1 else torch.cat(logits)


def _rename_weights(network: nn.Module, weights: dict[str, Any], prefix: str, *_: object) -> None:
    """Convert weights of the old form, whose LSTM was part of the network, before a network loads them."""
    del network
    if f"{prefix}recurrent" not in weights:
        return
    for name in ("gates.weight", "gates.bias", "recurrent"):
        weights[f"{prefix}lstm.{name}"] = weights.pop(f"{prefix}{name}")
    for layer in ("phi", "psi", "value", "score"):
        name = f"{prefix}head.{layer}."
        for old, new in (("original", "weight"), ("0._u", "left"), ("0._v", "right")):
            weights[f"{name}{new}"] = weights.pop(f"{name}parametrizations.weight.{old}")


class WindowDiscriminator(_WindowNetwork):
    """Discriminator of sequences in windows of several lengths, D_s in equation (10).

    An LSTM reads each window; its last state is scored against the LSTM's last state on the observed frames. Windows longer
    than the clip are skipped. The score is the mean over the positions of a window, then over the window lengths.

    Args:
        config: Sizes; the paper's if None.
        embedding: Frame embedding shared with another discriminator; a new embedding if None.

    Raises:
        ArgumentError: ``config`` is of another class, or ``embedding`` does not match it.

    Example:
        >>> discriminator = WindowDiscriminator(WindowDiscriminatorConfig(embed=8, hidden=8))
        >>> discriminator(torch.rand(2, 3, 68, 2), torch.rand(2, 40, 68, 2)).shape
        torch.Size([2])

    Source: paper, section 3.3; windows and score from the paper's code.
    """

    @checked
    def forward(
        self,
        observed: Tensor,
        landmarks: Tensor,
        *,
        embedded: Tensor | None = None,
        fused: bool | None = None,
        parts: int = 1,
    ) -> Tensor:
        """Score sequences.

        Args:
            observed: (batch, n, points, dims), any unit; the first frame is the reference face.
            landmarks: (batch, frames, points, dims), the frames that follow, real or generated.
            embedded: Result of :meth:`~avsync.models.discriminators.WindowDiscriminator.embed` for the same frames, if another
                discriminator with the same embedding has it; computed here if None.
            fused: Use torch's fused LSTM instead of a loop over the frames; None uses it on a GPU, where it is faster. On a GPU
                it has no second derivative: pass False for gradient penalties such as R1.
            parts: Number of equal parts of the batch, such as 2 for real clips followed by generated ones. Logits, and in
                training mode the power iterations of the spectral norms, are those of one call per part, but the LSTM reads all
                parts in one pass.

        Returns:
            Logits (batch,), high for real.

        Raises:
            ShapeError: The rank, points or dims are wrong, the batches differ or are empty, or the batch has no equal parts.
            ClipTooShortError: No window fits; the message names the shortest length.
            ArgumentError: The landmarks and the model are not on one device, or ``parts`` is below 1.
        """
        return self._scores(observed, landmarks, embedded, fused, parts)


class PairDiscriminator(_WindowNetwork):
    """Discriminator of pairs of sequences, against mode collapse, D_j in equation (11).

    The discriminator has its own LSTM and head and works like :class:`WindowDiscriminator`, but scores the element-wise maximum
    of the LSTM states of two samples. Sample i of the first half of the batch is paired with sample i of the second half.

    Args:
        config: Sizes; the paper's if None.
        embedding: Frame embedding shared with another discriminator, as in the paper's code; a new embedding if None.

    Raises:
        ArgumentError: ``config`` is of another class, or ``embedding`` does not match it.

    Example:
        >>> discriminator = PairDiscriminator(WindowDiscriminatorConfig(embed=8, hidden=8))
        >>> discriminator(torch.rand(4, 3, 68, 2), torch.rand(4, 40, 68, 2)).shape
        torch.Size([2])

    Source: paper, section 3.3; the merging from the paper's code.
    """

    @checked
    def forward(
        self,
        observed: Tensor,
        landmarks: Tensor,
        *,
        embedded: Tensor | None = None,
        fused: bool | None = None,
        parts: int = 1,
    ) -> Tensor:
        """Score pairs of sequences.

        Args:
            observed: (batch, n, points, dims), any unit, an even batch.
            landmarks: (batch, frames, points, dims).
            embedded: As in :meth:`WindowDiscriminator.forward`.
            fused: As in :meth:`WindowDiscriminator.forward`.
            parts: As in :meth:`WindowDiscriminator.forward`; pairs are made within each part.

        Returns:
            Logits (batch / 2,), high for real.

        Raises:
            ShapeError: The batch or its parts are odd, or as in :meth:`WindowDiscriminator.forward`.
            ClipTooShortError: No window fits; the message names the shortest length.
            ArgumentError: As in :meth:`WindowDiscriminator.forward`.
        """
        check_count("parts", parts)
        if isinstance(observed, Tensor) and observed.ndim == 4 and observed.shape[0] % (2 * parts):
            each = f" in each of {parts} parts" if parts > 1 else ""
            raise ShapeError(f"`observed`: expected an even batch{each}, got {describe_shape(observed)}")
        return self._scores(observed, landmarks, embedded, fused, parts)

    def _merged(self, states: Tensor) -> Tensor:
        return torch.maximum(*states.chunk(2, dim=1))
