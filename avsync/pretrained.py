"""Models on disk: a folder with ``config.json`` and ``model.safetensors``, read strictly and never unpickled.

Some folders come with the package, below ``avsync/weights``, and are read by their names without a network; anything else is a
folder of yours or, with the extra ``hub``, a repository of the Hugging Face hub.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from avsync._checks import import_extra
from avsync._files import replacing, write_json
from avsync.config import config_from_dict, config_to_dict
from avsync.errors import ArgumentError, CheckpointError

FORMAT = 1
"""Version of the folder's layout; a reader refuses newer ones."""

WEIGHTS = Path(__file__).parent / "weights"
"""Where the models that come with the package lie."""
FILES = ("config.json", "model.safetensors")
"""The two files of a model."""

_SCALE = ":scale"
"""What the name of a row's scales ends with, beside the name of an 8-bit matrix."""
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


Model = TypeVar("Model", bound=torch.nn.Module)


def shipped_models(model_class: type[torch.nn.Module] | None = None) -> tuple[str, ...]:
    """Names of the models that come with the package, sorted.

    Args:
        model_class: Only models of this class; None for all.

    Example:
        >>> "landmarks68-25fps" in shipped_models()
        True

    Source: ours.
    """
    configs = sorted(WEIGHTS.glob(f"*/{FILES[0]}"))
    if model_class is not None:
        wanted = model_class.__name__
        configs = [path for path in configs if json.loads(path.read_text(encoding="utf-8"))["class"] == wanted]
    return tuple(path.parent.name for path in configs)


def model_folder(name: str | os.PathLike[str], *, revision: str | None = None) -> Path:
    """The folder behind a name.

    A folder that is there comes first, then the models of the package, then, for a name such as ``"someone/model"``, the Hugging
    Face hub, whose own cache keeps what was downloaded.

    Args:
        name: A folder, the name of a shipped model (:func:`shipped_models`), or a repository of the hub.
        revision: Branch, tag or commit of a repository of the hub; for nothing else.

    Returns:
        The folder.

    Raises:
        CheckpointError: There is no such folder, model or repository, or the hub cannot be reached.
        ArgumentError: A ``revision`` of something that is not on the hub.
        MissingExtraError: The name is one of the hub and huggingface_hub is not installed.

    Example:
        >>> model_folder("landmarks68-25fps").name
        'landmarks68-25fps'

    Source: ours.
    """
    text = os.fspath(name)
    local = Path(text) if Path(text).is_dir() else WEIGHTS / text if text in shipped_models() else None
    if local is not None:
        if revision is not None:
            raise ArgumentError(f"`revision`: expected None for {text!r}, which is no repository of the hub, got {revision!r}")
        return local
    if _HUB_NAME.fullmatch(text) is None:
        known = ", ".join(repr(model) for model in shipped_models())
        raise CheckpointError(
            f"`folder`: expected a folder, 'owner/model' of the Hugging Face hub, or one of {known}, got {text!r}"
        )
    hub = import_extra("huggingface_hub", "hub")
    try:
        return Path(hub.snapshot_download(text, revision=revision, allow_patterns=[*FILES, "calibration.json", "README.md"]))
    except (OSError, ValueError) as error:  # its own errors derive from these: no such repository, no network, a bad name
        raise CheckpointError(f"`folder`: {text!r} is no folder, and cannot be had from the hub: {error}") from error


def save_pretrained(model: torch.nn.Module, folder: str | os.PathLike[str], *, dtype: torch.dtype | None = None) -> None:
    """Write a model's config and weights.

    Args:
        model: A module with ``config_class`` and ``config``, such as :class:`avsync.syncer.SyncerPyramid`.
        folder: Where to write; made if it is not there. Files already there are replaced, each whole or not at all.
        dtype: Type that floating-point weights are stored in; None keeps theirs. ``torch.float16`` halves the file; ``torch.int8``
            halves it again, matrices as whole numbers and one scale a row, the rest in float16. They are read into the model's own
            type.

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
    weights: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        weights |= _stored(name, value.detach().cpu(), dtype)
    with replacing(target / "model.safetensors") as temporary:
        save_file(weights, temporary)
    config = config_to_dict(model.config)
    write_json(target / "config.json", {"format": FORMAT, "class": type(model).__name__, "config": config})


def _stored(name: str, value: Tensor, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """A tensor as it lies in the file; an 8-bit one is two."""
    if dtype is None or not value.is_floating_point():
        return {name: value.contiguous().clone()}
    if dtype != torch.int8 or value.ndim < 2:
        return {name: value.to(torch.float16 if dtype == torch.int8 else dtype).contiguous().clone()}
    rows = value.flatten(1).float()
    scale = (rows.abs().amax(dim=1) / 127).clamp_min(torch.finfo(torch.float16).tiny).half().float()
    whole = (rows / scale[:, None]).round().clamp(-127, 127)
    return {name: whole.to(torch.int8).reshape(value.shape), f"{name}{_SCALE}": scale.half()}


def _restored(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a model from those of its file."""
    restored = {}
    for name, value in weights.items():
        scale = weights.get(f"{name}{_SCALE}")
        if scale is not None:
            restored[name] = (value.flatten(1).float() * scale.float()[:, None]).reshape(value.shape)
        elif not name.endswith(_SCALE):
            restored[name] = value
    return restored


def from_pretrained(model_class: type[Model], folder: str | os.PathLike[str], *, revision: str | None = None) -> Model:
    """Read a model that :func:`save_pretrained` wrote, or one that comes with the package.

    Args:
        model_class: What the folder is to hold.
        folder: The folder, or a name; see :func:`model_folder`.
        revision: Branch, tag or commit of a repository of the hub.

    Returns:
        The model in eval mode, on the CPU.

    Raises:
        CheckpointError: A file is missing or damaged, holds another class, or its weights do not fit its config.
        MissingExtraError: The name is one of the hub and huggingface_hub is not installed.

    Example:
        >>> from avsync.syncer import SyncerPyramid
        >>> from_pretrained(SyncerPyramid, "landmarks68-25fps").num_levels
        4

    Source: ours.
    """
    source = model_folder(folder, revision=revision)
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
        model.load_state_dict(_restored(weights))
    except (ArgumentError, RuntimeError) as error:
        raise CheckpointError(f"`folder`: the weights and the config in {source} do not fit together: {error}") from error
    return model.eval()
