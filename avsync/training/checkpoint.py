"""Checkpoints that are whole or absent, and never unpickled."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from avsync._files import replacing
from avsync.errors import CheckpointError


class Stateful(Protocol):
    """Anything whose state can be taken and put back: modules, optimisers, :class:`RandomState`."""

    def state_dict(self) -> dict[str, Any]:
        """The state, as tensors and plain types."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Put a state back."""
        ...


class RandomState:
    """Lets a :class:`torch.Generator` be checkpointed like a module.

    Args:
        generator: The generator.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def state_dict(self) -> dict[str, Any]:
        """The generator's state and those of torch's global generators, which dropout draws from."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {"generator": self.generator.get_state(), "torch": torch.get_rng_state(), "cuda": cuda}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put the states back; those of GPUs only where there are as many as there were."""
        self.generator.set_state(state_dict["generator"])
        torch.set_rng_state(state_dict["torch"])
        cuda = state_dict.get("cuda", [])
        if cuda and torch.cuda.device_count() == len(cuda):
            torch.cuda.set_rng_state_all(cuda)


def save_checkpoint(path: str | os.PathLike[str], state: Mapping[str, Stateful], **values: Any) -> None:
    """Write the state of several objects, whole or not at all.

    Args:
        path: The file; an older one is replaced only once the new one is safely on disk.
        state: What to save, by name.
        **values: Plain values (numbers, strings, lists and dictionaries of them) to save beside it.
    """
    content = {"state": {name: item.state_dict() for name, item in state.items()}, "values": values}
    with replacing(path) as temporary:
        torch.save(content, temporary)


def load_checkpoint(path: str | os.PathLike[str], state: Mapping[str, Stateful]) -> dict[str, Any]:
    """Read what :func:`save_checkpoint` wrote into the same objects.

    Args:
        path: The file.
        state: The objects, by the names they were saved under.

    Returns:
        The plain values that were saved beside the state.

    Raises:
        CheckpointError: The file is missing or damaged, or holds the state of other objects.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"`path`: expected a checkpoint, got {os.fspath(path)}, which does not exist")
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises a dozen kinds for damaged files; all mean the same here, and none is swallowed
        raise CheckpointError(f"`path`: {os.fspath(path)} is damaged and cannot be read: {error}") from error
    saved = content.get("state") if isinstance(content, dict) else None
    if not isinstance(saved, dict) or not isinstance(content.get("values"), dict) or set(saved) != set(state):
        found = sorted(map(str, saved)) if isinstance(saved, dict) else type(content).__name__
        raise CheckpointError(f"`path`: expected the state of {sorted(state)} in {os.fspath(path)}, got {found}")
    try:
        for name, item in state.items():
            item.load_state_dict(saved[name])
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"`path`: {os.fspath(path)} does not fit the models: {error}") from error
    return dict(content["values"])
