"""Models on disk: one folder with ``model.safetensors`` and ``config.json``, checked strictly and never unpickled.

``model.safetensors`` contains the complete model: the tensors, and in the metadata the class, the config and a checksum of all
of them, so that weights are never combined with the config of another save. ``config.json`` repeats the class and the config
for readers and other tools. A model that has pretrained models of the package as parts, such as an ensemble, may name them in
place of a copy of their weights. ``calibration.json`` is optional and holds the checksum of the weights that it was fitted to
(:mod:`avsync.metrics.calibration`).

The pretrained models of the package are in ``avsync/weights`` and are read by name, without network access. Any other name is a
folder or, with the extra ``hub``, a repository of the Hugging Face hub.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import os
import re
import tempfile
import threading
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, cast

import torch
from safetensors.torch import load, save
from torch import Tensor
from torch.nn.modules.module import register_module_parameter_registration_hook

from avsync._checks import checked, import_extra
from avsync._files import check_regular, parse_json, read_json, replacing, sweep_temporaries, untrusted, write_json
from avsync.errors import ArgumentError, CheckpointError, ConfigError

FORMAT = 3
"""Version of the folder's layout. Version 1 (without checksums) is still supported, version 2 (packed weights) is not."""

WEIGHTS = Path(__file__).parent / "weights"
"""Folder of the pretrained models."""
REFERENCE_VALUES = WEIGHTS / "reference_values.json"
"""Mean sync loss of the pretrained models for input of known synchrony, by the checksum of their weights and by input."""
FILES = ("config.json", "model.safetensors")
"""Files of a model."""
SAVE_SECONDS = 300.0
"""Longest time that a save waits for another save to the same folder."""
CALIBRATION = "calibration.json"
"""Optional file next to the weights, for converting the distances of syncers to probabilities."""

_ROOMS = ("avsync.models", "avsync.losses", "avsync.evaluation.syncnet")
"""Modules with the models of the package; imported by name when a model is read, because they import this module."""
_LEAST_SHARED = 0.25
"""Smallest share of the weights of a model of the package for another model to count as made from it."""
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


class PretrainedModel(torch.nn.Module):
    """Base class of models that :func:`from_pretrained` finds by class name.

    A subclass sets ``config_class`` to the dataclass of its config and accepts the config as the keyword argument ``config``.

    Attributes:
        config_class: Dataclass of the config.
        config: Config of this model.
        weights_checksum: Checksum of the file of the weights; None if the model was not read from a file.

    Source: ours.
    """

    config_class: ClassVar[type]
    config: Any
    weights_checksum: str | None = None

    @classmethod
    @checked
    def from_pretrained(cls, folder: str | os.PathLike[str], *, revision: str | None = None) -> Self:
        """Read a model of this class or of a subclass.

        Args:
            folder: A folder or a name; see :func:`model_folder`.
            revision: Branch, tag or commit of a repository of the hub.

        Returns:
            The model in eval mode, on the CPU.

        Raises:
            CheckpointError: See :func:`from_pretrained`.
        """
        return from_pretrained(folder, model_class=cls, revision=revision)


Model = TypeVar("Model", bound=torch.nn.Module)


def _classes(model_class: type[torch.nn.Module]) -> dict[str, type[torch.nn.Module]]:
    """Return a class and all its subclasses, by name; classes with a leading underscore only wrap other models."""
    found = {model_class.__name__: model_class}
    for derived in model_class.__subclasses__():
        found |= {} if derived.__name__.startswith("_") else _classes(derived)
    return found


@checked
def pretrained_models(model_class: type[torch.nn.Module] | None = None) -> tuple[str, ...]:
    """Return the names of the pretrained models of the package, sorted.

    Args:
        model_class: Class of the models, including subclasses; None for all models.

    Example:
        >>> "landmarks68-25fps" in pretrained_models()
        True

    Source: ours.
    """
    configs = sorted(WEIGHTS.glob(f"*/{FILES[0]}"))
    if model_class is not None:
        wanted = _classes(model_class)
        configs = [path for path in configs if read_json(path, error=CheckpointError)["class"] in wanted]
    return tuple(path.parent.name for path in configs)


