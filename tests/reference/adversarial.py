"""Slow, obvious hinge losses, one logit at a time."""

from __future__ import annotations

import numpy as np


def discriminator(real: np.ndarray, fake: np.ndarray) -> float:
    """Equation (12)."""
    return float(np.mean([max(0.0, 1.0 + d) for d in fake.ravel()]) + np.mean([max(0.0, 1.0 - d) for d in real.ravel()]))


def generator(fake: np.ndarray) -> float:
    """Equations (9)-(11)."""
    return -float(np.mean(list(fake.ravel())))
