"""Argument checks, precision of computations, and cached constants.

Checks of tensors look at ranks, sizes, dtypes and devices, so they cost no device synchronisation and add no data-dependent
branch: every function that uses them compiles with ``fullgraph=True``. Values are checked only if they can be read at no cost
(:func:`values_known`).
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import re
from collections.abc import Sequence, Sized
from numbers import Real
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from avsync.errors import ArgumentError, BrokenExtraError, MissingExtraError, ShapeError

_Config = TypeVar("_Config")

REDUCTIONS = ("none", "mean", "sum")


def describe_shape(x: Any) -> str:
    """Return the shape of a tensor as a tuple, or the type of anything that is not a tensor."""
    if isinstance(x, Tensor):
        return str(tuple(x.shape))
    if hasattr(x, "__array_interface__"):
        return f"{type(x).__name__} (convert it with torch.from_numpy)"
    return type(x).__name__


def check_shape(name: str, x: Tensor, pattern: str, **sizes: int) -> None:
    """Raise unless ``x`` is a tensor with one axis for each word of ``pattern``.

    Args:
        name: Name of the argument in the public function.
        x: The tensor to check.
        pattern: Axis names separated by spaces, as in ``"batch frames points dims"``.
        **sizes: Required sizes of some of the named axes.

    Raises:
        ShapeError: The shape is wrong; the message contains the name, the expected axes and the actual shape.
    """
    axes = pattern.split()
    fits = isinstance(x, Tensor) and x.ndim == len(axes)
    if fits:
        fits = all(x.shape[axes.index(axis)] == size for axis, size in sizes.items())
    if not fits:
        expected = ", ".join(f"{axis}={sizes[axis]}" if axis in sizes else axis for axis in axes)
        hint = ""
        if axes[-1:] == ["dims"] and sizes.get("dims") == 2 and isinstance(x, Tensor) and x.ndim and x.shape[-1] == 3:
            hint = f"; for landmarks in 3-D pass `{name}[..., :2]`"
        raise ShapeError(f"`{name}`: expected ({expected}), got {describe_shape(x)}{hint}")


def at_least_float32(x: Tensor) -> Tensor:
    """Return ``x`` in float32, or unchanged if its dtype is float32 or float64.

    Differences of coordinates, norms and softmaxes are computed in this precision, because half precision is not accurate
    enough.
    """
    return x if x.dtype == torch.float64 else x.float()


_constants: dict[tuple[tuple[float, ...], type, torch.device], Tensor] = {}


def constant(values: Sequence[float], device: torch.device) -> Tensor:
    """Return numbers (int64 or float32) as a tensor on ``device``.

    The numbers are copied to the device once, because each copy stalls a GPU's queue and cannot be captured in a CUDA graph.
    """
    values = tuple(values)
    key = (values, type(values[0]), device)
    if torch.compiler.is_compiling() or key not in _constants:
        with torch.inference_mode(False):  # a tensor of inference mode could not be used in training later
            made = torch.tensor(values, device=device)
        if torch.compiler.is_compiling() or type(made) is not Tensor:  # a tracer's fake tensor must not be kept
            return made
        if len(_constants) >= 1000:  # many different clip lengths
            _constants.clear()
        _constants[key] = made
    return _constants[key]


def check_floating(name: str, x: Tensor) -> None:
    """Raise :class:`ShapeError` unless ``x`` holds floating-point numbers."""
    if not isinstance(x, Tensor):
        raise ShapeError(f"`{name}`: expected a floating-point tensor, got {describe_shape(x)}")
    if not torch.is_floating_point(x):
        raise ShapeError(f"`{name}`: expected a floating-point tensor, got {x.dtype}")


def check_same_device(name: str, x: Tensor, device: torch.device, other: str) -> None:
    """Raise :class:`ArgumentError` unless ``x`` is on ``device``, the device of ``other`` (a phrase such as "the model")."""
    if x.device != device:
        raise ArgumentError(f"`{name}`: expected it on the device of {other}, {device}, got {x.device}")


def check_some_clips(name: str, x: Tensor) -> None:
    """Raise :class:`ShapeError` if a batch (a tensor whose first axis is the clips) has no clip."""
    if x.shape[0] == 0:
        raise ShapeError(f"`{name}`: expected at least 1 clip, got {describe_shape(x)}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise :class:`ArgumentError` unless ``value`` is one of ``choices``."""
    if not isinstance(value, str) or value not in choices:
        expected = ", ".join(repr(choice) for choice in choices)
        raise ArgumentError(f"`{name}`: expected one of {expected}, got {value!r}")


def checked_config(config: object, config_class: type[_Config]) -> _Config:
    """Return ``config``, or a config with default values if it is None.

    Raises:
        ArgumentError: ``config`` is of another class.
    """
    if config is None:
        return config_class()
    if not isinstance(config, config_class):
        raise ArgumentError(f"`config`: expected {config_class.__name__} or None, got {type(config).__name__}")
    return config


