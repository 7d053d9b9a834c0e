"""Whole numbers of few bits, packed without gaps."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def pack(whole: Tensor, bits: int) -> Tensor:
    """Whole numbers of ``bits`` bits, from ``-2**(bits-1) + 1`` to ``2**(bits-1) - 1``, as the bytes that they fill, (bytes,) uint8."""
    raised = (whole.flatten().to(torch.int16) + 2 ** (bits - 1)).to(torch.uint8)
    single = np.unpackbits(raised.numpy()[:, None], axis=1, count=bits, bitorder="little")
    return torch.from_numpy(np.packbits(single, bitorder="little"))


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """The ``count`` numbers that :func:`pack` packed, (count,) int8; ValueError if there are not so many bytes."""
    if packed.numel() != -(-bits * count // 8):
        raise ValueError(f"expected the bytes of {count} numbers of {bits} bits, got {packed.numel()} bytes")
    single = np.unpackbits(packed.numpy(), count=bits * count, bitorder="little").reshape(count, bits)
    raised = torch.from_numpy(np.packbits(single, axis=1, bitorder="little")[:, 0])
    return (raised.to(torch.int16) - 2 ** (bits - 1)).to(torch.int8)
