r"""Equal encoders of several levels, of motion and of audio, as batched products.

A GPU spends the time of small batches on launching operations. The encoders of a pyramid have the same layers, so that one
batched product per layer replaces one product per layer, level and modality. Steps that are linear and constant are part of a
neighbouring product:

- The pyramid, the context around the windows and the repeated last frames are one matrix, from the frames of a clip to the
  frames of all levels.
- The standardisation of the audio features is part of the first layer, and the scale and the shift of each LayerNorm are part
  of the layer that follows.
- The bias of the second layer of a block is the weight of a hidden unit with a constant value, so that the layer and the
  addition of the block's input are one operation.

The levels of a group are padded to the length of the longest one, which doubles the arithmetic. Frames are the first axis of
all hidden values, (encoders, frames, batch, channels), because padding is then at the end of each encoder's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

MOST_FRAMES = 8192
"""Frames of the finest level, all clips together, up to which launching is what costs time."""
LONGEST_MATRIX = 256
"""Frames of a clip up to which its levels are one product, whose matrix grows with the square of the frames (10 MB)."""
_MOST_MATRICES = 16
"""Lengths of clips whose matrices are kept."""
_CARRIER = 16.0
"""Value of the hidden unit that carries a bias. It is a fixed point of GELU in double precision, and a power of two."""
_CARRIERS = 8
"""Hidden units that are added for one bias; the others are 0. GPUs multiply fastest if sizes are multiples of 8."""
_EPS = nn.LayerNorm(1).eps


class Signal(NamedTuple):
    """Signal of a batch of clips at the full rate, and its encoders."""

    encoders: Sequence[Any]
    """Motion encoders or audio encoders, one per level."""
    values: Tensor
    """(batch, stride * frames, ...)."""
    levels_of: Callable[[Tensor], list[Tensor]]
    """Function from values to the input of each encoder, (batch, stride * frames of the level, ...)."""
    stride: int
    """Values per frame."""
    linear: bool
    """True if ``levels_of`` is linear and the same for all clips, which it is not for padded clips."""


class Linear(NamedTuple):
    """Weights (encoders, in_features, out_features) and biases (encoders, 1, out_features)."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Apply the layers: (encoders, rows, in_features) -> (encoders, rows, out_features)."""
        return torch.baddbmm(self.bias, x, self.weight, out=out)