def check_positive(name: str, value: Any, *, allow_zero: bool = False) -> None:
    """Raise :class:`ArgumentError` unless ``value`` is a finite number above zero (or at least zero)."""
    fits = isinstance(value, Real) and (float(value) > 0 or (allow_zero and value == 0)) and value != math.inf
    if not fits:
        bound = "at least 0" if allow_zero else "above 0"
        raise ArgumentError(f"`{name}`: expected a number {bound}, got {value!r}")


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raise :class:`ArgumentError` unless ``value`` is a whole number of at least ``least``."""
    if not isinstance(value, Real) or value != value // 1 or value < least:
        raise ArgumentError(f"`{name}`: expected a whole number of at least {least}, got {value!r}")


def values_known(x: Tensor) -> bool:
    """Return whether the values of ``x`` can be read at no cost: a plain CPU tensor outside of compiled or traced programs."""
    return type(x) in (Tensor, nn.Parameter) and x.device.type == "cpu" and not torch.compiler.is_compiling()


def check_path(name: str, path: object) -> str | os.PathLike[str]:
    """Return ``path`` after checking its type.

    Raises:
        ArgumentError: ``path`` is neither a string nor a path.
    """
    if not isinstance(path, str | os.PathLike):
        raise ArgumentError(f"`{name}`: expected a path, got {type(path).__name__}")
    return path


def check_counts(**sequences: Sized) -> None:
    """Raise :class:`ArgumentError` unless all arguments have the same number of entries, at least one."""
    for name, entries in sequences.items():
        if not isinstance(entries, (list, tuple)):
            raise ArgumentError(f"`{name}`: expected a list with one entry per level, got {describe_shape(entries)}")
    counts = {name: len(entries) for name, entries in sequences.items()}
    if len(set(counts.values())) > 1 or 0 in counts.values():
        names = ", ".join(f"`{name}`" for name in counts)
        raise ArgumentError(f"{names}: expected as many entries of each, at least one, got {tuple(counts.values())}")


def reduce(values: Tensor, reduction: str) -> Tensor:
    """Apply ``reduction`` ("none", "mean" or "sum") to ``values``; raise for other names."""
    check_choice("reduction", reduction, REDUCTIONS)
    if reduction == "mean":
        return values.mean()
    if reduction == "sum":
        return values.sum()
    return values


_REMEDIES: tuple[tuple[str, str], ...] = (
    (
        r"NumPy 1\.|numpy\.core\.multiarray|_ARRAY_API|numpy\.dtype size changed",
        "it was built for NumPy 1: pip install 'numpy<2'",
    ),
    (
        r"Descriptors cannot be created|google\.|protobuf|runtime_version|MessageFactory",
        "it does not fit the installed protobuf; install both in one command: pip install 'avsync[train]' mediapipe==0.10.14",
    ),
    (
        r"(?P<library>lib[\w.+-]+\.so[\w.]*): cannot open shared object file",
        "the system library {library} is missing; install the package of the operating system that holds it",
    ),
)
"""Patterns of errors at import, and the advice that helps."""


def import_extra(module: str, extra: str, *, package: str | None = None, install: str | None = None) -> ModuleType:
    """Import an optional dependency, or raise an error whose advice fits the cause.

    Args:
        module: Module to import.
        extra: Extra of avsync that installs the dependency.
        package: Top-level module that the extra installs; by default the first part of ``module``.
        install: Command that installs the dependency; by default pip with the extra.

    Raises:
        MissingExtraError: The dependency is not installed.
        BrokenExtraError: The dependency is installed, but its import fails.
    """
    package = package or module.partition(".")[0]
    install = install or f"pip install 'avsync[{extra}]'"
    try:
        return importlib.import_module(module)
    except Exception as error:  # a package that does not fit its dependencies may raise any error
        if isinstance(error, ImportError) and not _is_installed(package):
            raise MissingExtraError(f"`{package}` is needed here and is not installed; install it with: {install}") from error
        raise broken_extra(package, error, install) from error


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # a module without a spec that a program has put into sys.modules
        return True


def broken_extra(package: str, error: BaseException, install: str) -> BrokenExtraError:
    """Return the error for a dependency that is installed but cannot be imported, with the advice that fits the cause."""
    text = f"{type(error).__name__}: {error}"
    for pattern, remedy in _REMEDIES:
        if found := re.search(pattern, text):
            advice = remedy.format(**found.groupdict())
            break
    else:
        advice = f"`python -m pip check` lists what does not fit; after that: {install}"
    summary = text.strip().partition("\n")[0]
    return BrokenExtraError(f"`{package}` is installed but cannot be imported ({summary:.200}); {advice}")


def is_tensor(x: object) -> bool:
    """Return whether ``x`` is a tensor; for user arguments whose type cannot be trusted."""
    return isinstance(x, Tensor)


def check_type(name: str, value: object, *kinds: type, optional: bool = False) -> None:
    """Raise :class:`ArgumentError` unless ``value`` has one of the types, or is None if ``optional``; a bool is not an int."""
    fits = isinstance(value, kinds) and not (isinstance(value, bool) and bool not in kinds and object not in kinds)
    if not fits and not (optional and value is None):
        expected = " or ".join([kind.__name__ for kind in kinds] + ["None"] * optional)
        raise ArgumentError(f"`{name}`: expected {expected}, got {type(value).__name__}: {value!r:.100}")


def as_numbers(name: str, values: object) -> npt.NDArray[np.float64]:
    """Return an array of float64; raise :class:`ShapeError` if ``values`` are not numbers."""
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ShapeError(f"`{name}`: expected numbers, got {type(values).__name__}: {error!s:.100}") from error