@checked
def model_folder(name: str | os.PathLike[str], *, revision: str | None = None) -> Path:
    """Return the folder of a model.

    The name is looked up as an existing folder first, then among the pretrained models of the package. A name such as
    ``"someone/model"`` is then looked up on the Hugging Face hub, which caches downloads.

    Args:
        name: A folder, the name of a pretrained model (:func:`pretrained_models`), or a repository of the hub.
        revision: Branch, tag or commit of a repository of the hub.

    Returns:
        The folder.

    Raises:
        CheckpointError: No such folder, model or repository exists, or the hub cannot be reached.
        ArgumentError: ``revision`` is given for a model that is not on the hub.
        MissingExtraError: The model is on the hub and huggingface_hub is not installed.

    Example:
        >>> model_folder("landmarks68-25fps").name
        'landmarks68-25fps'

    Source: ours.
    """
    text = os.fspath(name)
    local = Path(text) if Path(text).is_dir() else WEIGHTS / text if text in pretrained_models() else None
    if local is not None:
        if revision is not None:
            raise ArgumentError(f"`revision`: expected None for {text!r}, which is no repository of the hub, got {revision!r}")
        return local
    if _HUB_NAME.fullmatch(text) is None:
        known = ", ".join(repr(model) for model in pretrained_models())
        raise CheckpointError(
            f"`folder`: expected a folder, 'owner/model' of the Hugging Face hub, or one of {known}, got {text!r}"
        )
    hub = import_extra("huggingface_hub", "hub")
    try:
        return Path(hub.snapshot_download(text, revision=revision, allow_patterns=[*FILES, CALIBRATION, "README.md"]))
    except (OSError, ValueError) as error:  # errors of huggingface_hub derive from these
        raise CheckpointError(f"`folder`: {text!r} is no folder, and the hub cannot provide it: {error}") from error


@checked
def save_pretrained(
    model: torch.nn.Module, folder: str | os.PathLike[str], *, dtype: torch.dtype | None = None, shared: Sequence[str] = ()
) -> None:
    """Write the config and the weights of a model.

    After a crash, the folder holds either the old model or the new one. A ``calibration.json`` of other weights is removed.

    Args:
        model: A module with ``config_class`` and ``config``, such as :class:`avsync.models.syncer.pyramid.SyncerPyramid`.
        folder: Output folder; created if missing. Files of an earlier model are replaced.
        dtype: Storage type of floating-point weights, such as ``torch.float16``; None keeps the type of the model. Weights are
            converted to the type of the model when they are read.
        shared: Names of pretrained models of the package that are parts of ``model``, or from which it was trained further. The
            file names them and does not repeat weights that are still the same, so that reading it needs an avsync with the
            same models.

    Raises:
        ArgumentError: ``model`` has no config, a weight is not finite, before or after the conversion to ``dtype``, or one of
            ``shared`` is not a pretrained model, or shares less than a quarter of its stored weights with ``model``.

    Example:
        >>> import tempfile
        >>> from avsync.models.syncer.pyramid import SyncerConfig
        >>> from avsync.models.syncer.pyramid import SyncerPyramid, SyncerPyramidConfig
        >>> pyramid = SyncerPyramid(config=SyncerPyramidConfig(syncer=SyncerConfig(width=8, embed=4), num_levels=2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_pretrained(pyramid, folder)
        ...     from_pretrained(folder).num_levels
        2

    Source: ours.
    """
    config = getattr(model, "config", None)
    if not dataclasses.is_dataclass(config):
        raise ArgumentError(f"`model`: expected a module with a dataclass `config`, got {type(model).__name__}")
    if dtype is not None and not dtype.is_floating_point:
        raise ArgumentError(f"`dtype`: expected a floating-point type, got {dtype}")
    weights = {}
    for name, value in model.state_dict().items():
        kept = value.detach().cpu()
        kept = kept.to(dtype) if dtype is not None and kept.is_floating_point() else kept
        if not bool(kept.isfinite().all()):
            raise ArgumentError(f"`model`: expected finite weights, got NaN or infinity in {name!r} as {kept.dtype}")
        weights[name] = kept.contiguous().clone()
    description = {"format": FORMAT, "class": type(model).__name__, "config": config_to_dict(config)}
    checksum = _checksum(description, weights)  # of all weights, so that it does not depend on what the file repeats
    parts = {_part_of(weights, name): name for name in shared}
    given = _weights_of_parts(Path(folder), parts)
    own = {name: value for name, value in weights.items() if name not in given or not _same(value, given[name])}
    if not own:  # older versions of safetensors do not read a file without tensors
        least = min(weights, key=lambda name: weights[name].numel())
        own = {least: weights[least]}
    metadata = {"avsync": json.dumps(description), "sha256": checksum} | ({"parts": json.dumps(parts)} if parts else {})
    target = Path(folder)
    with _one_writer(target):
        with replacing(target / FILES[1]) as temporary:  # this rename replaces the model; all later steps are secondary
            # save_file of safetensors has a temporary file of its own, which a killed process would leave in the folder.
            temporary.write_bytes(save(own, metadata=metadata))
        write_json(target / FILES[0], description | {"weights": checksum})
        calibration = target / CALIBRATION
        if calibration.exists() and _fitted_to(calibration) != checksum:
            calibration.unlink()
        sweep_temporaries(target)