def _transposed(gradient: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of the input of a product, of the first encoders if ``gradient`` has fewer."""
    return torch.bmm(gradient, weight[: len(gradient)].transpose(1, 2))


class Run(NamedTuple):
    """Layers of consecutive encoders of a group that have the same input."""

    encoders: slice
    seen: int
    """Frames that a window sees."""
    layer: Linear


class _Block(NamedTuple):
    """Layers of a block; the weights of the second, (encoders, hidden, channels), include its bias."""

    expand: Linear
    contract: Tensor


class Group(NamedTuple):
    """Encoders with equal blocks."""

    members: list[int]
    """Numbers of the encoders, those of motion first."""
    stems: list[Run]
    frame_blocks: list[_Block]
    joins: list[Run]
    window_blocks: list[_Block]
    head: Linear

    def widest(self, windows: Sequence[int]) -> int:
        """Return the largest number of windows of an encoder of the group."""
        return max(windows[member] for member in self.members)


class _Plan(NamedTuple):
    """Groups of a list of encoders; and by the lengths of the signals, the windows of each encoder and matrices of levels."""

    groups: list[Group]
    matrices: dict[tuple[int, ...], tuple[list[int], list[Tensor]]]


_plans: WeakKeyDictionary[nn.Module, dict[tuple[int, ...], tuple[object, _Plan]]] = WeakKeyDictionary()


def embed_joined(signals: Sequence[Signal]) -> list[list[Tensor]] | None:
    """Embed all windows of one signal, or of motion and audio of the same levels.

    Second derivatives are not available.

    Returns:
        (batch, windows, embed) of each encoder of each signal; None unless the encoders are frozen and in float32 or float64,
        and the batch is small.
    """
    if torch.is_autocast_enabled(signals[0].values.device.type):
        return None
    if any(signal.values.shape[0] * signal.values.shape[1] > MOST_FRAMES * signal.stride for signal in signals):
        return None
    plan = _plan([encoder for signal in signals for encoder in signal.encoders])
    if plan is None:
        return None
    windows, rows = _rows(plan, signals)
    embedded: dict[int, Tensor] = {}
    for group in plan.groups:
        inputs = [rows[group.members[run.encoders.start]] for run in group.stems]
        results = _Encode.apply(group, [windows[member] for member in group.members], *inputs)
        embedded |= zip(group.members, results, strict=True)
    ordered = iter([embedded[member] for member in range(len(embedded))])
    return [[next(ordered) for _ in signal.encoders] for signal in signals]


def _plan(encoders: Sequence[Any]) -> _Plan | None:
    """Return the plan of the encoders, which is made again after their weights change; None if they are not frozen.

    A change in place through ``.data``, which autograd does not see, is not noticed.
    """
    if any(encoder.training for encoder in encoders):
        return None
    weights = [weight for encoder in encoders for weight in _weights_of(encoder)]
    if any(weight.requires_grad or weight.is_inference() for weight in weights):
        return None
    now = (weights[0].device, *[(weight.data_ptr(), weight._version) for weight in weights])
    plans = _plans.setdefault(encoders[0], {})
    key = tuple(id(encoder) for encoder in encoders)
    if key not in plans or plans[key][0] != now:
        if {weight.dtype for weight in weights} not in ({torch.float32}, {torch.float64}):
            return None
        plans[key] = now, _Plan(_groups(encoders), {})
    return plans[key][1]


def _weights_of(module: nn.Module) -> list[Tensor]:
    """Return parameters and buffers; ``module.parameters()`` takes several times as long, in every step."""
    found = [tensor for own in (module._parameters, module._buffers) for tensor in own.values() if tensor is not None]
    for child in module._modules.values():
        if child is not None:
            found += _weights_of(child)
    return found


@torch.inference_mode(False)  # tensors of inference mode could not be used in training later
@torch.no_grad()
def _groups(encoders: Sequence[Any]) -> list[Group]:
    members: dict[object, list[int]] = {}
    for number, encoder in enumerate(encoders):
        blocks = [*encoder.encoder.frame_blocks.parameters(), *encoder.encoder.window_blocks.parameters()]
        members.setdefault((encoder.encoder.head.weight.shape, *(w.shape for w in blocks)), []).append(number)
    return [_group(numbers, [encoders[number] for number in numbers]) for numbers in members.values()]


def _group(members: list[int], encoders: Sequence[Any]) -> Group:
    trunks = [encoder.encoder for encoder in encoders]
    sizes = [trunk.join.kernel_size[0] for trunk in trunks]
    stems = [(type(encoder), encoder.encoder.stem.weight.shape, size) for encoder, size in zip(encoders, sizes, strict=True)]
    return Group(
        members,
        [Run(run, sizes[run.start], _linear([_standardised(encoder) for encoder in encoders[run]])) for run in _runs(stems)],
        _blocks([trunk.frame_blocks for trunk in trunks]),
        [Run(run, sizes[run.start], _linear([_weights(trunk.join) for trunk in trunks[run]])) for run in _runs(sizes)],
        _blocks([trunk.window_blocks for trunk in trunks]),
        _linear([_after_norm(trunk.head, trunk.norm) for trunk in trunks]),
    )


def _runs(keys: Sequence[object]) -> list[slice]:
    """Return the ranges of equal neighbours."""
    starts = [i for i, key in enumerate(keys) if i == 0 or key != keys[i - 1]]
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], len(keys)], strict=True)]


def _weights(layer: Any) -> tuple[Tensor, Tensor]:
    return layer.weight.flatten(1), layer.bias


def _standardised(encoder: Any) -> tuple[Tensor, Tensor]:
    """Return the first layer of an encoder; that of audio includes the standardisation of the features."""
    weight, bias = _weights(encoder.encoder.stem)
    if not hasattr(encoder, "std"):
        return weight, bias
    repeats = weight.shape[1] // len(encoder.std)  # the audio frames of a motion frame
    exact = weight.double() / encoder.std.double().repeat(repeats)
    shift = exact @ encoder.mean.double().repeat(repeats)
    return exact.to(weight.dtype), (bias.double() - shift).to(bias.dtype)


def _after_norm(layer: nn.Linear, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """Return a layer that includes the scale and the shift of the LayerNorm before it."""
    return layer.weight * norm.weight, torch.addmv(layer.bias, layer.weight, norm.bias)


def _linear(layers: Sequence[tuple[Tensor, Tensor]]) -> Linear:
    weights, biases = zip(*layers, strict=True)
    return Linear(torch.stack(weights).transpose(1, 2).contiguous(), torch.stack(biases)[:, None])


def _blocks(encoders: Sequence[Any]) -> list[_Block]:
    """Return the two layers of each block; the bias of the second is the weight of a hidden unit of the first."""
    layers = []
    for blocks in zip(*encoders, strict=True):
        expand = _linear([_after_norm(block.expand, block.norm) for block in blocks])
        contract = _linear([_weights(block.contract) for block in blocks])
        carriers = F.pad(contract.bias / _CARRIER, (0, 0, 0, _CARRIERS - 1))
        constants = F.pad(torch.full_like(expand.bias[..., :1], _CARRIER), (0, _CARRIERS - 1))
        wide = Linear(F.pad(expand.weight, (0, _CARRIERS)), torch.cat([expand.bias, constants], dim=2))
        layers.append(_Block(wide, torch.cat([contract.weight, carriers], dim=1)))
    return layers


def _rows(plan: _Plan, signals: Sequence[Signal]) -> tuple[list[int], dict[int, Tensor]]:
    """Return the windows of each encoder, and the input of each run by the number of the run's first encoder.

    Inputs are (encoders, frames, batch, features), with zeros after the frames of an encoder.
    """
    dtype = plan.groups[0].head.weight.dtype
    values = [signal.values.flatten(2).to(dtype) for signal in signals]
    if all(signal.linear and signal.values.shape[1] <= LONGEST_MATRIX * signal.stride for signal in signals):
        windows, matrices = _matrices(plan, signals)
        joined = [_product(*pair) for pair in zip(matrices, values, strict=True)]
    else:
        windows, joined = _joined(plan, signals, values)
    inputs: dict[int, Tensor] = {}
    first = 0
    for signal, x in zip(signals, joined, strict=True):
        own = range(first, first + len(signal.encoders))
        first = own.stop
        # The frames become the first axis, and the values of a frame neighbours.
        frames = x.unflatten(1, (-1, signal.stride)).transpose(0, 1).flatten(2).contiguous()
        inputs |= _split(plan, windows, own, frames)
    return windows, inputs


def _split(plan: _Plan, windows: Sequence[int], own: range, frames: Tensor) -> dict[int, Tensor]:
    """Split the frames of a signal, whose encoders have the numbers ``own``, into the inputs of the runs."""
    shapes = {
        group.members[run.encoders.start]: (run.encoders.stop - run.encoders.start, group.widest(windows) + run.seen - 1)
        for group in plan.groups
        for run in group.stems
        if group.members[run.encoders.start] in own
    }
    sizes = [encoders * count for encoders, count in shapes.values()]
    parts = frames.split(sizes) if len(sizes) > 1 else [frames]
    return {key: part.unflatten(0, shape) for (key, shape), part in zip(shapes.items(), parts, strict=True)}


def _matrices(plan: _Plan, signals: Sequence[Signal]) -> tuple[list[int], list[Tensor]]:
    """Return the windows of each encoder, and a matrix of each signal from its values to the levels of all groups.

    The matrix of a linear function is what the function makes of the identity matrix.
    """
    lengths = tuple(signal.values.shape[1] for signal in signals)
    if lengths not in plan.matrices:
        if len(plan.matrices) >= _MOST_MATRICES:
            plan.matrices.clear()
        weight = plan.groups[0].head.weight
        with torch.inference_mode(False), torch.no_grad():
            units = [torch.eye(length, dtype=weight.dtype, device=weight.device)[None] for length in lengths]
            plan.matrices[lengths] = _joined(plan, signals, units)
    return plan.matrices[lengths]


def _joined(plan: _Plan, signals: Sequence[Signal], values: Sequence[Tensor]) -> tuple[list[int], list[Tensor]]:
    """Return the windows of each encoder, and the inputs of the encoders of each signal, (batch, values of all, features).

    The inputs are in the order of the groups, with zeros after each.
    """
    encoders = [encoder for signal in signals for encoder in signal.encoders]
    everything = [
        (signal.stride, encoder._with_context(level))
        for signal, x in zip(signals, values, strict=True)
        for encoder, level in zip(signal.encoders, signal.levels_of(x), strict=True)
    ]
    seen = [encoder.encoder.join.kernel_size[0] for encoder in encoders]
    windows = [level.shape[1] // stride - size + 1 for (stride, level), size in zip(everything, seen, strict=True)]
    parts: list[list[Tensor]] = [[] for _ in signals]
    owner = [number for number, signal in enumerate(signals) for _ in signal.encoders]
    for group in plan.groups:
        for member in group.members:
            stride, level = everything[member]
            missing = stride * (group.widest(windows) + seen[member] - 1) - level.shape[1]
            zeros = level.new_zeros(1, 1, 1).expand(len(level), missing, level.shape[2])
            parts[owner[member]] += [level, zeros] if missing else [level]
    return windows, [torch.cat(part, dim=1) for part in parts]


def _product(matrix: Tensor, x: Tensor) -> Tensor:
    """Multiply each clip (batch, values, features) by a matrix (1, rows, values)."""
    if x.transpose(0, 1).is_contiguous():  # one product for all clips
        return torch.mm(matrix[0], x.transpose(0, 1).flatten(1)).unflatten(1, (len(x), -1)).transpose(0, 1)
    return torch.bmm(matrix.expand(len(x), -1, -1), x)


class _Encode(torch.autograd.Function):
    """Encoders of a group: frames of each run -> (batch, windows, embed) of each encoder.

    The weights are frozen, so the gradient is that of the frames. It is computed for the first encoders only, up to the last
    one whose frames need it, which saves the half that belongs to the audio.
    """

    @staticmethod
    def forward(ctx: Any, group: Group, windows: list[int], *inputs: Tensor) -> tuple[Tensor, ...]:
        batch = inputs[0].shape[2]
        learning = [run.encoders.stop for run, needed in zip(group.stems, ctx.needs_input_grad[2:], strict=True) if needed]
        ctx.group, ctx.windows, ctx.batch, ctx.shapes = group, windows, batch, [x.shape for x in inputs]
        ctx.first = max(learning, default=0)
        ctx.set_materialize_grads(False)
        tape: list[Tensor] = []
        x = _blocks_forward(group.frame_blocks, _stem(group, inputs), tape)
        joined = _join(group, x, max(windows), batch)
        x = _blocks_forward(group.window_blocks, F.gelu(joined), tape)
        x, *statistics = torch.native_layer_norm(before := x, x.shape[2:], None, None, _EPS)
        ctx.save_for_backward(*(part[: ctx.first] for part in (*tape, joined, before, *statistics)))
        embedded = group.head(x).unflatten(1, (max(windows), batch))
        results = tuple(one[:count].transpose(0, 1) for one, count in zip(embedded, windows, strict=True))
        ctx.mark_non_differentiable(*results[ctx.first :])
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        with torch.autocast(device_type=ctx.saved_tensors[0].device.type, enabled=False):
            return None, None, *_Encode._gradients(ctx, gradients)

    @staticmethod
    def _gradients(ctx: Any, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        group, first, batch, widest = ctx.group, ctx.first, ctx.batch, max(ctx.windows)
        *tape, joined, before, mean, rstd = ctx.saved_tensors
        x = _stacked(gradients[:first], widest, batch, before, group.head.weight.shape[2])
        x = _norm_backward(_transposed(x, group.head.weight), before, mean, rstd)
        x = torch.ops.aten.gelu_backward(_blocks_backward(group.window_blocks, x, tape), joined)
        x = _join_backward(group, x, batch, max(shape[1] for shape in ctx.shapes))
        x = _blocks_backward(group.frame_blocks, x, tape)
        found: list[Tensor | None] = [None] * len(ctx.shapes)
        for number, (run, shape) in enumerate(zip(group.stems, ctx.shapes, strict=True)):
            if run.encoders.stop <= first:
                found[number] = _transposed(x[run.encoders, : shape[1] * batch], run.layer.weight).view(shape)
        return found


def _stem(group: Group, inputs: Sequence[Tensor]) -> Tensor:
    batch, frames = inputs[0].shape[2], max(x.shape[1] for x in inputs)
    if len(inputs) == 1:
        return group.stems[0].layer(inputs[0].flatten(1, 2))
    # Zeros, because the frames after a short input must be finite: the gradient multiplies them by zero.
    new = inputs[0].new_zeros if any(x.shape[1] < frames for x in inputs) else inputs[0].new_empty
    hidden = new(len(group.members), frames * batch, group.stems[0].layer.bias.shape[2])
    for run, x in zip(group.stems, inputs, strict=True):
        run.layer(x.flatten(1, 2), out=hidden[run.encoders, : x.shape[1] * batch])
    return hidden


def _join(group: Group, x: Tensor, windows: int, batch: int) -> Tensor:
    """Join the frames of each window: (encoders, frames * batch, channels) -> (encoders, windows * batch, channels)."""
    joined = x.new_empty(len(x), windows * batch, x.shape[2])
    for run in group.joins:
        frames = x[run.encoders, : (windows + run.seen - 1) * batch].unflatten(1, (-1, batch))
        run.layer(frames.unfold(1, run.seen, 1).flatten(3).flatten(1, 2), out=joined[run.encoders])
    return joined


def _join_backward(group: Group, gradient: Tensor, batch: int, frames: int) -> Tensor:
    """Return the gradient of the frames, (encoders, frames * batch, channels)."""
    parts = []
    for run in group.joins:
        part = gradient[run.encoders]
        if len(part):
            windows = _transposed(part, run.layer.weight).unflatten(2, (-1, run.seen)).unflatten(1, (-1, batch))
            size = (len(part), frames, batch, windows.shape[3])
            parts.append(torch.ops.aten.unfold_backward(windows, size, 1, run.seen, 1).flatten(1, 2))
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _blocks_forward(blocks: Sequence[_Block], x: Tensor, tape: list[Tensor]) -> Tensor:
    """Apply blocks, and append the values that the gradient needs to the tape."""
    for expand, contract in blocks:
        normed, mean, rstd = torch.native_layer_norm(x, x.shape[2:], None, None, _EPS)
        hidden = expand(normed)
        tape += [x, mean, rstd, hidden]
        x = torch.baddbmm(x, F.gelu(hidden), contract)
    return x


def _blocks_backward(blocks: Sequence[_Block], gradient: Tensor, tape: list[Tensor]) -> Tensor:
    """Return the gradient of the input of blocks, whose values are removed from the end of the tape."""
    for expand, contract in reversed(blocks):
        x, mean, rstd, hidden = tape[-4:]
        del tape[-4:]
        inner = torch.ops.aten.gelu_backward(_transposed(gradient, contract), hidden)
        gradient = gradient + _norm_backward(_transposed(inner, expand.weight), x, mean, rstd)
    return gradient


def _norm_backward(gradient: Tensor, x: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    found: Tensor = torch.ops.aten.native_layer_norm_backward(
        gradient, x, x.shape[2:], mean, rstd, None, None, [True, False, False]
    )[0]
    return found


def _stacked(gradients: Sequence[Tensor | None], windows: int, batch: int, like: Tensor, embed: int) -> Tensor:
    """Stack gradients (batch, windows, embed) with zeros after each: (encoders, windows * batch, embed)."""
    parts = []
    for gradient in gradients:
        given = 0 if gradient is None else gradient.shape[1]
        parts += [] if gradient is None else [gradient.transpose(0, 1)]
        parts += [like.new_zeros(1, 1, 1).expand(windows - given, batch, embed)] if given < windows else []
    return torch.cat(parts).view(len(gradients), windows * batch, embed)
