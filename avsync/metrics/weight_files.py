"""Weights of third-party networks from local files: tensors only, checked by name and shape."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from avsync._files import check_regular
from avsync.errors import CheckpointError


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the tensors of a ``.safetensors`` file or a file written by ``torch.save``.

    Args:
        path: The file. PyTorch files may hold only tensors in plain containers; others are refused.

    Returns:
        Tensors by name, on the CPU. If the file has a key "state_dict", the tensors below this key.

    Raises:
        CheckpointError: The file is missing or damaged, or holds anything but tensors.

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
        check_regular(source)
        if source.suffix == ".safetensors":
            return load_file(source)
        found = torch.load(source, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"`path`: expected a file of weights, got none at {source}") from error
    except Exception as error:  # a damaged file can cause almost any exception
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        if isinstance(error, pickle.UnpicklingError):  # torch's message suggests to load the file unsafely
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
    """Load weights into a network, and report names or shapes that do not fit.

    Args:
        network: Network that receives the weights.
        weights: Tensors by name; each is converted to the network's dtype.
        path: Source of the weights, for messages.
        ignore: Endings of names that may be missing, such as "num_batches_tracked" in old files.

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