def _part_of(weights: Mapping[str, Tensor], name: str) -> str:
    """Return the prefix under which the stored weights of the pretrained model ``name`` are among ``weights``."""
    if name not in pretrained_models():
        raise ArgumentError(f"`shared`: expected pretrained models of the package, {pretrained_models()}, got {name!r}")
    part = _stored(WEIGHTS / name)[1]
    first, numbers = min(part), sum(value.numel() for value in part.values())
    best, most = "", 0.0
    for prefix in sorted(key.removesuffix(first) for key in weights if f".{key}".endswith(f".{first}")):
        found = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        equal = sum(value.numel() for key, value in found.items() if key in part and _same(value, part[key])) / numbers
        if found.keys() == part.keys() and equal > most:
            best, most = prefix, equal
    if most < _LEAST_SHARED:
        raise ArgumentError(f"`shared`: expected models whose stored weights are parts of `model`, got {name!r}")
    return best


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


@contextmanager
def _one_writer(folder: Path) -> Iterator[None]:
    """Let one process of this machine at a time save to a folder, so that all files come from one save.

    Torch requires filelock. The lock lies among the temporary files, because a model folder is copied and uploaded as it is.
    Writers on other machines still leave a model that loads, because the weights hold their own config.
    """
    place = hashlib.sha256(os.path.realpath(folder).encode(errors="surrogateescape")).hexdigest()[:32]
    lock = importlib.import_module("filelock").FileLock(Path(tempfile.gettempdir(), f"avsync-{_user()}-{place}.lock"))
    try:
        lock.acquire(timeout=SAVE_SECONDS)
    except TimeoutError as error:
        raise CheckpointError(f"`folder`: another process has been writing to {folder} for {SAVE_SECONDS} s") from error
    except (OSError, NotImplementedError):  # no place for locks
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else "user"


