"""Files: atomic writing, and safe reading of files of unknown origin."""

from __future__ import annotations

import json
import os
import platform
import re
import stat
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from avsync.errors import ArgumentError, AvsyncError

_claims: ContextVar[dict[object, str] | None] = ContextVar("claims", default=None)
_HOST = f"{zlib.crc32(platform.node().encode()):08x}"
_TEMPORARY = re.compile(rf"\..+-{_HOST}-(\d+)-\w+(\.\w+)?")


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path next to ``path``; when the block ends without an exception, it replaces ``path``.

    The content is flushed to disk before the rename, so a crash leaves either the complete old file or the complete new one.
    A file that :func:`check_outputs` found to be new is created instead (see :func:`claims`). The temporary name contains the
    host and the process, so that :func:`sweep_temporaries` can check whether the writer still runs.
    """
    target = Path(path)
    make_folder(target.parent)
    prefix = f".{target.stem[:80]}-{_HOST}-{os.getpid()}-"
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=prefix, suffix=target.suffix)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        # mkstemp makes files private; a finished file gets the default permissions of new files.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        claimed = _claims.get()
        argument = claimed.pop(_place(target), None) if claimed else None
        if argument is None:
            temporary.replace(target)
        else:
            _create(temporary, target, argument)
    finally:
        temporary.unlink(missing_ok=True)


def _create(temporary: Path, target: Path, argument: str) -> None:
    """Give a finished file its name, unless the name was taken after :func:`check_outputs`."""
    try:
        try:
            os.link(temporary, target)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links: an empty file holds the place of the finished one
            os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            temporary.replace(target)
    except FileExistsError as error:
        option = "--overwrite" if argument.startswith("--") or argument.isupper() else "overwrite=True"
        raise ArgumentError(
            f"`{argument}`: expected a new file, got {target}, created by somebody else in the meantime; {option} replaces it"
        ) from error


@contextmanager
def claims() -> Iterator[None]:
    """Create the files that :func:`check_outputs` finds to be new within the block, instead of replacing newer ones.

    Between the check and the end of the work, which may take hours, somebody else may create a file of the same name. This
    file stays, and :func:`replacing` raises :class:`ArgumentError`. A file that the block has written may be written again.
    """
    token = _claims.set({})
    try:
        yield
    finally:
        _claims.reset(token)


def make_folder(folder: str | os.PathLike[str]) -> None:
    """Create a folder and its parents; it may exist.

    Raises:
        ArgumentError: The folder or a parent is a file.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ArgumentError(f"`folder`: expected a folder, got {os.fspath(folder)}, which is, or lies in, a file") from error


def sweep_temporaries(folder: str | os.PathLike[str]) -> None:
    """Remove the temporary files that killed processes of this host left in a folder; the files of running processes stay."""
    if os.name != "posix":  # on other systems os.kill with signal 0 sends a signal instead of checking the process
        return
    for file in Path(folder).iterdir():
        match = _TEMPORARY.fullmatch(file.name)
        if match is not None and not _runs(int(match[1])):
            file.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it runs as another user
        return True
    return True


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON, completely or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


@contextmanager
def untrusted(error: type[AvsyncError], message: str) -> Iterator[None]:
    """Convert any exception in the block to ``error``; all files of unknown origin are read inside such a block.

    A damaged or hostile file can cause almost any exception: RecursionError for deep JSON, MemoryError and OverflowError for
    sizes in a header, TypeError and AttributeError for values of other types, tokenize errors from NumPy. Keep the block small:
    read, check and convert one file. Exceptions of the type ``error`` pass unchanged.

    Args:
        error: The exception to raise, CheckpointError or CorpusError.
        message: Beginning of the error message: the argument or the file.
    """
    try:
        yield
    except error:
        raise
    except Exception as problem:
        reason = str(problem) if isinstance(problem, AvsyncError) else f"{type(problem).__name__}: {problem}"
        raise error(f"{message}: {reason:.500}") from problem


def check_regular(path: str | os.PathLike[str], *, most_bytes: int | None = None) -> int:
    """Return the size of a regular file; raise OSError for FIFOs and devices, and ValueError for larger files."""
    status = Path(path).stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"expected a regular file, got {path}")
    if most_bytes is not None and status.st_size > most_bytes:
        raise ValueError(f"expected at most {most_bytes} bytes, got {status.st_size}")
    return status.st_size


def read_json(
    path: str | os.PathLike[str],
    *,
    error: type[AvsyncError],
    message: str | None = None,
    most_bytes: int = 1 << 26,
    most_depth: int = 32,
) -> Any:
    """Read a JSON file of unknown origin.

    Args:
        path: The file.
        error: The exception to raise, CheckpointError or CorpusError.
        message: Beginning of the error message; the path by default.
        most_bytes: Largest accepted file size, in bytes.
        most_depth: Largest accepted nesting depth of lists and objects.

    Returns:
        The value.

    Raises:
        AvsyncError: ``error``, if the file is missing, not a regular file, too large, nested too deeply or not JSON.
    """
    with untrusted(error, message or str(path)):
        check_regular(path, most_bytes=most_bytes)
        return parse_json(Path(path).read_bytes(), most_depth=most_depth)


def parse_json(text: str | bytes, *, most_depth: int = 32) -> Any:
    """Parse JSON that is nested at most ``most_depth`` deep; for use inside :func:`untrusted`."""
    value = json.loads(text)
    level: list[Any] = [value]
    for _ in range(most_depth):
        level = [
            item
            for holder in level
            if isinstance(holder, (dict, list))
            for item in (holder.values() if isinstance(holder, dict) else holder)
            if isinstance(item, (dict, list))
        ]
        if not level:
            return value
    raise ValueError(f"expected JSON nested at most {most_depth} deep")


