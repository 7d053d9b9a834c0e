"""The command line: ``avsync COMMAND ...``, one module of this package per command.

A command's module has three things: a docstring whose first line is its help, ``add_arguments(parser)`` and ``run(args)``,
which returns the exit status (0: all went well, 1: some of the work failed). Errors that avsync raises on purpose end as one
line on standard error, never as a traceback; wrong usage ends with status 2, Ctrl-C with 130, as users of a shell expect.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import io
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import avsync
from avsync.cli._errors import as_typed, options_of
from avsync.errors import ArgumentError, AvsyncError, MissingExtraError

COMMANDS: tuple[str, ...] = (
    "extract",
    "inspect",
    "render",
    "clean",
    "offset",
    "score",
    "evaluate",
    "doctor",
    "train",
    "calibrate",
    "export",
    "demo",
)
"""Names of the commands, each a module of this package, in the order of the help."""
SHELLS = ("bash", "zsh", "tcsh")
"""Shells whose completion can be printed."""


def _command(name: str) -> ModuleType:
    return importlib.import_module(f"avsync.cli.{name}")


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """Build the parser of all commands.

    Args:
        only: Add the options of this command alone; the others are listed in the help.

    Returns:
        A parser whose result holds the chosen command's ``run``.
    """
    parser = argparse.ArgumentParser(
        prog="avsync", description="Audio-visual synchrony: extract corpora, measure and correct offsets, evaluate methods."
    )
    parser.add_argument("--version", action="version", version=f"avsync {avsync.__version__}")
    parser.add_argument(
        "--print-completion", choices=SHELLS, metavar="SHELL", help=f"print the completion of a shell ({', '.join(SHELLS)})"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        if only not in (None, name):
            source = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
            commands.add_parser(name, help=(ast.get_docstring(ast.parse(source)) or "").splitlines()[0])
            continue
        module = _command(name)
        text = module.__doc__ or ""
        command = commands.add_parser(
            name,
            help=text.strip().splitlines()[0],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run, options=options_of(command) | getattr(module, "PARAMETERS", {}))
    return parser


def _print_completion(words: Sequence[str]) -> int:
    """Print the script by which a shell completes commands, options and files."""
    parser = argparse.ArgumentParser(prog="avsync")
    parser.add_argument("--print-completion", choices=SHELLS, required=True)
    shell = parser.parse_args(words).print_completion
    from avsync._checks import import_extra

    try:
        print(import_extra("shtab", "completion").complete(build_parser(), shell=shell))
    except MissingExtraError as error:
        sys.stderr.write(f"avsync: error: {error}\n")
        return 1
    return 0


class _StandardError(logging.StreamHandler[Any]):
    """Handler that writes to what ``sys.stderr`` is at the time of a message."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        """Standard error."""
        return sys.stderr


@contextlib.contextmanager
def _messages_on_standard_error(*, quiet: bool) -> Iterator[None]:
    """Send the messages of avsync's loggers to standard error; with ``quiet`` only warnings.

    Where the logger ``avsync`` has a handler or a level of its own already, these stay as they are.
    """
    logger = logging.getLogger("avsync")
    handler, level = None if logger.handlers else _StandardError(), logger.level
    if handler is not None:
        logger.addHandler(handler)
    logger.setLevel(max(level or logging.INFO, logging.WARNING if quiet else logging.NOTSET))
    try:
        yield
    finally:
        logger.setLevel(level)
        if handler is not None:
            logger.removeHandler(handler)


def _check_texts(args: argparse.Namespace) -> None:
    """Raise for empty texts, because an unset variable of a shell must not stand for the current folder, and for NUL."""
    for name, typed in args.options.items():
        value = getattr(args, name, None)
        texts = [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]
        if "" in texts and name != "fix":  # --fix without a value is empty
            raise ArgumentError(f"`{typed}`: expected a name, got an empty text")
        if any("\0" in text for text in texts):
            raise ArgumentError(f"`{typed}`: expected a name without NUL, got {value!r:.100}")


def _drop_output() -> None:
    """Send what standard output cannot take to nowhere, so that the interpreter's last flush does not fail, too."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The words after ``avsync``; by default the arguments of the process.

    Returns:
        The exit status.
    """
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # closed by the shell, as in `avsync ... >&-`
            setattr(sys, stream, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - open to the end
    words = sys.argv[1:] if argv is None else list(argv)
    if words and words[0].partition("=")[0] == "--print-completion":
        return _print_completion(words)
    chosen = next((word for word in words if not word.startswith("-")), "")
    try:  # the modules of a command take a moment to import
        args = build_parser(chosen if chosen in COMMANDS else "").parse_args(words)
        from avsync._files import claims
    except KeyboardInterrupt:
        sys.stderr.write("avsync: interrupted\n")
        return 130
    # Modules next to the user are found as by `python -m`, but behind installed ones; `--detector module:function` needs that.
    with contextlib.suppress(FileNotFoundError):  # a current folder that was removed
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))
    # File names need not be valid Unicode.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _check_texts(args)
        with claims(), _messages_on_standard_error(quiet=getattr(args, "quiet", False)):
            status = int(args.run(args))
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `avsync ... | head`: the reader has gone
        _drop_output()
        return 0
    except AvsyncError as error:
        sys.stderr.write(f"avsync {args.command}: error: {as_typed(error, args.options)}\n")
        return 1
    except OSError as error:  # a full disk, a folder that may not be written: the user's business, not a bug
        sys.stderr.write(f"avsync {args.command}: error: {error}\n")
        _drop_output()
        return 1
    except (MemoryError, RuntimeError) as error:
        # torch's error for a GPU is a RuntimeError of its own class, the one for the CPU is a plain one.
        if not isinstance(error, MemoryError) and "memory" not in str(error):
            raise
        sys.stderr.write(f"avsync {args.command}: error: out of memory: {str(error).partition(chr(10))[0]:.300}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"avsync {args.command}: interrupted; finished results are kept\n")
        return 130
