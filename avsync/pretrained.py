"""Models on disk: a folder with ``config.json`` and ``model.safetensors``, read strictly and never unpickled.

Some folders come with the package, below ``avsync/weights``, and are read by their names without a network; anything else is a
folder of yours or, with the extra ``hub``, a repository of the Hugging Face hub.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from avsync._bits import pack, unpack
from avsync._checks import import_extra
from avsync._files import replacing, write_json
from avsync.errors import ArgumentError, CheckpointError, ConfigError

FORMAT = 2
"""Version of the folder's layout, since 2 with parts that lie elsewhere and numbers of fewer than 8 bits; a reader refuses newer ones."""

WEIGHTS = Path(__file__).parent / "weights"
"""Where the models that come with the package lie."""
FILES = ("config.json", "model.safetensors")
"""The two files of a model."""

_PARTS = "parts"
"""In config.json, the models that a model is made of: by the name of the submodule, where each lies and what its weights are."""
_SCALE = ":scale"
"""What the name of a row's scales ends with, beside the name of a matrix of whole numbers."""
_PACKED = ":packed"
"""What the name ends with of how such numbers are packed, their bits and then the matrix's shape; missing for 8 bits."""
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


Model = TypeVar("Model", bound=torch.nn.Module)


def _classes(model_class: type[torch.nn.Module]) -> dict[str, type[torch.nn.Module]]:
    """A class and all that derive from it, by their names."""
    found = {model_class.__name__: model_class}
    for derived in model_class.__subclasses__():
        found |= _classes(derived)
    return found


def shipped_models(model_class: type[torch.nn.Module] | None = None) -> tuple[str, ...]:
    """Names of the models that come with the package, sorted.

    Args:
        model_class: Only models of this class or one that derives from it; None for all.

    Example:
        >>> "landmarks68-25fps" in shipped_models()
        True

    Source: ours.
    """
    configs = sorted(WEIGHTS.glob(f"*/{FILES[0]}"))
    if model_class is not None:
        wanted = _classes(model_class)
        configs = [path for path in configs if json.loads(path.read_text(encoding="utf-8"))["class"] in wanted]
    return tuple(path.parent.name for path in configs)


def model_folder(name: str | os.PathLike[str], *, revision: str | None = None) -> Path:
    """The folder behind a name.

    A folder that is there comes first, then the models of the package, then, for a name such as ``"someone/model"``, the Hugging
    Face hub, whose own cache keeps what was downloaded.

    Args:
        name: A folder, the name of a shipped model (:func:`shipped_models`), or a repository of the hub.
        revision: Branch, tag or commit of a repository of the hub; for nothing else.

    Returns:
        The folder.

    Raises:
        CheckpointError: There is no such folder, model or repository, or the hub cannot be reached.
        ArgumentError: A ``revision`` of something that is not on the hub.
        MissingExtraError: The name is one of the hub and huggingface_hub is not installed.

    Example:
        >>> model_folder("landmarks68-25fps").name
        'landmarks68-25fps'

    Source: ours.
    """
    text = os.fspath(name)
    local = Path(text) if Path(text).is_dir() else WEIGHTS / text if text in shipped_models() else None
    if local is not None:
        if revision is not None:
            raise ArgumentError(f"`revision`: expected None for {text!r}, which is no repository of the hub, got {revision!r}")
        return local
    if _HUB_NAME.fullmatch(text) is None:
        known = ", ".join(repr(model) for model in shipped_models())
        raise CheckpointError(
            f"`folder`: expected a folder, 'owner/model' of the Hugging Face hub, or one of {known}, got {text!r}"
        )
    hub = import_extra("huggingface_hub", "hub")
    try:
        return Path(hub.snapshot_download(text, revision=revision, allow_patterns=[*FILES, "calibration.json", "README.md"]))
    except (OSError, ValueError) as error:  # its own errors derive from these: no such repository, no network, a bad name
        raise CheckpointError(f"`folder`: {text!r} is no folder, and cannot be had from the hub: {error}") from error


