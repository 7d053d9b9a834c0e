"""Windows of several lengths over a clip, and the LSTM that reads all of them at once."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from avsync._checks import at_least_float32, constant
from avsync.models.recurrence import RecurrentLinear, lstm_update, needs_plain_operations


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
