"""Error messages that name command-line options instead of function parameters."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from avsync.errors import AvsyncError

_NAMES = re.compile(r"(`\w+`(, )?)+(?=:)")
"""The parameters that a message of avsync begins with."""


def options_of(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Return the user-facing name of each parameter of a command: an option, or the name of a positional argument."""
    named = {}
    for action in parser._actions:
        metavar = action.metavar if isinstance(action.metavar, str) else action.dest
        named[action.dest] = action.option_strings[-1] if action.option_strings else metavar
    return named


def as_typed(error: BaseException, names: Mapping[str, str]) -> str:
    """Return the message of an error, with the options that the user typed instead of the parameters.

    Args:
        error: Of any kind.
        names: What the user typed, by parameter.

    Example:
        >>> as_typed(ValueError("`min_speech`: expected `a`, got 2"), {"min_speech": "--min-speech", "a": "--a"})
        '`--min-speech`: expected `a`, got 2'
    """

    def replace(match: re.Match[str]) -> str:
        return re.sub(r"\w+", lambda name: names.get(name[0], name[0]), match[0])

    found = _NAMES.match(str(error))
    return str(error) if found is None else replace(found) + str(error)[found.end() :]


@contextmanager
def naming(**names: str) -> Iterator[None]:
    """Replace parameters in errors of the block by the options that the user typed."""
    try:
        yield
    except AvsyncError as error:
        message = as_typed(error, names)
        if message == str(error):
            raise
        raise type(error)(message) from error