def save_pretrained(
    model: torch.nn.Module,
    folder: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    bits: int = 8,
    parts: Mapping[str, str | os.PathLike[str]] | None = None,
) -> None:
    """Write a model's config and weights.

    Args:
        model: A module with ``config_class`` and ``config``, such as :class:`avsync.models.syncer.pyramid.SyncerPyramid`.
        folder: Where to write; made if it is not there. Files already there are replaced, each whole or not at all.
        dtype: Type that floating-point weights are stored in; None keeps theirs. ``torch.float16`` halves the file; ``torch.int8``
            halves it again, matrices as whole numbers and one scale a row, the rest in float16. They are read into the model's own
            type.
        bits: How many bits such a whole number takes, 2 to 8; only for ``torch.int8``.
        parts: Submodules, by their names in ``model``, that are saved models themselves, and where each of those is: what
            :func:`model_folder` takes. Their weights are not written again. What is written instead names the model and tells its
            weights from any others, so that nobody ever reads it with a part that has been trained anew.

    Raises:
        ArgumentError: ``model`` has no config, ``bits`` are not 2 to 8 or given for another type, or a part of the model is not
            what lies there.
        CheckpointError: There is no such part, or it is damaged.

    Example:
        >>> import tempfile
        >>> from avsync.models.syncer.encoders import SyncerConfig
        >>> from avsync.models.syncer.pyramid import SyncerPyramid, SyncerPyramidConfig
        >>> pyramid = SyncerPyramid(config=SyncerPyramidConfig(syncer=SyncerConfig(width=8, embed=4), num_levels=2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_pretrained(pyramid, folder)
        ...     from_pretrained(SyncerPyramid, folder).num_levels
        2

    Source: ours.
    """
    target = Path(folder)
    if not dataclasses.is_dataclass(getattr(model, "config", None)):
        raise ArgumentError(f"`model`: expected a module with a dataclass `config`, got {type(model).__name__}")
    if not 2 <= bits <= 8 or (bits < 8 and dtype != torch.int8):
        raise ArgumentError(f"`bits`: expected 2 to 8, and fewer than 8 only with dtype=torch.int8, got {bits} with {dtype}")
    own = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    elsewhere = {}
    for part, name in (parts or {}).items():
        folder_of_part = model_folder(name)
        _take_out(own, part, _model_in(folder_of_part)[1])
        elsewhere[part] = _reference(name, folder_of_part)
    weights: dict[str, Tensor] = {}
    for key, value in own.items():
        weights |= _stored(key, value, dtype, bits)
    with replacing(target / "model.safetensors") as temporary:
        save_file(weights, temporary)
    version = FORMAT if elsewhere or bits < 8 else 1  # what older readers can read stays theirs
    description = {"format": version, "class": type(model).__name__, "config": config_to_dict(model.config)}
    write_json(target / "config.json", description | ({_PARTS: elsewhere} if elsewhere else {}))


def _reference(name: str | os.PathLike[str], folder: Path) -> dict[str, str]:
    """What is written of a part: its name, or the whole path of a folder, and the checksum of its weights."""
    local = Path(name).is_dir()
    return {"model": str(folder.resolve()) if local else os.fspath(name), "sha256": _checksum(folder)}


