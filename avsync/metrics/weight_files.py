"""Weights of other people's networks, from files that the user has: tensors only, checked by name and shape."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from avsync.errors import CheckpointError


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors in a ``.safetensors`` file or one that ``torch.save`` wrote, by name.

    Args:
        path: The file. Of a PyTorch file only tensors in plain containers are read; one that asks for more is refused.

    Returns:
        Names and tensors, on the CPU; those below a key "state_dict", if that is where they are.

    Raises:
        CheckpointError: The file is missing or damaged, or holds something else than tensors.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"weight": torch.ones(2)}, Path(folder, "a.pth"))
        ...     read_state_dict(Path(folder, "a.pth"))["weight"].tolist()
        [1.0, 1.0]

    Source: ours.
    """
    source = Path(path)
    try:
        if source.suffix == ".safetensors":
            return load_file(source)
        found = torch.load(source, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"`path`: expected a file of weights, got none at {source}") from error
    except (OSError, EOFError, ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        if isinstance(error, pickle.UnpicklingError):  # torch's own words advise to read the file without care
            reason = "it is no file of torch.save, or holds more than tensors"
        raise CheckpointError(f"`path`: {source} cannot be read as weights: {reason}") from error
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise CheckpointError(f"`path`: expected tensors by name in {source}, got {type(found).__name__}")
    return {str(name): value for name, value in found.items()}


def load_strictly(
    network: nn.Module, weights: Mapping[str, Tensor], path: str | os.PathLike[str], *, ignore: tuple[str, ...] = ()
) -> None:
    """Put weights into a network, or say which names or shapes do not fit.

    Args:
        network: Where they go.
        weights: Tensors by name; each is converted to the network's dtype.
        path: Where they come from, for messages.
        ignore: Endings of names that need not be there, such as "num_batches_tracked", which old files lack.

    Raises:
        CheckpointError: Names are missing or unknown, or shapes differ.

    Example:
        >>> load_strictly(nn.Linear(1, 1, bias=False), {"weight": torch.ones(1, 1)}, "a.pth")

    Source: ours.
    """
    wanted = network.state_dict()
    missing = sorted(name for name in wanted if name not in weights and not name.endswith(ignore or ("\0",)))
    unknown = sorted(name for name in weights if name not in wanted)
    shapes = [
        f"{name} {tuple(wanted[name].shape)} but got {tuple(value.shape)}"
        for name, value in weights.items()
        if name in wanted and value.shape != wanted[name].shape
    ]
    if missing or unknown or shapes:
        parts = [
            f"{what} {', '.join(names[:3])}{' ...' if len(names) > 3 else ''} ({len(names)})"
            for what, names in (("missing", missing), ("unknown", unknown), ("expected", shapes))
            if names
        ]
        raise CheckpointError(
            f"`path`: the weights in {Path(path)} are not those of {type(network).__name__}: {'; '.join(parts)}"
        )
    network.load_state_dict(dict(weights), strict=False)
