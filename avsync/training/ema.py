"""Exponential moving averages of a model's weights, which judge and save better than the last step's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from avsync.errors import ConfigError


def ema_decay(updates: int, decay: float) -> float:
    """The decay of one update: at most ``decay``, and less at first, where an average of few steps must follow them.

    Args:
        updates: Updates made, this one included, from 1.
        decay: Decay in the long run.

    Returns:
        min(decay, (1 + updates) / (10 + updates)).

    Example:
        >>> [round(ema_decay(updates, 0.999), 3) for updates in (1, 10, 100, 100_000)]
        [0.182, 0.55, 0.918, 0.999]

    Source: the custom of image classifiers' trainings; that it is used here is ours.
    """
    return min(decay, (1 + updates) / (10 + updates))


class WeightAverage:
    """The moving average of a model's parameters, kept beside it; buffers are copied as they are.

    Args:
        module: The model, whose parameters somebody else trains in place.
        decay: Share of the average that an update keeps, from 0 up to below 1; see :func:`ema_decay`.

    Raises:
        ConfigError: ``decay`` is out of its range.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> average = WeightAverage(model, decay=0.5)
        >>> for weight in (2.0, 4.0):
        ...     _ = model.weight.data.fill_(weight)
        ...     average.update()
        >>> with average.applied():
        ...     print(model.weight.item() < 4.0)
        True
        >>> model.weight.item()
        4.0

    Source: ours.
    """

    def __init__(self, module: nn.Module, *, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(f"`decay`: expected a number from 0 to below 1, got {decay!r}")
        self.module, self.decay, self.updates = module, decay, 0
        self.average = {name: value.detach().clone() for name, value in module.state_dict().items()}
        self._averaged = {name for name, _ in module.named_parameters()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the model's weights of this step into the average."""
        self.updates += 1
        decay = ema_decay(self.updates, self.decay)
        for name, value in self.module.state_dict().items():
            if name in self._averaged:
                self.average[name].lerp_(value.to(self.average[name]), 1 - decay)
            else:
                self.average[name].copy_(value)

    @torch.no_grad()
    def copy_to_module(self) -> None:
        """Put the average into the model, for good."""
        _fill(self.module, self.average)

    @contextmanager
    def applied(self) -> Iterator[nn.Module]:
        """The model with the average in it; what it held comes back, bit for bit, when the block ends."""
        held = {name: value.detach().clone() for name, value in self.module.state_dict().items()}
        self.copy_to_module()
        try:
            yield self.module
        finally:
            _fill(self.module, held)

    def state_dict(self) -> dict[str, Any]:
        """The average and the number of updates, for a checkpoint."""
        return {"average": self.average, "updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` gave.

        Raises:
            KeyError: It is the average of another model.
        """
        saved = state_dict["average"]
        if set(saved) != set(self.average):
            raise KeyError(f"expected the averages of {sorted(self.average)}, got {sorted(saved)}")
        for name, value in self.average.items():
            value.copy_(saved[name])
        self.updates = int(state_dict["updates"])


@torch.no_grad()
def _fill(module: nn.Module, values: dict[str, Tensor]) -> None:
    """Copy values into a model's tensors in place: optimisers and wrappers hold on to those very tensors."""
    for name, tensor in module.state_dict().items():
        tensor.copy_(values[name])
