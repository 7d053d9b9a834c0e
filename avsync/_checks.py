"""Argument checks, precision of computations, and cached constants.

Checks of tensors look at ranks, sizes, dtypes and devices, so they cost no device synchronisation and add no data-dependent
branch: every function that uses them compiles with ``fullgraph=True``. Values are checked only if they can be read at no cost
(:func:`values_known`).
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import importlib
import importlib.util
import inspect
import itertools
import math
import os
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence, Sized
from fractions import Fraction
from numbers import Integral, Real
from types import ModuleType
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from avsync.errors import ArgumentError, AvsyncError, BrokenExtraError, ConfigError, MissingExtraError, ShapeError

_Config = TypeVar("_Config")
_P = ParamSpec("_P")
_R = TypeVar("_R")

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


LAUNCH_BOUND = ("cuda",)
"""Kinds of devices that spend the time of small batches on launching operations, so that fewer operations are faster."""


def is_launch_bound(x: Tensor) -> bool:
    """Return whether fewer operations on ``x`` are faster; compilers join operations themselves."""
    return x.device.type in LAUNCH_BOUND and not torch.compiler.is_compiling()


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


def same_precision(*tensors: Tensor) -> list[Tensor]:
    """Return tensors in the widest of their dtypes, at least float32, so that they can be multiplied with each other."""
    dtype = functools.reduce(torch.promote_types, (x.dtype for x in tensors), torch.float32)
    return [x.to(dtype) for x in tensors]


def check_finite_values(name: str, x: Tensor) -> None:
    """Raise :class:`ShapeError` unless all values are finite; only for functions that need not be fast."""
    if not bool(torch.isfinite(x).all()):
        raise ShapeError(f"`{name}`: expected finite numbers, got NaN or infinities")


def check_permutation(name: str, index: Sequence[int] | Tensor) -> int:
    """Return the number of points of a permutation; raise :class:`ShapeError` unless it is a list of whole numbers."""
    if isinstance(index, Tensor) and (index.ndim != 1 or index.dtype not in (torch.int32, torch.int64)):
        raise ShapeError(f"`{name}`: expected (points) of int64, got {describe_shape(index)} of {index.dtype}")
    return len(index)


def check_finite_numbers(**values: float) -> None:
    """Raise :class:`ArgumentError` unless all numbers are finite."""
    for name, value in values.items():
        if not -math.inf < value < math.inf:  # not isfinite, which whole numbers can be too large for
            raise ArgumentError(f"`{name}`: expected a finite number, got {value!r}")


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


def device_of_module(module: nn.Module) -> torch.device:
    """Return the device of a module's parameters and buffers; the CPU if it has none."""
    return next((x.device for x in itertools.chain(module.parameters(), module.buffers())), torch.device("cpu"))


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
    number: Any = value  # not float(value), which whole numbers can be too large for
    fits = isinstance(value, Real) and (number > 0 or (allow_zero and value == 0)) and value != math.inf
    if not fits:
        bound = "at least 0" if allow_zero else "above 0"
        raise ArgumentError(f"`{name}`: expected a number {bound}, got {value!r}")


def check_frame_mask(name: str, mask: Tensor, **sizes: int) -> None:
    """Raise :class:`ShapeError` unless ``mask`` is bool (batch, frames), of ``sizes``."""
    check_shape(name, mask, "batch frames", **sizes)
    if mask.dtype != torch.bool:
        raise ShapeError(f"`{name}`: expected bool, got {mask.dtype}")


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raise :class:`ArgumentError` unless ``value`` is a whole number of at least ``least``."""
    if not isinstance(value, Real) or value != value // 1 or value < least:
        raise ArgumentError(f"`{name}`: expected a whole number of at least {least}, got {value!r}")


def check_seed(name: str, value: int) -> None:
    """Raise :class:`ConfigError` for numbers that torch's random generators do not take."""
    if not -(1 << 63) <= value < 1 << 64:
        raise ConfigError(f"`{name}`: expected a seed from -2^63 to 2^64 - 1, got {value}")