def read_npz(
    path: str | os.PathLike[str], *, error: type[AvsyncError], message: str | None = None, most_bytes: int = 1 << 31
) -> dict[str, npt.NDArray[Any]]:
    """Read a NumPy archive of unknown origin; sizes in the headers are checked before arrays are allocated.

    Args:
        path: The file.
        error: The exception to raise, CheckpointError or CorpusError.
        message: Beginning of the error message; the path by default.
        most_bytes: Largest accepted total size of the unpacked arrays, in bytes.

    Returns:
        The arrays, by name.

    Raises:
        AvsyncError: ``error``, if the file is missing or damaged, holds Python objects, or its arrays are larger than
            ``most_bytes`` or than the file's own index states.
    """
    with untrusted(error, message or str(path)):
        check_regular(path)
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            total = sum(member.file_size for member in members)
            if total > most_bytes:
                raise ValueError(f"expected at most {most_bytes} bytes of arrays, got {total}")
            found = {}
            for member in members:
                # zipfile yields at most `file_size` bytes of a member and checks their sum at its end.
                with archive.open(member) as file:
                    found[member.filename.removesuffix(".npy")] = _read_array(file, member.file_size)
                    if file.read(1):
                        raise ValueError(f"expected one array in {member.filename}, got more")
            return found


def _read_array(file: Any, size: int) -> npt.NDArray[Any]:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"expected an array of format 1.0 or 2.0, got {version}")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(file)
    if dtype.hasobject:
        raise ValueError(f"expected plain numbers or text, got {dtype}")
    count = 1
    for length in shape:
        if length < 0:
            raise ValueError(f"expected a shape, got {shape}")
        count *= length  # Python's integers do not overflow, NumPy's do
    if count * dtype.itemsize > size:
        raise ValueError(f"expected at most {size} bytes, got shape {shape} of {dtype}")
    # Empty arrays and dtypes of zero bytes would pass the size check with any shape.
    if max(shape, default=0) > max(size, 1):
        raise ValueError(f"expected at most {size} bytes, got shape {shape} of {dtype}")
    content = file.read(count * dtype.itemsize)
    if len(content) != count * dtype.itemsize:
        raise ValueError(f"expected {count * dtype.itemsize} bytes, got {len(content)}")
    return np.frombuffer(content, dtype=dtype).reshape(shape, order="F" if fortran else "C").copy()


def check_outputs(
    outputs: Iterable[tuple[str, str | os.PathLike[str]]],
    *,
    inputs: Iterable[str | os.PathLike[str]] = (),
    overwrite: bool = False,
) -> None:
    """Raise an error unless all outputs can be written without loss of any file; call this function before any work begins.

    Args:
        outputs: (argument, file) of each output; the argument is named in the error message. Parent folders need not exist.
        inputs: Input files. No output may be an input under any name, link or spelling, even with ``overwrite``.
        overwrite: Accept existing outputs that are not read-only.

    Raises:
        ArgumentError: An output is an input, exists, is read-only or not a regular file, occurs twice, or its folder is not
            writable.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     talk = Path(folder, "talk.mp4")
        ...     talk.touch()
        ...     check_outputs([("--fix", talk.with_suffix(".mkv"))], inputs=[talk])  # a new file
        ...     check_outputs([("--fix", talk)], inputs=[talk], overwrite=True)
        Traceback (most recent call last):
        avsync.errors.ArgumentError: `--fix`: expected a file other than the inputs, got the input ...talk.mp4

    Source: ours.
    """
    read = {identity for path in inputs for identity in _identities(Path(path))}
    taken: dict[object, Path] = {}
    names: dict[object, str] = {}
    for argument, name in outputs:
        path = Path(name)
        if not read.isdisjoint(_identities(path)):
            raise ArgumentError(f"`{argument}`: expected a file other than the inputs, got the input {path}")
        place = _place(path)
        if place in taken:
            raise ArgumentError(f"`{argument}`: expected a file of its own, got {path} and {taken[place]}")
        taken[place] = path
        _check_writable(argument, path, overwrite)
        names[place] = argument
    claimed = _claims.get()
    if claimed is not None and not overwrite:
        claimed |= names


def _place(path: Path) -> tuple[str, str]:
    """Return a key of a file name; file systems differ in case sensitivity and in the encoding of accents."""
    return os.path.realpath(path.parent), unicodedata.normalize("NFC", path.name).casefold()


def _identities(path: Path) -> set[object]:
    """Return keys by which another path to the same file is recognised."""
    found: set[object] = set()
    with suppress(OSError, ValueError):
        found.add(os.path.realpath(path))
        status = path.stat()
        found.add((status.st_dev, status.st_ino))
    return found


def _check_writable(argument: str, path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise ArgumentError(f"`{argument}`: expected a file, got {path}, a folder")
    if os.path.lexists(path):
        if path.exists() and not path.is_file():  # a device or a pipe, which a finished file would replace
            raise ArgumentError(f"`{argument}`: expected a regular file, got {path}")
        if not overwrite:
            option = "--overwrite" if argument.startswith("--") or argument.isupper() else "overwrite=True"
            raise ArgumentError(f"`{argument}`: expected a new file, got {path}, which exists; {option} replaces it")
        # An administrator can write read-only files, but a read-only file should not be replaced.
        if path.exists() and (not path.stat().st_mode & 0o222 or not os.access(path, os.W_OK)):
            raise ArgumentError(f"`{argument}`: expected a file that can be written, got {path}, which is read-only")
    folder = next(parent for parent in (path.absolute()).parents if os.path.lexists(parent))
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        what = "which is read-only" if folder.is_dir() else "which is no folder"
        raise ArgumentError(f"`{argument}`: expected a file in a folder that can be written, got {path} in {folder}, {what}")
