"""Hypothesis profiles and fixtures shared by all tests."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

# A shell starts background jobs with SIGINT ignored; the tests of Ctrl-C need Python's own handler.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("dev", deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", deadline=None, max_examples=15, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture
def rng() -> torch.Generator:
    """A seeded random generator, so that no test depends on global state."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(autouse=True)
def _seeded_initialisation() -> None:
    """Layer initialisation is torch's own and reads the global seed; pin it for every test."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _handlers_stay() -> Iterator[None]:
    """A script under test adds a handler to the logger of avsync; the next test must not write to it."""
    logger = logging.getLogger("avsync")
    handlers, level = [*logger.handlers], logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)
