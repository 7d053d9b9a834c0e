"""Exceptions of avsync.

::

    AvsyncError
    ├── ArgumentError (ValueError)        an argument has a value that cannot be used
    │   ├── ShapeError                    ... a tensor of the wrong rank, size or dtype
    │   │   └── ClipTooShortError         ... fewer frames than the operation needs
    │   └── ConfigError                   ... a configuration with unknown or impossible fields
    ├── CorpusError (RuntimeError)        a corpus on disk is damaged or inconsistent
    ├── CheckpointError (RuntimeError)    a checkpoint or weight file is damaged or does not fit
    ├── DivergedError (RuntimeError)      a training run met NaN or infinities
    └── ExtraError (ImportError)          an optional dependency cannot be used
        ├── MissingExtraError             ... it is not installed
        └── BrokenExtraError              ... it is installed, but its import fails

Every message names the argument, the expected value and the actual value. Exceptions that also derive from a built-in exception
can be caught as the built-in exception.
"""

from __future__ import annotations


class AvsyncError(Exception):
    """Base class of all exceptions that avsync raises."""


class ArgumentError(AvsyncError, ValueError):
    """Error for an argument with a value that cannot be used."""


class ShapeError(ArgumentError):
    """Error for a tensor with the wrong rank, size or dtype."""


class ClipTooShortError(ShapeError):
    """Error for a clip with fewer frames than the operation needs; the message names the shortest possible length."""


class ConfigError(ArgumentError):
    """Error for a configuration with unknown, missing or impossible fields."""


class CorpusError(AvsyncError, RuntimeError):
    """Error for a damaged or inconsistent corpus on disk."""


class CheckpointError(AvsyncError, RuntimeError):
    """Error for a checkpoint or weight file that is damaged or does not match the model."""


class DivergedError(AvsyncError, RuntimeError):
    """Error for a training run with a non-finite loss, gradient or weight; the last good checkpoint is kept."""


class ExtraError(AvsyncError, ImportError):
    """Error for an optional dependency that cannot be used; base class of the two cases."""


class MissingExtraError(ExtraError):
    """Error for an optional dependency that is not installed; the message contains the command that installs it."""


class BrokenExtraError(ExtraError):
    """Error for an optional dependency that is installed but cannot be imported; the message contains cause and remedy."""
