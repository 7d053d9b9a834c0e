"""One shard: a safetensors file that is written whole, says what it holds, and is read through the memory map."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import Tensor

from avsync._files import replacing
from avsync.errors import CorpusError

Array = npt.NDArray[Any]

_DTYPES: dict[str, type[np.generic]] = {"F32": np.float32, "U8": np.uint8}
_LARGEST_HEADER = 100_000_000  # the format's own limit
_ROWS = {"landmarks": 3, "audio": 2, "speech": 1}  # tensors of a shard, and their number of axes


class ShardHeader(NamedTuple):
    """What the beginning of a shard says; read without touching the rest."""

    path: Path
    layout: dict[str, tuple[str, tuple[int, ...], int]]
    """Type, shape and first byte of each tensor."""
    metadata: dict[str, Any]
    """fingerprint, ids, speakers, frames, bad, and the sums for statistics."""

    @property
    def frames(self) -> int:
        """Landmark frames."""
        return self.layout["landmarks"][1][0]


def write_shard(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write a shard, whole or not at all."""
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"avsync": json.dumps(metadata)})


def read_header(path: str | os.PathLike[str]) -> ShardHeader:
    """Read and check a shard's header, and that the file is as long as the header says.

    Raises:
        CorpusError: The file is missing, truncated or no shard.
    """
    source = Path(path)
    try:
        size = source.stat().st_size
        with source.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(_LARGEST_HEADER, size):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header = json.loads(file.read(length))
        metadata = json.loads(header["__metadata__"]["avsync"])
        layout: dict[str, tuple[str, tuple[int, ...], int]] = {}
        end = 0
        for name, axes in _ROWS.items():
            entry = header[name]
            shape, (first, last) = tuple(map(int, entry["shape"])), entry["data_offsets"]
            wanted = int(np.prod(shape)) * np.dtype(_DTYPES[entry["dtype"]]).itemsize
            if len(shape) != axes or min(shape) < 0 or last - first != wanted:
                raise ValueError(f"{name} of shape {shape} in {last - first} bytes")
            layout[name] = (entry["dtype"], shape, 8 + length + first)
            end = max(end, 8 + length + last)
        if end != size:
            raise ValueError(f"{size} bytes where {end} were expected")
        frames = layout["landmarks"][1][0]
        if layout["audio"][1][0] != 4 * frames or layout["speech"][1][0] != frames or sum(metadata["frames"]) != frames:
            raise ValueError("landmarks, audio and index of different lengths")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise CorpusError(f"{source}: expected a whole shard, got {type(error).__name__}: {error}") from error
    return ShardHeader(source, layout, metadata)


def map_shard(header: ShardHeader) -> dict[str, Array]:
    """The shard's arrays as read-only views of the file: nothing is read before it is asked for."""
    with header.path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return {
        name: np.frombuffer(mapped, dtype=_DTYPES[dtype], count=int(np.prod(shape)), offset=first).reshape(shape)
        for name, (dtype, shape, first) in header.layout.items()
    }


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def column_sums(audio: Tensor) -> dict[str, list[float]]:
    """What shards add up to the statistics of all: sum and sum of squares of each coefficient, in float64."""
    values = audio.to(torch.float64)
    return {"sum": values.sum(0).tolist(), "squares": values.square().sum(0).tolist()}
