"""Models on disk: a folder with ``config.json`` and ``model.safetensors``, read strictly and never unpickled."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from avsync._files import replacing, write_json
from avsync.config import config_from_dict, config_to_dict
from avsync.errors import ArgumentError, CheckpointError

FORMAT = 1
"""Version of the folder's layout; a reader refuses newer ones."""


Model = TypeVar("Model", bound=torch.nn.Module)


def save_pretrained(model: torch.nn.Module, folder: str | os.PathLike[str]) -> None:
    """Write a model's config and weights.

    Args:
        model: A module with ``config_class`` and ``config``, such as :class:`avsync.syncer.SyncerPyramid`.
        folder: Where to write; made if it is not there. Files already there are replaced, each whole or not at all.

    Raises:
        ArgumentError: ``model`` has no config.

    Example:
        >>> import tempfile
        >>> from avsync.encoders import SyncerConfig
        >>> from avsync.syncer import SyncerPyramid, SyncerPyramidConfig
        >>> pyramid = SyncerPyramid(config=SyncerPyramidConfig(syncer=SyncerConfig(width=8, embed=4), num_levels=2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_pretrained(pyramid, folder)
        ...     from_pretrained(SyncerPyramid, folder).num_levels
        2

    Source: ours.
    """
    target = Path(folder)
    if not dataclasses.is_dataclass(getattr(model, "config", None)):
        raise ArgumentError(f"`model`: expected a module with a dataclass `config`, got {type(model).__name__}")
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    with replacing(target / "model.safetensors") as temporary:
        save_file(weights, temporary)
    config = config_to_dict(model.config)
    write_json(target / "config.json", {"format": FORMAT, "class": type(model).__name__, "config": config})


def from_pretrained(model_class: type[Model], folder: str | os.PathLike[str]) -> Model:
    """Read a model that :func:`save_pretrained` wrote.

    Args:
        model_class: What the folder is to hold.
        folder: The folder.

    Returns:
        The model in eval mode, on the CPU.

    Raises:
        CheckpointError: A file is missing or damaged, holds another class, or its weights do not fit its config.

    Source: ours.
    """
    source = Path(folder)
    try:
        description = json.loads((source / "config.json").read_text(encoding="utf-8"))
        weights = load_file(source / "model.safetensors")
    except FileNotFoundError as error:
        raise CheckpointError(
            f"`folder`: expected config.json and model.safetensors in {source}, got none ({error})"
        ) from error
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"`folder`: {source} cannot be read: {error}") from error
    if isinstance(description, dict) and isinstance(description.get("format"), int) and description["format"] > FORMAT:
        raise CheckpointError(
            f"`folder`: {source} has format {description['format']}, made by a newer avsync; this one reads up to {FORMAT}"
        )
    expected = {"format": FORMAT, "class": model_class.__name__}
    found = {key: description.get(key) for key in expected} if isinstance(description, dict) else description
    if found != expected:
        raise CheckpointError(f"`folder`: expected {expected} in {source / 'config.json'}, got {found}")
    try:
        model = model_class(config=config_from_dict(model_class.config_class, description.get("config")))  # type: ignore[attr-defined]
        model.load_state_dict(weights)
    except (ArgumentError, RuntimeError) as error:
        raise CheckpointError(f"`folder`: the weights and the config in {source} do not fit together: {error}") from error
    return model.eval()