def _checksum(description: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str:
    """Compute the SHA-256 of a description and of the names, types, shapes and bytes of all weights, as hexadecimal digits."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name in sorted(weights):
        value = weights[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _fitted_to(calibration: Path) -> str | None:
    """Return the checksum of the weights that a calibration was fitted to; None if the file has no checksum."""
    try:
        return cast("str | None", read_json(calibration, error=CheckpointError).get("weights"))
    except (CheckpointError, AttributeError):
        return None


@checked
def stored_checksum(folder: str | os.PathLike[str]) -> str | None:
    """Return the checksum in the metadata of the weights in a folder; None if there are no weights or no checksum.

    Args:
        folder: The folder.

    Raises:
        CheckpointError: The weights are damaged.

    Example:
        >>> len(stored_checksum(model_folder("landmarks68-25fps")))
        64

    Source: ours.
    """
    path = Path(folder, FILES[1])
    if not path.is_file():
        return None
    with untrusted(CheckpointError, f"`folder`: {folder} cannot be read"):
        return _metadata(path.read_bytes()).get("sha256")


def _metadata(content: bytes) -> dict[str, str]:
    """Return the metadata of a safetensors file; the first eight bytes are the length of the JSON header."""
    metadata: dict[str, str] = parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
    return metadata


def _stored(source: Path) -> tuple[dict[str, Any], dict[str, Tensor], str | None]:
    """Read the description, the weights and the checksum of the model in a folder."""
    path = source / FILES[1]
    with untrusted(CheckpointError, f"`folder`: {source} cannot be read"):
        check_regular(path)
        # The file is read once, because a save may replace it at any time; safe_open would open it twice.
        content = path.read_bytes()
        weights, metadata = load(content), _metadata(content)
    written = read_json(
        source / FILES[0], error=CheckpointError, most_bytes=1 << 20, message=f"`folder`: {source / FILES[0]} cannot be read"
    )
    if not isinstance(written, dict):
        raise CheckpointError(f"`folder`: expected a JSON object in {source / FILES[0]}, got {type(written).__name__}")
    if "avsync" not in metadata:
        _check_format(source, written, 1)
        return written, weights, None
    with untrusted(CheckpointError, f"`folder`: {path} cannot be read"):
        description = parse_json(metadata["avsync"])
        _check_format(source, description, FORMAT)
        parts = parse_json(metadata.get("parts", "{}"))
        weights = _weights_of_parts(source, parts) | weights
        if metadata["sha256"] != _checksum(description, weights):
            other = f", or this avsync has other weights of {', '.join(parts.values())}" if parts else ""
            raise CheckpointError(f"`folder`: {path} is damaged: its content does not have the checksum that it states{other}")
    # A config.json with another checksum belongs to another save, which was interrupted or is running. The weights are
    # complete.
    checksum = metadata["sha256"]
    if written.get("weights") == checksum and written != description | {"weights": checksum}:
        raise CheckpointError(f"`folder`: {source / FILES[0]} is not the config that the weights next to it were saved with")
    return description, weights, checksum


def _weights_of_parts(source: Path, parts: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the weights that a file does not repeat, from the pretrained models of the package that it names."""
    weights: dict[str, Tensor] = {}
    if len(set(parts.values())) < len(parts):  # a small file could fill the memory
        raise CheckpointError(f"`folder`: expected each part of {source} once, got {len(parts)} parts")
    for prefix, name in parts.items():
        if name not in pretrained_models():
            raise CheckpointError(f"`folder`: {source} has a part {name!r:.80}, which this avsync does not have")
        weights |= {prefix + key: value for key, value in _stored(WEIGHTS / name)[1].items()}
    return weights


def _check_format(source: Path, description: dict[str, Any], expected: int) -> None:
    found = description.get("format")
    if found == 2:
        raise CheckpointError(
            f"`folder`: {source} has format 2, with packed weights, which this avsync does not read any more; read the "
            "model with the avsync"
            " that wrote it and save it there without `dtype`, `bits` and `parts`"
        )
    if isinstance(found, int) and found > FORMAT:
        raise CheckpointError(f"`folder`: {source} has format {found}, made by a newer avsync; this one reads up to {FORMAT}")
    if found != expected:
        raise CheckpointError(f"`folder`: expected format {expected} in {source}, got {found!r:.40}")


@contextmanager
def _at_most(tensors: int, values: int) -> Iterator[None]:
    """Raise ConfigError as soon as a module built in the block has more parameters than a file holds."""
    thread, count = threading.get_ident(), [0, 0]

    def check(_module: torch.nn.Module, _name: str, parameter: torch.nn.Parameter | None) -> None:
        if parameter is None or threading.get_ident() != thread:
            return
        count[0] += 1
        count[1] += parameter.numel()
        if count[0] > tensors or count[1] > values:
            raise ConfigError(
                f"`config`: expected a model of {tensors} tensors and {values} numbers, as in the file, got a larger one"
            )

    hook = register_module_parameter_registration_hook(check)
    try:
        yield
    finally:
        hook.remove()


def _largest(values: Any) -> int:
    """Return the largest integer in a JSON value."""
    if isinstance(values, (dict, list)):
        return max(map(_largest, values.values() if isinstance(values, dict) else values), default=0)
    return values if isinstance(values, int) else 0


def _built(model_class: Any, values: Any, weights: Mapping[str, Tensor]) -> torch.nn.Module:
    """Build a model and load its weights; sizes are compared with the file before memory is allocated."""
    numbers = sum(value.numel() for value in weights.values())
    if _largest(values) > max(numbers, 10_000):  # a larger number of levels or blocks would take too long to build
        raise ConfigError(f"expected no size above {max(numbers, 10_000)}, as the file has {numbers} numbers, got a larger one")
    config = _config(model_class.config_class.__name__, model_class.config_class, values)
    with _at_most(len(weights), numbers), torch.device("meta"):
        sizes = {name: value.shape for name, value in model_class(config=config).state_dict().items()}
    others = {name for name in sizes.keys() | weights.keys() if name not in sizes or name not in weights}
    others |= {name for name in sizes.keys() & weights.keys() if sizes[name] != weights[name].shape}
    if others:
        raise ConfigError(f"{len(others)} tensors are missing, unknown or of another shape, such as {min(others)!r}")
    model: torch.nn.Module = model_class(config=config)
    model.load_state_dict(weights)
    return model


@typing.overload
def from_pretrained(folder: str | os.PathLike[str], *, model_class: type[Model], revision: str | None = None) -> Model: ...


@typing.overload
def from_pretrained(folder: str | os.PathLike[str], *, model_class: None = None, revision: str | None = None) -> Any: ...


@checked
def from_pretrained(
    folder: str | os.PathLike[str], *, model_class: type[torch.nn.Module] | None = None, revision: str | None = None
) -> torch.nn.Module:
    """Read a pretrained model or a model written by :func:`save_pretrained`.

    Args:
        folder: A folder or a name; see :func:`model_folder`.
        model_class: Expected class of the model, including subclasses; None for any model of the package and any other
            :class:`PretrainedModel`.
        revision: Branch, tag or commit of a repository of the hub.

    Returns:
        The model in eval mode, on the CPU.

    Raises:
        CheckpointError: A file is missing or damaged, holds another class, or its weights do not fit its config.
        MissingExtraError: The model is on the hub and huggingface_hub is not installed.

    Example:
        >>> from_pretrained("landmarks68-25fps").num_levels
        4

    Source: ours.
    """
    source = model_folder(folder, revision=revision)
    description, weights, checksum = _stored(source)
    name = str(description.get("class"))
    known: dict[str, type[torch.nn.Module]] = {} if model_class is None else _classes(model_class)
    for room in _ROOMS if model_class is None else ():
        importlib.import_module(room)
        known = _classes(PretrainedModel)
        if name in known:
            break
    if name not in known:
        expected = " or ".join(repr(other) for other in known)
        raise CheckpointError(f"`folder`: expected class {expected} in {source}, got {name!r:.80}")
    with untrusted(CheckpointError, f"`folder`: the weights and the config in {source} do not fit together"):
        model = _built(known[name], description.get("config"), weights)
    if isinstance(model, PretrainedModel):
        model.weights_checksum = checksum
    return model.eval()


ConfigT = TypeVar("ConfigT")
Value = TypeVar("Value")
_ADDED_LATER = "added_later"  # key in the metadata of a field
_FORMERLY = "formerly"  # key in the metadata of a field, with the name of the field in older files


def added_later(default: Value) -> Value:
    """Declare a field of a config that may be missing in older files.

    Args:
        default: Value of a missing field; it must preserve the earlier behaviour.

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
    """Declare a field of a config that has another name in older files.

    Args:
        default: Default of the field.
        formerly: Name of the field in older files.

    Returns:
        The field, for the body of a dataclass.

    Example:
        >>> from avsync.models.syncer.pyramid import SyncerConfig
        >>> saved = config_to_dict(SyncerConfig(motion_channels=7))
        >>> saved["dims"] = saved.pop("motion_channels")
        >>> config_from_dict(SyncerConfig, saved).motion_channels
        7
    """
    return dataclasses.field(default=default, metadata={_FORMERLY: formerly})


@checked
def config_to_dict(config: Any) -> dict[str, Any]:
    """Convert a config to plain JSON types; nested configs become nested dictionaries, tuples become lists.

    Example:
        >>> from avsync.models.syncer.pyramid import SyncerPyramidConfig
        >>> config_to_dict(SyncerPyramidConfig())["syncer"]["window"]
        5
    """
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise ArgumentError(f"`config`: expected a config, got {type(config).__name__}")
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


@checked
def config_from_dict(config_class: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """Build a config from the result of :func:`config_to_dict`.

    Args:
        config_class: The dataclass to build.
        values: Exactly the fields of the config; fields declared by :func:`added_later` may be missing.

    Returns:
        An instance of ``config_class``.

    Raises:
        ArgumentError: ``values`` is not a mapping.
        ConfigError: A field is unknown or missing, has the wrong type, or an impossible value.

    Example:
        >>> from avsync.models.syncer.pyramid import SyncerConfig
        >>> config_from_dict(SyncerConfig, config_to_dict(SyncerConfig(width=8))).width
        8
    """
    return _config(config_class.__name__, config_class, values)


def _config(name: str, config_class: type[ConfigT], values: Any) -> ConfigT:
    """Build a config from any JSON value; ``name`` is the name of the value in its file or config."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"`{name}`: expected a JSON object, got {type(values).__name__}")
    hints = typing.get_type_hints(config_class)
    fields = dataclasses.fields(typing.cast(Any, config_class))
    former = {field.metadata.get(_FORMERLY): field.name for field in fields}
    values = {former.get(key, key): value for key, value in values.items()}
    names = [field.name for field in fields]
    needed = {field.name for field in fields if not field.metadata.get(_ADDED_LATER)}
    unknown, missing = sorted(set(values) - set(names), key=str), sorted(needed - set(values))
    if unknown or missing:
        raise ConfigError(
            f"`{config_class.__name__}`: expected exactly the fields {names}, got unknown {unknown}, missing {missing}"
        )
    return config_class(**{key: _typed(f"{config_class.__name__}.{key}", hints[key], values[key]) for key in values})


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return config_to_dict(value)
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


def _typed(name: str, hint: Any, value: Any) -> Any:
    """Convert ``value`` to the type ``hint``; JSON has no tuples and may write 1.0 as 1, so only tuples and floats change."""
    if dataclasses.is_dataclass(hint):
        return _config(name, typing.cast(Any, hint), value)
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
    """Convert ``value`` to the first type in ``hints`` that fits."""
    for hint in hints[:-1]:
        try:
            return _typed(name, hint, value)
        except ConfigError:
            continue
    return _typed(name, hints[-1], value)