def values_known(x: Tensor) -> bool:
    """Return whether the values of ``x`` can be read at no cost: a plain CPU tensor outside of compiled or traced programs."""
    return type(x) in (Tensor, nn.Parameter) and x.device.type == "cpu" and not torch.compiler.is_compiling()


def is_exporting() -> bool:
    """Return whether ``torch.export`` is tracing, with lengths that are not known; torch 2.6 cannot tell."""
    return bool(getattr(torch.compiler, "is_exporting", lambda: False)())


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


class _DeviceError(ArgumentError):
    """Error for tensors on devices that do not fit together; the outermost public function names its own arguments in it."""


def explain(arguments: Mapping[str, Any], error: Exception) -> None:
    """Raise an error of avsync if the arguments explain an error from inside a function.

    Fields of wrong types in named tuples and dataclasses, sparse tensors, devices that differ, and tensors without values (the
    device meta) are looked for only now, so that a call that works does not pay for it.
    """
    for name, value in arguments.items():
        _explain_fields(name, value[0] if isinstance(value, list) and value else value, error)
        if isinstance(value, Tensor) and value.layout != torch.strided:
            raise ShapeError(f"`{name}`: expected a dense tensor, got {describe_shape(value)} of {value.layout}") from error
    if not isinstance(error, RuntimeError | TypeError | _DeviceError):  # what torch raises for devices that do not fit together
        return
    places: dict[str, torch.device] = {}
    for name, value in arguments.items():
        tensors = [value] if isinstance(value, Tensor) else value if isinstance(value, list | tuple) else ()
        if isinstance(value, nn.Module):
            tensors = [*itertools.islice(value.parameters(), 1), *itertools.islice(value.buffers(), 1)]
        found = [x.device for x in tensors if isinstance(x, Tensor)]
        if found:
            places[name] = found[0]
    if len(set(places.values())) > 1 or any(device.type == "meta" for device in places.values()):
        got = ", ".join(f"`{name}` on {device}" for name, device in places.items() if name != "self")
        model = f" and the module on {places['self']}" if "self" in places else ""
        raise _DeviceError(f"expected all tensors on one device that holds values, got {got}{model}") from error


def _explain_fields(name: str, value: Any, error: Exception) -> None:
    """Raise for the first field of a named tuple or a dataclass whose type is not that of its annotation; NaN is a float."""
    if isinstance(value, type) or not (hasattr(value, "_fields") or dataclasses.is_dataclass(value)):
        return
    for key, hint in _class_hints(value.__class__).items():
        field = getattr(value, key, None)
        measured = isinstance(field, float) and math.isnan(field)
        if hasattr(value, key) and not measured and not fits(hint.kind, field):
            raise_type(f"{name}.{key}", hint.text, field)
        if isinstance(field, np.ndarray) and field.dtype.kind not in "biuf":
            raise ShapeError(f"`{name}.{key}`: expected numbers, got an array of {field.dtype}") from error
        if isinstance(field, Tensor) and field.ndim == 0 and isinstance(error, IndexError):
            raise ShapeError(f"`{name}.{key}`: expected a tensor with axes, got {describe_shape(field)}") from error


