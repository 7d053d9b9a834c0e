"""The exceptions that avsync raises.

::

    AvsyncError
    ├── ArgumentError (ValueError)        an argument has a value that cannot be used
    │   ├── ShapeError                    ... a tensor of the wrong rank, size or dtype
    │   │   └── ClipTooShortError         ... fewer frames than the operation needs
    │   └── ConfigError                   ... a configuration with unknown or impossible fields
    ├── CorpusError (RuntimeError)        a corpus on disk is damaged or inconsistent
    ├── CheckpointError (RuntimeError)    a checkpoint or weight file is damaged or does not fit
    ├── DivergedError (RuntimeError)      a training run met NaN or infinities
    └── MissingExtraError (ImportError)   an optional dependency is not installed

Every message names what was wrong, what was expected and what came. Those that also derive from a built-in exception can be
caught by people who have never heard of avsync.
"""

from __future__ import annotations


class AvsyncError(Exception):
    """Base class of everything that avsync raises on purpose."""


class ArgumentError(AvsyncError, ValueError):
    """An argument has a value that cannot be used."""


class ShapeError(ArgumentError):
    """A tensor has the wrong rank, size or dtype."""


class ClipTooShortError(ShapeError):
    """A clip has fewer frames than the operation needs; the message names the shortest possible length."""


class ConfigError(ArgumentError):
    """A configuration has unknown, missing or impossible fields."""


class CorpusError(AvsyncError, RuntimeError):
    """A corpus on disk is damaged or inconsistent."""


class CheckpointError(AvsyncError, RuntimeError):
    """A checkpoint or weight file is damaged, or does not fit the model it is loaded into."""


class DivergedError(AvsyncError, RuntimeError):
    """A training run was stopped because a loss, a gradient or a weight is not finite; the last good checkpoint is kept."""


class MissingExtraError(AvsyncError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""
