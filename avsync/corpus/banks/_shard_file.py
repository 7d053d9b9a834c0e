"""Shard files: memory-mapped safetensors files that are written completely or not at all, with an index in the header."""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save
from torch import Tensor

from avsync._files import check_regular, parse_json, replacing, untrusted
from avsync.errors import CorpusError

Rows = npt.NDArray[Any]

_DTYPES: dict[str, type[np.generic]] = {"F32": np.float32, "U8": np.uint8}
_LARGEST_HEADER = 100_000_000  # the format's own limit
_ROWS = {"landmarks": 3, "audio": 2, "speech": 1}  # tensors of a shard, and their number of axes


class ShardHeader(NamedTuple):
    """Header of a shard, which can be read without reading the tensors."""

    path: Path
    layout: dict[str, tuple[str, tuple[int, ...], int]]
    """Type, shape and first byte of each tensor."""
    metadata: dict[str, Any]
    """fingerprint, ids, speakers, frames, bad, and the sums for statistics."""

    @property
    def frames(self) -> int:
        """Number of landmark frames."""
        return self.layout["landmarks"][1][0]


def write_shard(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write a shard, completely or not at all."""
    with replacing(path) as temporary:
        # save_file of safetensors has a temporary file of its own, which a killed process would leave in the folder.
        temporary.write_bytes(save(tensors, metadata={"avsync": json.dumps(metadata)}))


def read_header(path: str | os.PathLike[str]) -> ShardHeader:
    """Read and check the header of a shard, and compare the length of the file with the header.

    Raises:
        CorpusError: The file is missing, truncated or not a shard.
    """
    source = Path(path)
    with untrusted(CorpusError, f"{source}: expected a whole shard, got"):
        size = check_regular(source)
        with source.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(_LARGEST_HEADER, size):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header = parse_json(file.read(length))
        metadata = parse_json(header["__metadata__"]["avsync"])
        layout: dict[str, tuple[str, tuple[int, ...], int]] = {}
        end = 0
        for name, axes in _ROWS.items():
            entry = header[name]
            shape, (first, last) = tuple(map(int, entry["shape"])), map(int, entry["data_offsets"])
            wanted = math.prod(shape) * np.dtype(_DTYPES[entry["dtype"]]).itemsize
            if len(shape) != axes or min(shape) < 0 or first < 0 or last - first != wanted:
                raise ValueError(f"{name} of shape {shape} in {last - first} bytes")
            layout[name] = (entry["dtype"], shape, 8 + length + first)
            end = max(end, 8 + length + last)
        if end != size:
            raise ValueError(f"{size} bytes where {end} were expected")
        _check_metadata(metadata, layout)
    return ShardHeader(source, layout, metadata)


def _check_metadata(metadata: Any, layout: dict[str, tuple[str, tuple[int, ...], int]]) -> None:
    """Raise ValueError, KeyError or TypeError unless the metadata fit the tensors."""
    frames, coeffs = layout["landmarks"][1][0], layout["audio"][1][1]
    lengths = metadata["frames"]
    if layout["audio"][1][0] != 4 * frames or layout["speech"][1][0] != frames or sum(lengths) != frames:
        raise ValueError("landmarks, audio and index of different lengths")
    texts = [*metadata["ids"], *metadata["speakers"], metadata["fingerprint"]]
    if not all(isinstance(text, str) for text in texts) or not all(type(length) is int and length > 0 for length in lengths):
        raise ValueError("an index of other types")
    if not len(lengths) == len(metadata["ids"]) == len(metadata["speakers"]):
        raise ValueError("ids, speakers and frames of different numbers")
    if any(len(pair) != 2 or not all(isinstance(text, str) for text in pair) for pair in metadata["bad"]):
        raise ValueError("bad clips of another form")
    sums = np.array([metadata["audio"]["sum"], metadata["audio"]["squares"]])
    if sums.shape != (2, coeffs) or sums.dtype.kind not in "if" or not np.isfinite(sums).all():
        raise ValueError("statistics of another form")


def map_shard(header: ShardHeader) -> dict[str, Rows]:
    """Return the arrays of a shard as read-only views of the file, which is read only on access."""
    with header.path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return {
        name: np.frombuffer(mapped, dtype=_DTYPES[dtype], count=int(np.prod(shape)), offset=first).reshape(shape)
        for name, (dtype, shape, first) in header.layout.items()
    }


def checksum(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def column_sums(audio: Tensor) -> dict[str, list[float]]:
    """Compute the sum and the sum of squares of each coefficient in float64; both can be added over shards."""
    values = audio.to(torch.float64)
    return {"sum": values.sum(0).tolist(), "squares": values.square().sum(0).tolist()}
