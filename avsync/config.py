"""Frozen dataclass configs to JSON and back, strictly: what is unknown or missing is an error, never a silent default.

The one exception are fields that say of themselves that they came later (:func:`added_later`): what was saved before they existed
still loads, with the default that does what was done then.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from avsync.errors import ConfigError

Config = TypeVar("Config")
Value = TypeVar("Value")
_ADDED_LATER = "added_later"  # mark in the metadata of a field


def added_later(default: Value) -> Value:
    """A field of a config that files may lack, because they were written before there was such a field.

    Args:
        default: What the field is where it is missing; it must mean what was done before.

    Returns:
        The field, for the body of a dataclass.

    Example:
        >>> from avsync.syncer import SyncerPyramidConfig
        >>> saved = config_to_dict(SyncerPyramidConfig())
        >>> del saved["mean_normalisation"]
        >>> config_from_dict(SyncerPyramidConfig, saved).mean_normalisation
        False
    """
    return dataclasses.field(default=default, metadata={_ADDED_LATER: True})


def config_to_dict(config: Any) -> dict[str, Any]:
    """A config as plain JSON types; nested configs become nested dictionaries, tuples become lists.

    Example:
        >>> from avsync.syncer import SyncerPyramidConfig
        >>> config_to_dict(SyncerPyramidConfig())["syncer"]["window"]
        5
    """
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def config_from_dict(config_class: type[Config], values: Mapping[str, Any]) -> Config:
    """The config that :func:`config_to_dict` wrote.

    Args:
        config_class: The dataclass to build.
        values: Every field of it, but for those that were added later, and nothing else.

    Returns:
        An instance of ``config_class``.

    Raises:
        ConfigError: A field is unknown or missing, has the wrong type, or an impossible value.

    Example:
        >>> from avsync.encoders import SyncerConfig
        >>> config_from_dict(SyncerConfig, config_to_dict(SyncerConfig(width=8))).width
        8
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"`{config_class.__name__}`: expected a JSON object, got {type(values).__name__}")
    hints = typing.get_type_hints(config_class)
    fields = dataclasses.fields(typing.cast(Any, config_class))
    names = [field.name for field in fields]
    needed = {field.name for field in fields if not field.metadata.get(_ADDED_LATER)}
    unknown, missing = sorted(set(values) - set(names)), sorted(needed - set(values))
    if unknown or missing:
        raise ConfigError(
            f"`{config_class.__name__}`: expected exactly the fields {names}, got unknown {unknown}, missing {missing}"
        )
    return config_class(**{name: _typed(f"{config_class.__name__}.{name}", hints[name], values[name]) for name in values})


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return config_to_dict(value)
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


def _typed(name: str, hint: Any, value: Any) -> Any:
    """``value`` as ``hint`` wants it; JSON has no tuples and writes 1.0 as it likes, so those two are converted."""
    if dataclasses.is_dataclass(hint):
        return config_from_dict(typing.cast(Any, hint), value)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _any_of(name, [argument for argument in arguments if argument is not type(None)], value)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"`{name}`: expected a list, got {value!r}")
        if Ellipsis in arguments:
            return tuple(_typed(name, arguments[0], item) for item in value)
        if len(value) != len(arguments):
            raise ConfigError(f"`{name}`: expected {len(arguments)} values, got {value!r}")
        return tuple(_typed(name, argument, item) for argument, item in zip(arguments, value, strict=True))
    if origin is typing.Literal:
        if value not in arguments:
            raise ConfigError(f"`{name}`: expected one of {arguments}, got {value!r}")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and (not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool)):
        raise ConfigError(f"`{name}`: expected {hint.__name__}, got {value!r}")
    return value


def _any_of(name: str, hints: list[Any], value: Any) -> Any:
    """``value`` as the first of ``hints`` that it fits."""
    for hint in hints[:-1]:
        try:
            return _typed(name, hint, value)
        except ConfigError:
            continue
    return _typed(name, hints[-1], value)
