"""Adversarial losses of the paper (equations 9-12): the hinge loss of geometric GANs, on logits.

The losses contain no network. They accept the logits of any discriminator, in any shape.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avsync._checks import REDUCTIONS, check_choice, check_floating, check_same_device, checked, describe_shape, reduce
from avsync.errors import ShapeError


@checked
def hinge_discriminator_loss(real_logits: Tensor, fake_logits: Tensor, *, reduction: str = "mean") -> Tensor:
    """Compute equation (12): E max(0, 1 + D(generated)) + E max(0, 1 - D(real)).

    Args:
        real_logits: (...), the scores of real samples; half precision is converted to float32.
        fake_logits: (...), the scores of generated samples, which the caller detaches from the generator. The shape may differ
            from that of ``real_logits`` unless ``reduction`` is "none".
        reduction: Applied to the two parts separately: "mean", "sum" or "none".

    Returns:
        A scalar, or (...) for "none".

    Raises:
        ShapeError: The logits are not floating point or empty, or the shapes differ with "none".
        ArgumentError: The reduction is unknown.

    Example:
        >>> hinge_discriminator_loss(torch.tensor([2.0, 0.0]), torch.tensor([-1.0, 1.0]))
        tensor(1.5000)

    Source: paper section 3.3, after geometric GAN (Lim and Ye 2017).
    """
    real, fake = _check_logits("real_logits", real_logits), _check_logits("fake_logits", fake_logits)
    check_same_device("fake_logits", fake, real.device, "`real_logits`")
    if reduction == "none" and real.shape != fake.shape:
        raise ShapeError(f"`fake_logits`: expected {tuple(real.shape)} as `real_logits`, got {describe_shape(fake)}")
    return reduce(F.relu(1.0 + fake), reduction) + reduce(F.relu(1.0 - real), reduction)


def hinge_generator_loss(fake_logits: Tensor, *, reduction: str = "mean") -> Tensor:
    """Compute equations (9)-(11): -E D(generated), for frames, sequences and pairs of sequences.

    Args:
        fake_logits: (...), the scores of generated samples.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or (...) for "none".

    Raises:
        ShapeError: The logits are not floating point, or empty.
        ArgumentError: The reduction is unknown.

    Example:
        >>> hinge_generator_loss(torch.tensor([2.0, -1.0]))
        tensor(-0.5000)

    Source: paper section 3.3.
    """
    return reduce(-_check_logits("fake_logits", fake_logits), reduction)


class HingeDiscriminatorLoss(nn.Module):
    """Hinge loss of a discriminator; see :func:`hinge_discriminator_loss`.

    Args:
        reduction: "mean", "sum" or "none".

    Raises:
        ArgumentError: The reduction is unknown.

    Example:
        >>> HingeDiscriminatorLoss()(torch.tensor([2.0, 0.0]), torch.tensor([-1.0, 1.0]))
        tensor(1.5000)

    Source: paper section 3.3.
    """

    def __init__(self, *, reduction: str = "mean") -> None:
        super().__init__()
        check_choice("reduction", reduction, REDUCTIONS)
        self.reduction = reduction

    def forward(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Compute equation (12) from the logits of real and generated samples."""
        return hinge_discriminator_loss(real_logits, fake_logits, reduction=self.reduction)


class HingeGeneratorLoss(nn.Module):
    """Hinge loss of a generator; see :func:`hinge_generator_loss`.

    Args:
        reduction: "mean", "sum" or "none".

    Raises:
        ArgumentError: The reduction is unknown.

    Example:
        >>> HingeGeneratorLoss()(torch.tensor([2.0, -1.0]))
        tensor(-0.5000)

    Source: paper section 3.3.
    """

    def __init__(self, *, reduction: str = "mean") -> None:
        super().__init__()
        check_choice("reduction", reduction, REDUCTIONS)
        self.reduction = reduction

    def forward(self, fake_logits: Tensor) -> Tensor:
        """Compute equations (9)-(11) from the logits of generated samples."""
        return hinge_generator_loss(fake_logits, reduction=self.reduction)


def _check_logits(name: str, logits: Tensor) -> Tensor:
    """Return the logits in at least float32, because half precision would round a mean over many windows."""
    check_floating(name, logits)
    if logits.numel() == 0:
        raise ShapeError(f"`{name}`: expected a tensor with at least one logit, got {describe_shape(logits)}")
    return logits if logits.dtype == torch.float64 else logits.float()
