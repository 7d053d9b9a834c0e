"""A right call of every public function, constructor and method of the package, for the tests of wrong arguments."""

from __future__ import annotations

import atexit
import importlib
import inspect
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Call(NamedTuple):
    """A right call."""

    function: Callable[..., Any]
    """The function or class."""
    given: Mapping[str, Any]
    """Arguments that have no default, or whose default says less than this value."""
    like: Any = None
    """The public method that ``function`` wraps and whose parameters are meant; None if it is the function itself."""
    slow: bool = False
    """Whether a call takes long, so that some wrong arguments are drawn instead of all being tried."""

    def arguments(self) -> dict[str, Any]:
        """Return a value for each parameter: the given one, else the default."""
        values = {
            parameter.name: None if parameter.default is parameter.empty else parameter.default
            for parameter in inspect.signature(self.like or self.function).parameters.values()
            if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL) and parameter.name not in ("self", "cls")
        }
        return {**values, **self.given}


def new_folder() -> Path:
    """Create a folder that lasts as long as the process."""
    folder = Path(tempfile.mkdtemp(prefix="avsync-right-calls-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


ROOMS = ("losses", "landmarks", "audio", "models", "metrics", "figures", "evaluation", "training", "corpus", "files")


def all_calls() -> dict[str, Call]:
    """Return the calls of all rooms, by the name of the function."""
    found: dict[str, Call] = {}
    for room in ROOMS:
        found |= importlib.import_module(f"tests.right_calls.{room}").CALLS
    return found