def checked(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Check the types of all arguments of a public function or constructor against its annotations at each call.

    Whole numbers are accepted for float, NumPy's numbers for Python's; a bool is no number, NaN no float, and a string no
    sequence of strings. Elements of lists, tuples and dictionaries are checked, elements of iterators are not. Nothing is
    checked in compiled programs. The function itself checks ranks, sizes and dtypes of tensors.

    Raises:
        ShapeError: An argument should be a tensor or an array and is not.
        ArgumentError: An argument has another type.

    Example:
        >>> @checked
        ... def repeat(x: Tensor, times: int) -> Tensor:
        ...     return x.repeat(times)
        >>> repeat(torch.ones(2), 2.5)
        Traceback (most recent call last):
        avsync.errors.ArgumentError: `times`: expected int, got float: 2.5
    """
    names = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]

    @functools.cache
    def hints() -> dict[str, _Hint]:
        return _hints(function)

    def check(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, int | float]:
        known = hints()
        numbers: dict[str, int | float] = {}
        for name, value in (*zip(names, args, strict=False), *kwargs.items()):
            if name in known and type(value) not in known[name].plain:
                if not fits(known[name].kind, value):
                    raise_type(name, known[name].text, value)
                if isinstance(value, _OTHER_NUMBERS) and known[name].kind is not Any:
                    # Python's numbers do not overflow, NumPy's do: -np.uint8(3) is 253.
                    number = int(value) if isinstance(value, np.integer) else float(value)
                    numbers |= {name: number} if fits(known[name].kind, number) else {}
        return numbers

    def explain_call(args: tuple[Any, ...], kwargs: Mapping[str, Any], error: Exception) -> None:
        if not isinstance(error, AvsyncError) or isinstance(error, _DeviceError):
            explain(dict(zip(names, args, strict=False)) | dict(kwargs), error)

    # `call` below has the globals of the module of `function`, so what it uses is enclosed.
    compiling = torch.compiler.is_compiling
    explained = (RuntimeError, TypeError, AttributeError, LookupError, ValueError, ArithmeticError, _DeviceError)

    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if compiling():
            return function(*args, **kwargs)
        numbers = check(args, kwargs)
        if numbers:
            args = (*(numbers.get(name, value) for name, value in zip(names, args)), *args[len(names) :])  # type: ignore[assignment]  # noqa: B905
            kwargs = {name: numbers.get(name, value) for name, value in kwargs.items()}  # type: ignore[assignment]
        try:
            return function(*args, **kwargs)
        except explained as error:
            explain_call(args, kwargs, error)
            raise

    # doctest collects the functions whose globals are those of the module; the compiler keeps programs with the code object.
    code = call.__code__.replace(co_name=function.__name__)
    made = types.FunctionType(code, function.__globals__, function.__name__, None, call.__closure__)
    return typing.cast(Callable[_P, _R], functools.wraps(function)(made))


def check_fields(config: Any) -> None:
    """Raise :class:`ConfigError` unless all fields of a dataclass have the types of their annotations; see :func:`checked`."""
    known = _class_hints(config.__class__)
    for field in dataclasses.fields(config):
        hint, value = known[field.name], getattr(config, field.name)
        if not fits(hint.kind, value) or isinstance(value, Fraction):
            raise ConfigError(f"`{field.name}`: expected {hint.text}, got {_describe(value)}")


class _Hint(NamedTuple):
    """An annotation as a type and as text, and the types all of whose values fit, so that only other values are inspected."""

    kind: Any
    text: str
    plain: frozenset[type]


def _hints(owner: Any) -> dict[str, _Hint]:
    """Return the annotations of a function or class; names for type checkers alone are Any."""
    scope = getattr(owner, "__globals__", None) or vars(importlib.import_module(owner.__module__))
    found = {}
    for name, annotation in owner.__annotations__.items():
        if isinstance(annotation, typing.ForwardRef):  # what a named tuple makes of text
            annotation = annotation.__forward_arg__  # noqa: PLW2901
        try:
            hint = eval(annotation, scope) if isinstance(annotation, str) else annotation  # the package's own source
        except (NameError, AttributeError):
            hint = Any
        text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
        choices = typing.get_args(hint) if typing.get_origin(hint) in _UNIONS else (hint,)
        # Text is no plain value where devices are accepted, because not every string is a device.
        simple = {int, bool, type(None)} if torch.device in choices else {int, str, bool, type(None)}
        plain = frozenset(simple.intersection(type(None) if each is None else each for each in choices))
        found[name] = _Hint(hint, text.replace(" | ", " or "), plain)
    return found


@functools.cache
def _class_hints(kind: type) -> dict[str, _Hint]:
    return {
        name: hint for base in reversed(kind.__mro__) if "__annotations__" in vars(base) for name, hint in _hints(base).items()
    }


def _describe(value: Any) -> str:
    return describe_shape(value) if hasattr(value, "shape") else f"{type(value).__name__}: {value!r:.100}"


def raise_type(name: str, expected: str, value: Any) -> typing.NoReturn:
    """Raise the error for an argument of a wrong type."""
    if expected.startswith(("Tensor", "npt.", "FloatArray")) or ("Tensor" in expected and hasattr(value, "shape")):
        complex_numbers = " of complex numbers" if isinstance(value, Tensor) and value.is_complex() else ""
        raise ShapeError(f"`{name}`: expected {expected}, got {describe_shape(value)}{complex_numbers}")
    numbers = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(number, Real) and math.isnan(number) for number in numbers):
        expected = "finite numbers" if numbers is value else "a finite number"
        raise ArgumentError(f"`{name}`: expected {expected}, got {value!r:.100}")
    raise ArgumentError(f"`{name}`: expected {expected}, got {_describe(value)}")


_UNIONS = (typing.Union, types.UnionType)
_OTHER_NUMBERS = (np.integer, np.floating, Fraction)
"""Numbers that are accepted for int and float, and converted."""
_ABSTRACT = (collections.abc.Sequence, collections.abc.Iterable, collections.abc.Mapping, list, tuple, dict)


MeasuredFloat = typing.Annotated[float, "may be NaN"]
"""A number that was measured, such as a loss in the history of a training; an argument ``float`` refuses NaN."""


def fits(hint: Any, value: Any) -> bool:
    """Return whether a value has the type of an annotation; annotations that cannot be checked fit everything."""
    if hint is Tensor:
        return isinstance(value, Tensor) and not value.is_complex()
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, TypeVar):
        return True
    if origin in _UNIONS:
        if torch.device in arguments and isinstance(value, str):
            return _is_device(value)
        return any(fits(argument, value) for argument in arguments)
    if hint is None or hint is type(None):
        return value is None
    if isinstance(value, bool | np.bool_):
        return hint in (bool, np.bool_, object)
    if hint is int:
        return isinstance(value, Integral | torch.SymInt)
    if hint is float:
        return isinstance(value, Real | torch.SymInt | torch.SymFloat) and value == value  # noqa: PLR0124 (NaN is not itself)
    if hint is MeasuredFloat:
        return isinstance(value, Real)
    if hint is torch.device:
        return _is_device(value)
    if origin is typing.Literal:
        return any(value == argument for argument in arguments)
    if origin is type:
        fitting = isinstance(value, type)
        return fitting and (not isinstance(arguments[0], type) or issubclass(value, arguments[0]))
    if origin is collections.abc.Callable or hint is Callable:
        return callable(value)
    if origin in _ABSTRACT:
        iterable = isinstance(value, origin) and not isinstance(value, str | bytes) and getattr(value, "ndim", 1) != 0
        return iterable and _elements_fit(origin, arguments, value)
    kind = hint if origin is None else origin
    if not isinstance(kind, type):
        return True
    ours = kind.__module__.startswith("avsync.") and not dataclasses.is_dataclass(kind)
    if getattr(kind, "_is_protocol", False) or (ours and not isinstance(value, kind)):
        # Whatever has the methods will do, in place of our own classes too, such as a user's bank of clips.
        methods = [name for name, method in vars(kind).items() if callable(method) and (name[0] != "_" or name == "__call__")]
        return bool(methods) and not isinstance(value, type) and all(hasattr(value, name) for name in methods)
    return isinstance(value, kind)


def _is_device(value: Any) -> bool:
    """Return whether this machine has the device; names are accepted wherever devices are."""
    try:
        kind = torch.device(value).type if isinstance(value, str | int | torch.device) else ""
        return kind in ("cpu", "meta") or (kind != "" and getattr(torch, kind).is_available())
    except (RuntimeError, AttributeError):
        return False


def _elements_fit(origin: Any, arguments: tuple[Any, ...], value: Any) -> bool:
    if origin is tuple and Ellipsis not in arguments:
        return len(value) == len(arguments) and all(map(fits, arguments, value))
    if issubclass(origin, Mapping):
        return all(fits(arguments[0], key) and fits(arguments[1], item) for key, item in value.items())
    if not isinstance(value, list | tuple) and issubclass(collections.abc.Iterable, origin):
        return True
    return not arguments or all(fits(arguments[0], item) for item in value)
