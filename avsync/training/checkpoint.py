"""Checkpoint files: whole or absent, with a checksum, and never unpickled.

A file is what ``torch.save`` writes, followed by one line of text with the SHA-256 of all that stands before it. One file, so that
content and checksum cannot come apart; ``torch.load(path, weights_only=True)`` still reads it.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import torch

from avsync._files import replacing
from avsync.errors import CheckpointError
from avsync.training.chance import RandomState

__all__ = [
    "DamagedCheckpointError",
    "RandomState",
    "Stateful",
    "check_checkpoint",
    "load_checkpoint",
    "save_checkpoint",
    "take_state",
    "write_checkpoint",
]

_LABEL = b"\navsync sha256 "
_FOOTER = len(_LABEL) + 64 + 1
_CHUNK = 1 << 20


class Stateful(Protocol):
    """Anything whose state can be taken and put back: modules, optimisers, :class:`avsync.training.chance.RandomState`."""

    def state_dict(self) -> dict[str, Any]:
        """The state, as tensors and plain types."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Put a state back."""
        ...


class DamagedCheckpointError(CheckpointError):
    """A checkpoint file is truncated or was changed; an older one may still be good."""


def take_state(state: Mapping[str, Stateful], **values: Any) -> dict[str, Any]:
    """The content of a checkpoint: the state of several objects, and plain values beside it.

    In a training of several processes this is a collective, because random states are gathered from all of them.

    Args:
        state: What to save, by name.
        **values: Plain values (numbers, strings, lists and dictionaries of them).
    """
    return {"state": {name: item.state_dict() for name, item in state.items()}, "values": values}


def write_checkpoint(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write what :func:`take_state` took, whole or not at all.

    Args:
        path: The file; an older one is replaced only once the new one is safely on disk.
        content: The content.

    Raises:
        CheckpointError: It cannot be written; whatever was there before is as it was.
    """
    hashing = _HashingFile()
    try:
        with replacing(path) as temporary, temporary.open("wb") as hashing.file:
            torch.save(dict(content), cast(BinaryIO, hashing))
            hashing.file.write(_LABEL + hashing.sha256.hexdigest().encode() + b"\n")
    except (OSError, RuntimeError) as error:
        # torch hides a failed write behind a RuntimeError about positions in the archive.
        reason = hashing.failure or error
        if not isinstance(reason, OSError):
            raise
        raise CheckpointError(f"`path`: {os.fspath(path)} cannot be written: {reason}") from error


def save_checkpoint(path: str | os.PathLike[str], state: Mapping[str, Stateful], **values: Any) -> None:
    """:func:`take_state`, then :func:`write_checkpoint`.

    Args:
        path: The file.
        state: What to save, by name.
        **values: Plain values to save beside it.

    Raises:
        CheckpointError: It cannot be written.
    """
    write_checkpoint(path, take_state(state, **values))


def check_checkpoint(path: str | os.PathLike[str]) -> None:
    """Raise unless the file is there and its checksum is right.

    Raises:
        CheckpointError: The file does not exist or cannot be read.
        DamagedCheckpointError: It is truncated or was changed.
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"`path`: expected a checkpoint, got {file}, which does not exist")
    try:
        length = file.stat().st_size - _FOOTER
        with file.open("rb") as opened:
            digest = _digest(opened, max(length, 0))
            footer = opened.read()
    except OSError as error:
        raise CheckpointError(f"`path`: {file} cannot be read: {error}") from error
    if length < 0 or not footer.startswith(_LABEL):
        raise DamagedCheckpointError(f"`path`: {file} is damaged: truncated, its checksum is missing from the end")
    if footer != _LABEL + digest.encode() + b"\n":
        raise DamagedCheckpointError(f"`path`: {file} is damaged: its content does not have the checksum it was written with")


def load_checkpoint(path: str | os.PathLike[str], state: Mapping[str, Stateful]) -> dict[str, Any]:
    """Read what :func:`save_checkpoint` wrote into the same objects.

    Args:
        path: The file.
        state: The objects, by the names they were saved under.

    Returns:
        The plain values that were saved beside the state.

    Raises:
        CheckpointError: The file is missing, or holds the state of other objects.
        DamagedCheckpointError: It is truncated or was changed. The objects are as they were.
    """
    check_checkpoint(path)
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except (
        Exception
    ) as error:  # torch raises a dozen kinds for what is no checkpoint; all mean the same here, and none is swallowed
        raise CheckpointError(f"`path`: {os.fspath(path)} holds what is never read from a checkpoint: {error}") from error
    saved = content.get("state") if isinstance(content, dict) else None
    if not isinstance(saved, dict) or not isinstance(content.get("values"), dict) or set(saved) != set(state):
        found = sorted(map(str, saved)) if isinstance(saved, dict) else type(content).__name__
        raise CheckpointError(f"`path`: expected the state of {sorted(state)} in {os.fspath(path)}, got {found}")
    try:
        for name, item in state.items():
            item.load_state_dict(saved[name])
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"`path`: {os.fspath(path)} does not fit the models: {error}") from error
    return dict(content["values"])


class _HashingFile:
    """A file for ``torch.save`` that hashes what goes through it, so that nothing is read back or held twice."""

    def __init__(self) -> None:
        self.file: BinaryIO = io.BytesIO()
        self.sha256 = hashlib.sha256()
        self.failure: OSError | None = None

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        self.file.flush()


def _digest(file: BinaryIO, length: int) -> str:
    """SHA-256 of the next ``length`` bytes."""
    sha256 = hashlib.sha256()
    while length > 0:
        chunk = file.read(min(_CHUNK, length))
        if not chunk:
            break
        sha256.update(chunk)
        length -= len(chunk)
    return sha256.hexdigest()