def _checksum(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def _take_out(weights: dict[str, Tensor], part: str, expected: Mapping[str, Tensor]) -> None:
    """Remove the weights of a submodule from those of its model, once they have been found to be those expected."""
    found = {key.removeprefix(f"{part}."): key for key in weights if key.startswith(f"{part}.")}
    if set(found) != set(expected) or not all(
        torch.equal(weights[found[key]].float(), expected[key].float()) for key in expected
    ):
        raise ArgumentError(f"`parts`: expected a submodule {part!r} with the weights of the model that is named, got others")
    for key in found.values():
        del weights[key]


def _stored(name: str, value: Tensor, dtype: torch.dtype | None, bits: int) -> dict[str, Tensor]:
    """A tensor as it lies in the file; one of whole numbers is two, and three if they are packed."""
    if dtype is None or not value.is_floating_point():
        return {name: value.contiguous().clone()}
    if dtype != torch.int8 or value.ndim < 2:
        return {name: value.to(torch.float16 if dtype == torch.int8 else dtype).contiguous().clone()}
    whole, scale = _rounded(value.flatten(1).float(), bits)
    stored = {name: whole.reshape(value.shape), f"{name}{_SCALE}": scale.half()}
    return stored if bits == 8 else stored | {name: pack(whole, bits), f"{name}{_PACKED}": torch.tensor([bits, *value.shape])}


def _rounded(rows: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Rows as whole numbers, and the scale of each that loses least: cutting off the largest few makes all others finer."""
    most = 2 ** (bits - 1) - 1
    peak = rows.abs().amax(dim=1, keepdim=True)
    shares = torch.linspace(1.0, 0.5, 26)
    scales = [(share * peak / most).clamp_min(torch.finfo(torch.float16).tiny).half().float() for share in shares]
    found = [(rows / scale).round().clamp(-most, most) for scale in scales]
    errors = [(whole * scale - rows).square().sum(dim=1) for whole, scale in zip(found, scales, strict=True)]
    best = torch.stack(errors).argmin(dim=0)
    row = torch.arange(len(rows))
    return torch.stack(found)[best, row].to(torch.int8), torch.stack(scales)[best, row, 0]


def _restored(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a model from those of its file."""
    names = [name for name in weights if not name.endswith((_SCALE, _PACKED))]
    return {name: _read(weights[name], weights.get(f"{name}{_SCALE}"), weights.get(f"{name}{_PACKED}")) for name in names}


def _read(stored: Tensor, scale: Tensor | None, packed: Tensor | None) -> Tensor:
    """A tensor from the up to three that :func:`_stored` made of it."""
    if packed is not None:
        bits, *shape = packed.tolist()
        stored = unpack(stored, bits, math.prod(shape)).reshape(shape)
    return stored if scale is None else (stored.flatten(1).float() * scale.float()[:, None]).reshape(stored.shape)


def _described(source: Path) -> dict[str, Any]:
    """``config.json`` of a folder."""
    description = json.loads((source / "config.json").read_text(encoding="utf-8"))
    if not isinstance(description, dict):
        raise CheckpointError(f"`folder`: expected a JSON object in {source / 'config.json'}, got {description!r:.40}")
    version = description.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise CheckpointError(f"`folder`: {source} has format {version}, made by a newer avsync; this one reads up to {FORMAT}")
    return description


def _weights(source: Path) -> dict[str, Tensor]:
    """Everything that a model in a folder is made of, its parts among it."""
    weights = _restored(load_file(source / "model.safetensors"))
    for part, reference in _described(source).get(_PARTS, {}).items():
        folder = model_folder(reference["model"])
        if _checksum(folder) != reference["sha256"]:
            raise CheckpointError(
                f"`folder`: {source} is made of {reference['model']!r} as it was then, and {folder} holds other weights now"
            )
        weights |= {f"{part}.{name}": value for name, value in _weights(folder).items()}
    return weights


def _model_in(source: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and weights of the model in a folder; every kind of damage is a :class:`avsync.errors.CheckpointError`."""
    try:
        return _described(source), _weights(source)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"`folder`: expected config.json and model.safetensors in {source}, got none ({error})"
        ) from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise CheckpointError(f"`folder`: {source} cannot be read: {error}") from error


def from_pretrained(model_class: type[Model], folder: str | os.PathLike[str], *, revision: str | None = None) -> Model:
    """Read a model that :func:`save_pretrained` wrote, or one that comes with the package.

    Args:
        model_class: What the folder is to hold: a model of this class or of one that derives from it. So
            :class:`avsync.models.syncer.interface.MultiScaleSyncer` stands for pyramids and for ensembles.
        folder: The folder, or a name; see :func:`model_folder`.
        revision: Branch, tag or commit of a repository of the hub.

    Returns:
        The model in eval mode, on the CPU.

    Raises:
        CheckpointError: A file is missing or damaged, holds another class, its weights do not fit its config, or a part of it
            that lies elsewhere has been replaced.
        MissingExtraError: The name is one of the hub and huggingface_hub is not installed.

    Example:
        >>> from avsync.models.syncer.pyramid import SyncerPyramid
        >>> from_pretrained(SyncerPyramid, "landmarks68-25fps").num_levels
        4

    Source: ours.
    """
    source = model_folder(folder, revision=revision)
    description, weights = _model_in(source)
    known, found = _classes(model_class), {key: description.get(key) for key in ("format", "class")}
    if found["format"] not in range(1, FORMAT + 1) or found["class"] not in known:
        expected = " or ".join(repr(name) for name in known)
        raise CheckpointError(
            f"`folder`: expected format 1 to {FORMAT} and class {expected} in {source / 'config.json'}, got {found}"
        )
    try:
        holder: Any = known[found["class"]]
        model = holder(config=config_from_dict(holder.config_class, description["config"]))
        model.load_state_dict(weights)
    except (ArgumentError, LookupError, RuntimeError) as error:
        raise CheckpointError(f"`folder`: the weights and the config in {source} do not fit together: {error}") from error
    return cast(Model, model.eval())


Config = TypeVar("Config")
Value = TypeVar("Value")
_ADDED_LATER = "added_later"  # mark in the metadata of a field
_FORMERLY = "formerly"  # the same, with the field's name in older files


def added_later(default: Value) -> Value:
    """A field of a config that files may lack, because they were written before there was such a field.

    Args:
        default: What the field is where it is missing; it must mean what was done before.

    Returns:
        The field, for the body of a dataclass.

    Example:
        >>> from avsync.models.syncer.pyramid import SyncerPyramidConfig
        >>> saved = config_to_dict(SyncerPyramidConfig())
        >>> del saved["mean_normalisation"]
        >>> config_from_dict(SyncerPyramidConfig, saved).mean_normalisation
        False
    """
    return dataclasses.field(default=default, metadata={_ADDED_LATER: True})


def renamed(default: Value, *, formerly: str) -> Value:
    """Declare a field of a config that older files hold under another name.

    Args:
        default: Default of the field.
        formerly: Name of the field in older files.

    Returns:
        The field, for the body of a dataclass.

    Example:
        >>> from avsync.models.syncer.encoders import SyncerConfig
        >>> saved = config_to_dict(SyncerConfig(motion_channels=7))
        >>> saved["dims"] = saved.pop("motion_channels")
        >>> config_from_dict(SyncerConfig, saved).motion_channels
        7
    """
    return dataclasses.field(default=default, metadata={_FORMERLY: formerly})


def config_to_dict(config: Any) -> dict[str, Any]:
    """A config as plain JSON types; nested configs become nested dictionaries, tuples become lists.

    Example:
        >>> from avsync.models.syncer.pyramid import SyncerPyramidConfig
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
        >>> from avsync.models.syncer.encoders import SyncerConfig
        >>> config_from_dict(SyncerConfig, config_to_dict(SyncerConfig(width=8))).width
        8
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"`{config_class.__name__}`: expected a JSON object, got {type(values).__name__}")
    hints = typing.get_type_hints(config_class)
    fields = dataclasses.fields(typing.cast(Any, config_class))
    former = {field.metadata.get(_FORMERLY): field.name for field in fields}
    values = {former.get(name, name): value for name, value in values.items()}
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
