"""The generator as one would first write it: one ``Linear`` a branch and layer, concatenation, a Python loop, torch's LSTM cell.

Slow and obvious; `avsync.models.generator.model` must agree with it, and the benchmark measures against it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avsync.models.generator.model import MultiScaleGenerator


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A ``Linear`` with a copy of the given weight."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
    layer.weight.data.copy_(weight.detach())
    if bias is not None:
        layer.bias.data.copy_(bias.detach())
    return layer


class Block(nn.Module):
    def __init__(self, expand: nn.Linear, project: nn.Linear) -> None:
        super().__init__()
        self.expand, self.project = expand, project

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(F.gelu(self.expand(F.layer_norm(x, x.shape[-1:]))))


class Branch(nn.Module):
    def __init__(self, source: MultiScaleGenerator, index: int) -> None:
        super().__init__()
        entry = torch.cat([source.enter_weight[index], source.audio_entry.weight[index]], dim=1)
        self.enter = linear(entry, source.audio_entry.bias[index])
        self.blocks = nn.Sequential(
            *(
                Block(
                    linear(block.expand.weight[index], block.expand.bias[index]),
                    linear(block.project.weight[index], block.project.bias[index]),
                )
                for block in source.branch_blocks()
            )
        )
        coordinates = source.config.points * source.config.dims
        head_weight, head_bias = source.head.weight[index], source.head.bias[index]
        self.velocity = linear(head_weight[:coordinates], head_bias[:coordinates])
        self.mask = linear(head_weight[coordinates:], head_bias[coordinates:])

    def forward(self, hidden: Tensor, position: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        x = self.blocks(self.enter(torch.cat([hidden, position, audio], dim=1)))
        x = F.layer_norm(x, x.shape[-1:])
        return self.velocity(x), self.mask(x)


class SeparateGenerator(nn.Module):
    """A copy of a generator's weights in the obvious layout."""

    def __init__(self, source: MultiScaleGenerator) -> None:
        super().__init__()
        config = self.config = source.config
        self.audio_pyramid = source.audio_pyramid
        self.identity = linear(source.identity.weight, source.identity.bias)
        self.displacement = linear(source.displacement_weight, None)
        # Ours orders the gates input, forget, output, cell; torch's: input, forget, cell, output.
        order = torch.cat([torch.arange(config.hidden) + gate * config.hidden for gate in (0, 1, 3, 2)])
        self.cell = nn.LSTMCell(config.position_embed, config.hidden, dtype=source.lstm_weight.dtype)
        self.cell.weight_ih.data.copy_(source.lstm_weight.detach()[order, : config.position_embed])
        self.cell.weight_hh.data.copy_(source.lstm_weight.detach()[order, config.position_embed :])
        self.cell.bias_ih.data.copy_(source.lstm_bias.detach()[order])
        self.cell.bias_hh.data.zero_()
        self.branches = nn.ModuleList(Branch(source, index) for index in range(config.num_branches))

    def forward(
        self, observed: Tensor, audio: Tensor, hidden: Tensor | None = None, cell: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Landmarks and velocities (batch, frames, points, dims), masks (batch, frames, branches, points)."""
        config = self.config
        batch, seen = observed.shape[:2]
        maps = self.audio_pyramid(audio)
        first = observed[:, 0]
        centre = first.mean(dim=1, keepdim=True)
        height = (first[..., 1].amax(1) - first[..., 1].amin(1))[:, None, None]
        identity = self.identity(((first - centre) / height).flatten(1))
        zeros = observed.new_zeros(batch, config.hidden)
        hidden = zeros if hidden is None else hidden
        cell = zeros if cell is None else cell
        face = observed[:, 0]
        faces, velocities, masks = [], [], []
        for frame in range(1, maps.shape[2]):
            displacement = config.displacement_scale * (face - first) / height
            position = F.gelu(self.displacement(displacement.flatten(1)) + identity)
            hidden, cell = self.cell(position, (hidden, cell))
            if frame < seen:
                face = observed[:, frame]
                continue
            outputs = [branch(hidden, position, maps[index, :, frame]) for index, branch in enumerate(self.branches)]
            mask = torch.stack([logits for _, logits in outputs], dim=1).softmax(dim=1)
            velocity = torch.zeros_like(face)
            for index, (branch_velocity, _) in enumerate(outputs):
                velocity = velocity + mask[:, index, :, None] * branch_velocity.view_as(face)
            velocity = height * config.velocity_scale * velocity
            face = face + velocity
            faces.append(face)
            velocities.append(velocity)
            masks.append(mask)
        return torch.stack(faces, 1), torch.stack(velocities, 1), torch.stack(masks, 1)


def audio_map_lengths(frames: int, levels: int) -> list[int]:
    """Lengths of the maps, halved one by one and rounded up."""
    lengths = [frames]
    for _ in range(levels - 1):
        lengths.append((lengths[-1] + 1) // 2)
    return lengths


def upsample(coarse: Tensor, level: int, frames: int, *, hold: bool) -> Tensor:
    """One (length, channels) map at the finest rate, frame by frame."""
    result = []
    for t in range(frames):
        j, rest = divmod(t, 2**level)
        left = coarse[j]
        right = coarse[min(j + 1, len(coarse) - 1)]
        weight = 0.0 if hold else rest / 2**level
        result.append((1 - weight) * left + weight * right)
    return torch.stack(result)
