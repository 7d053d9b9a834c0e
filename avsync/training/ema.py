"""Exponential moving average of a model's weights, on :class:`torch.optim.swa_utils.AveragedModel`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from avsync._checks import checked
from avsync.errors import ConfigError


def ema_decay(updates: int, decay: float) -> float:
    """Compute the decay of one update: ``decay``, or less in the first updates, so that the average follows the weights.

    Args:
        updates: Number of updates, including this one.
        decay: Decay in the long run.

    Returns:
        min(decay, (1 + updates) / (10 + updates)).

    Example:
        >>> [round(ema_decay(updates, 0.999), 3) for updates in (1, 10, 100, 100_000)]
        [0.182, 0.55, 0.918, 0.999]

    Source: common in the training of image classifiers; its use here is ours.
    """
    return min(decay, (1 + updates) / (10 + updates))


@checked
def weight_average(module: nn.Module, *, decay: float) -> AveragedModel:
    """Create the moving average of a model's parameters; buffers are copied.

    Args:
        module: The model, whose parameters are trained in place.
        decay: Share of the average that an update keeps, from 0 up to below 1; see :func:`ema_decay`.

    Returns:
        The average; ``update_parameters(module)`` adds the weights of a step to the average.

    Raises:
        ConfigError: ``decay`` is out of its range.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> average = weight_average(model, decay=0.5)
        >>> for weight in (2.0, 4.0):
        ...     _ = model.weight.data.fill_(weight)
        ...     average.update_parameters(model)
        >>> with averaged(model, average):
        ...     print(model.weight.item() < 4.0)
        True
        >>> model.weight.item()
        4.0

    Source: ours.
    """
    if not 0 <= decay < 1:
        raise ConfigError(f"`decay`: expected a number from 0 to below 1, got {decay!r}")

    def update(averages: Any, weights: Any, updates: Any) -> None:
        # The average's own counter lies on the CPU: reading `updates`, a copy on the device, would stall a GPU at every step.
        get_ema_multi_avg_fn(ema_decay(int(average.n_averaged), decay))(averages, weights, updates)

    average = AveragedModel(module, multi_avg_fn=update)
    # At 0 the first update would replace the initial weights instead of averaging with them.
    average.n_averaged.fill_(1)
    return average


@contextmanager
@checked
def averaged(module: nn.Module, average: AveragedModel | None) -> Iterator[nn.Module]:
    """Put the average into the model within a block; afterwards the model holds its own weights again, bit for bit.

    Args:
        module: The model.
        average: Its average; None leaves the model as it is.
    """
    if average is None:
        yield module
        return
    held = {name: value.detach().clone() for name, value in module.state_dict().items()}
    copy_average(average, module)
    try:
        yield module
    finally:
        module.load_state_dict(held)


def copy_average(average: AveragedModel, module: nn.Module) -> None:
    """Copy the average into the model's tensors, in place, because optimisers and wrappers hold references to them."""
    module.load_state_dict(average.module.state_dict())
