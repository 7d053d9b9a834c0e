"""Checkpoint files: whole or absent, with a checksum, and never unpickled.

A file is the output of ``torch.save`` followed by one line of text with the SHA-256 of all bytes before it. Content and
checksum share one file so that they cannot come apart; ``torch.load(path, weights_only=True)`` still reads it.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import torch
from torch import Tensor

from avsync._checks import checked
from avsync._files import replacing
from avsync.errors import CheckpointError, DivergedError
from avsync.training.random_state import RandomState

__all__ = [
    "DamagedCheckpointError",
    "RandomState",
    "Stateful",
    "check_checkpoint",
    "check_finite",
    "load_checkpoint",
    "save_checkpoint",
    "take_state",
    "write_checkpoint",
]

_LABEL = b"\navsync sha256 "
_FOOTER = len(_LABEL) + 64 + 1
_CHUNK = 1 << 20


class Stateful(Protocol):
    """Anything whose state can be saved and restored, such as modules, optimisers and random states."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state, as tensors and plain types."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Restore a state."""
        ...


class DamagedCheckpointError(CheckpointError):
    """A checkpoint file is truncated or was changed; an older one may still be good."""


def take_state(state: Mapping[str, Stateful], **values: Any) -> dict[str, Any]:
    """Return the content of a checkpoint: the state of several objects, and plain values.

    With several processes this is a collective, because random states are gathered from all of them.

    Args:
        state: The objects to save, by name.
        **values: Plain values (numbers, strings, lists and dictionaries of them).
    """
    return {"state": {name: item.state_dict() for name, item in state.items()}, "values": values}


def write_checkpoint(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write the content that :func:`take_state` returned, whole or not at all.

    Args:
        path: The file; an older one is replaced only when the new one is safely on disk.
        content: The content.

    Raises:
        CheckpointError: The file cannot be written; an older one is left as it was.
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


@checked
def save_checkpoint(path: str | os.PathLike[str], state: Mapping[str, Stateful], **values: Any) -> None:
    """Call :func:`take_state`, then :func:`write_checkpoint`.

    Args:
        path: The file.
        state: The objects to save, by name.
        **values: Plain values to save with them.

    Raises:
        CheckpointError: The file cannot be written.
    """
    write_checkpoint(path, take_state(state, **values))


def check_checkpoint(path: str | os.PathLike[str]) -> None:
    """Raise unless the file exists and its checksum is right.

    Raises:
        CheckpointError: The file does not exist or cannot be read.
        DamagedCheckpointError: The file is truncated or was changed.
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


@checked
def load_checkpoint(
    path: str | os.PathLike[str], state: Mapping[str, Stateful], *, accept: Callable[[Mapping[str, Any]], None] | None = None
) -> dict[str, Any]:
    """Restore the state of objects from the file that :func:`save_checkpoint` wrote.

    Args:
        path: The file.
        state: The objects, by the names they were saved under.
        accept: Function that is given the plain values before anything is restored, and raises if they do not fit.

    Returns:
        The plain values that were saved with the state.

    Raises:
        CheckpointError: The file is missing, or holds the state of other objects.
        DamagedCheckpointError: The file is truncated or was changed. The objects are left as they were.
    """
    check_checkpoint(path)
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises a dozen kinds for a file that is no checkpoint; all mean the same here
        raise CheckpointError(
            f"`path`: {os.fspath(path)} holds objects that are never read from a checkpoint: {error}"
        ) from error
    saved = content.get("state") if isinstance(content, dict) else None
    if not isinstance(saved, dict) or not isinstance(content.get("values"), dict) or set(saved) != set(state):
        found = sorted(map(str, saved)) if isinstance(saved, dict) else type(content).__name__
        raise CheckpointError(f"`path`: expected the state of {sorted(state)} in {os.fspath(path)}, got {found}")
    if accept is not None:
        accept(content["values"])
    try:
        for name, item in state.items():
            item.load_state_dict(saved[name])
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"`path`: {os.fspath(path)} does not fit the models: {error}") from error
    return dict(content["values"])


def check_finite(states: Mapping[str, Any]) -> None:
    """Raise if a floating-point tensor in some state holds NaN or infinities; one synchronisation for each device.

    Args:
        states: State dictionaries by name.

    Raises:
        DivergedError: A tensor is not finite; the message names the first.
    """
    tensors = [(name, x) for name, x in _tensors(states) if x.is_floating_point() and x.numel()]
    for device in {x.device for _, x in tensors}:
        here = [(name, x) for name, x in tensors if x.device == device]
        finite = torch.stack([x.isfinite().all() for _, x in here]).tolist()
        bad = [name for (name, _), good in zip(here, finite, strict=True) if not good]
        if bad:
            raise DivergedError(f"{len(bad)} of {len(here)} tensors hold NaN or infinities, the first is `{bad[0]}`")


def _tensors(values: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of nested dictionaries and lists with its name."""
    if isinstance(values, Tensor):
        yield name, values
    elif isinstance(values, Mapping):
        for key, value in values.items():
            yield from _tensors(value, f"{name}.{key}" if name else str(key))
    elif isinstance(values, (list, tuple)):
        for index, value in enumerate(values):
            yield from _tensors(value, f"{name}.{index}")


class _HashingFile:
    """File for ``torch.save`` that hashes the bytes on their way, so that nothing is read back or held twice."""

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
    """Return the SHA-256 of the next ``length`` bytes."""
    sha256 = hashlib.sha256()
    while length > 0:
        chunk = file.read(min(_CHUNK, length))
        if not chunk:
            break
        sha256.update(chunk)
        length -= len(chunk)
    return sha256.hexdigest()
