"""Files that a command reads and writes, declared and checked together before any work."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from avsync._files import check_outputs
from avsync.errors import ArgumentError, AvsyncError

CLIP_SUFFIXES = (".npz", ".flac", ".wav")
FIGURE_SUFFIXES = (".png", ".svg", ".pdf")

Output = tuple[str, str | os.PathLike[str]]
"""The option that names an output, and the file."""


def declare(args: argparse.Namespace, outputs: Iterable[Output], *, inputs: Iterable[str | os.PathLike[str] | None]) -> None:
    """Check all outputs of a command against all of its inputs; nothing may have been written before.

    Args:
        args: Of a parser with :func:`add_overwrite_argument`.
        outputs: See :data:`Output`.
        inputs: Files, clips (CORPUS/ID), folders of clips, folders and names of models; None is skipped.

    Raises:
        ArgumentError: As :func:`avsync._files.check_outputs`.
    """
    files = [file for source in inputs if source is not None for file in _files_of(source)]
    check_outputs(outputs, inputs=files, overwrite=args.overwrite)


def check_figure(argument: str, path: str | os.PathLike[str]) -> None:
    """Raise unless a figure can be written under that name."""
    if Path(path).suffix.lower() not in FIGURE_SUFFIXES:
        raise ArgumentError(f"`{argument}`: expected a name that ends in {', '.join(FIGURE_SUFFIXES)}, got {os.fspath(path)!r}")


def _files_of(source: str | os.PathLike[str]) -> Iterator[Path]:
    """Return the files that an argument of a command stands for, whether they exist or not."""
    from avsync.corpus.clip import INDEX_NAME

    path = Path(source)
    yield path
    if not path.is_dir():
        if not path.is_file() or path.suffix == ".npz":  # a clip
            stem = path.name.removesuffix(".npz")
            yield from (path.parent / name for name in (INDEX_NAME, *(f"{stem}{suffix}" for suffix in CLIP_SUFFIXES)))
    elif (path / INDEX_NAME).exists() or not (path / "config.json").exists():
        yield from (file for file in path.glob("*") if file.name == INDEX_NAME or file.suffix.lower() in CLIP_SUFFIXES)
    else:
        yield from (file for file in path.rglob("*") if file.is_file())


def model_files(name: str | None) -> str | None:
    """Return the folder of a model; the name itself if there is none, which loading it reports."""
    from avsync.pretrained import model_folder

    if name is None:
        return None
    try:
        return str(model_folder(name))
    except AvsyncError:
        return name
