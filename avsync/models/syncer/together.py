"""Equal encoders of several levels as batched products.

A GPU spends the time of small batches on launching operations. The encoders of the levels of a pyramid have the same layers, so
that one batched product per layer replaces one product per layer and level. The levels are padded to the length of the longest
one, which doubles the arithmetic. The scale and the shift of each LayerNorm are part of the linear layer that follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DEVICES = ("cuda",)
"""Kinds of devices on which the products are batched. On a CPU, the padding costs more than the operations that it saves."""
MOST_FRAMES = 8192
"""Frames of the finest level, all clips together, up to which launching is what costs time."""


class Linear(NamedTuple):
    """Weights (levels, in_features, out_features) and biases (levels, 1, out_features)."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Apply the layers: (levels, rows, in_features) -> (levels, rows, out_features)."""
        return torch.baddbmm(self.bias, x, self.weight)


class Stack(NamedTuple):
    """Layers of all levels."""

    stem: Linear
    frame_blocks: list[tuple[Linear, Linear]]
    join: Linear
    window_blocks: list[tuple[Linear, Linear]]
    head: Linear


_stacks: WeakKeyDictionary[nn.Module, tuple[object, Stack]] = WeakKeyDictionary()


def encode_levels(encoders: Sequence[Any], frames: Sequence[Tensor]) -> list[Tensor]:
    """Apply the encoder of each level to the frames of this level.

    Args:
        encoders: Encoders of the syncer, one per level.
        frames: (batch, frames, features) of each level.

    Returns:
        (batch, frames - seen + 1, embed) of each level. Levels with equal layers are encoded together if they are frozen, in
        float32, and on a GPU.
    """
    if not _possible(encoders, frames):
        return [encoder(x) for encoder, x in zip(encoders, frames, strict=True)]
    groups: dict[object, list[int]] = {}
    for level, encoder in enumerate(encoders):
        groups.setdefault(tuple(weight.shape for weight in encoder.parameters()), []).append(level)
    embedded: dict[int, Tensor] = {}
    for levels in groups.values():
        chosen, inputs = [encoders[level] for level in levels], [frames[level] for level in levels]
        results = [chosen[0](inputs[0])] if len(levels) == 1 else _encode(_stack(chosen), inputs)
        embedded |= zip(levels, results, strict=True)
    return [embedded[level] for level in range(len(encoders))]


def _possible(encoders: Sequence[Any], frames: Sequence[Tensor]) -> bool:
    device = frames[0].device.type
    if device not in DEVICES or torch.compiler.is_compiling() or torch.is_autocast_enabled(device):
        return False
    if max(x.shape[0] * x.shape[1] for x in frames) > MOST_FRAMES or any(encoder.training for encoder in encoders):
        return False
    weights = [weight for encoder in encoders for weight in encoder.parameters()]
    return not any(w.requires_grad or w.is_inference() or w.dtype not in (torch.float32, torch.float64) for w in weights)


def _stack(encoders: Sequence[Any]) -> Stack:
    """Return the stacked layers, which are made again after the weights change.

    A change in place through ``.data``, which autograd does not see, is not noticed.
    """
    weights = [weight for encoder in encoders for weight in encoder.parameters()]
    now = tuple((weight.data_ptr(), weight._version, weight.device) for weight in weights)
    before, stack = _stacks.get(encoders[0], (None, None))
    if stack is None or before != now:
        with torch.no_grad():
            stack = Stack(
                _linear([encoder.stem for encoder in encoders]),
                _blocks([encoder.frame_blocks for encoder in encoders]),
                _linear([encoder.join for encoder in encoders]),
                _blocks([encoder.window_blocks for encoder in encoders]),
                _linear([encoder.head for encoder in encoders], [encoder.norm for encoder in encoders]),
            )
        _stacks[encoders[0]] = now, stack
    return stack


def _linear(layers: Sequence[Any], norms: Sequence[nn.LayerNorm] | None = None) -> Linear:
    weights, biases = [layer.weight.flatten(1) for layer in layers], [layer.bias for layer in layers]
    if norms is not None:
        biases = [torch.addmv(bias, weight, norm.bias) for bias, weight, norm in zip(biases, weights, norms, strict=True)]
        weights = [weight * norm.weight for weight, norm in zip(weights, norms, strict=True)]
    return Linear(torch.stack(weights).transpose(1, 2).contiguous(), torch.stack(biases)[:, None])


def _blocks(levels: Sequence[Any]) -> list[tuple[Linear, Linear]]:
    return [
        (_linear([block.expand for block in blocks], [block.norm for block in blocks]), _linear([b.contract for b in blocks]))
        for blocks in zip(*levels, strict=True)
    ]


def _encode(stack: Stack, frames: Sequence[Tensor]) -> list[Tensor]:
    frames = [x.to(stack.stem.weight.dtype) for x in frames]
    batch, longest, _ = frames[0].shape
    padding = frames[0].new_zeros(1, 1, 1)
    padded = [part for x in frames for part in (x, padding.expand(batch, longest - x.shape[1], x.shape[2])) if part.shape[1]]
    x = torch.cat(padded, dim=1).unflatten(1, (len(frames), longest)).transpose(0, 1).flatten(1, 2)
    x = _apply(stack.frame_blocks, stack.stem(x))
    channels = x.shape[2]
    seen = stack.join.weight.shape[1] // channels
    windows = x.unflatten(1, (batch, longest)).unfold(2, seen, 1).flatten(3).flatten(1, 2)
    x = _apply(stack.window_blocks, F.gelu(stack.join(windows)))
    embedded = stack.head(_norm(x)).unflatten(1, (batch, longest - seen + 1))
    return [level[:, : x.shape[1] - seen + 1] for level, x in zip(embedded.unbind(0), frames, strict=True)]


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])


def _apply(blocks: Sequence[tuple[Linear, Linear]], x: Tensor) -> Tensor:
    for expand, contract in blocks:
        x = x + contract(F.gelu(expand(_norm(x))))
    return x
