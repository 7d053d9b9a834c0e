"""Weights and a picture made by arithmetic, and what torch-fidelity 0.4.0's Inception-v3 makes of them (torch 2.13.0, on a CPU)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

PICTURE_SIZE = 96


def _scattered(count: int, number: int) -> Tensor:
    """Numbers in [-1, 1) without order, the same on every machine."""
    wave = torch.sin(torch.arange(count, dtype=torch.float64) * 12.9898 + 78.233 * number) * 4375.85453
    return 2 * (wave - wave.floor()) - 1


def made_weights(names: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values for every name of a state_dict, of about the size that trained weights have."""
    made = {}
    for number, (name, value) in enumerate(sorted(names.items())):
        if name.endswith("num_batches_tracked"):
            made[name] = torch.tensor(1)
            continue
        values = _scattered(value.numel(), number)
        if name.endswith(("running_var", "bn.weight")):
            values = 1 + 0.3 * values
        elif value.ndim > 1:
            values = values * (6.0 / value[0].numel()) ** 0.5
        else:
            values = 0.05 * values
        made[name] = values.reshape(value.shape).float()
    return made


def made_picture() -> Tensor:
    """(2, 3, 96, 96) uint8."""
    index = torch.arange(2 * 3 * PICTURE_SIZE**2, dtype=torch.float64)
    return (
        (127.5 + 127 * torch.sin(index * 0.0137) * torch.cos(index * 0.00031))
        .round()
        .to(torch.uint8)
        .reshape(2, 3, PICTURE_SIZE, -1)
    )


POOL3 = (
    (1.199591, 0.156685, 0.37961, 0.191149, 3.522396, 3.259829, 2.005349, 1.344588),
    (1.533446, 0.187913, 0.483446, 0.211654, 4.10719, 4.13714, 3.179008, 1.811502),
)
"""Every 256th of the 2048 features of both pictures."""
POOL3_NORMS = (143.692072, 186.914810)
LOGITS = (
    (1.965367, -4.060596, -3.387679, 2.83556, 0.369248, -2.925367, 3.75336, -0.580042),
    (2.51789, -5.310132, -3.910106, 3.653501, 0.390069, -3.52519, 5.119569, -0.144796),
)
"""Every 126th of the 1008 logits of both pictures."""
LOGITS_NORMS = (143.616581, 187.393739)
