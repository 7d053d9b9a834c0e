"""Conventions that hold in the whole package: argument order, constructors, one name per thing, the top level."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import avsync

ROOT = Path(avsync.__file__).parent
ROOMS = (
    "avsync",
    *(f"avsync.{folder.parent.name}" for folder in sorted(ROOT.glob("*/__init__.py")) if folder.parent.name != "cli"),
)

AUDIO = {"audio", "audios", "waveform", "waveforms", "sound", "sounds", "speech", "audio_encoder"}
MOTION = {"motion", "motions", "landmarks", "motion_encoder"}

HOMONYMS = {
    "FORMAT": "each file format has a version of its own",
    "PARAMETERS": "commands with options of other names than their parameters have one, by which errors name the option",
    "add_arguments": "every command has one, by which the parser finds it",
    "run": "every command has one, by which the parser finds it",
}
"""Names with two definitions, and why."""


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the package that has a public name."""
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if not any(part.startswith("_") for part in name.split(".")):
            yield name, path


def signatures() -> Iterator[tuple[str, list[inspect.Parameter]]]:
    """Every public function and method of the package, as (name, parameters); fields of NamedTuples count as parameters."""
    for name, _ in modules():
        try:
            module = importlib.import_module(name)
        except ImportError:  # an extra that is not installed
            continue
        for key, value in vars(module).items():
            if key.startswith("_") or getattr(value, "__module__", None) != name:
                continue
            if inspect.isfunction(value):
                yield f"{name}.{key}", list(inspect.signature(value).parameters.values())
            elif inspect.isclass(value):
                yield from of_class(f"{name}.{key}", value)


def of_class(name: str, value: type) -> Iterator[tuple[str, list[inspect.Parameter]]]:
    if hasattr(value, "_fields"):
        yield name, [inspect.Parameter(field, inspect.Parameter.KEYWORD_ONLY) for field in value._fields]
        return
    for key, method in vars(value).items():
        method = getattr(method, "__func__", method)  # noqa: PLW2901 (a class method's function)
        if inspect.isfunction(method) and (not key.startswith("_") or key in {"__init__", "__call__"}):
            if key == "__init__" and hasattr(value, "__dataclass_fields__"):
                continue  # a config, whose fields are named by everybody who writes one
            yield f"{name}.{key}", list(inspect.signature(method).parameters.values())


def test_motion_comes_before_audio() -> None:
    """The shapes of the two agree, so a swap is silent: an offset of +2 becomes -2."""
    found = set()
    for name, parameters in signatures():
        names = [parameter.name for parameter in parameters]
        audio = [names.index(each) for each in AUDIO & set(names)]
        motion = [names.index(each) for each in MOTION & set(names)]
        if audio and motion and min(audio) < max(motion):
            found.add(name)
    assert not found


def exported() -> Iterator[tuple[str, object]]:
    """What the rooms export."""
    for room in ROOMS:
        module = importlib.import_module(room)
        for name in getattr(module, "__all__", ()):
            yield f"{room}.{name}", getattr(module, name)


def test_constructors_take_at_most_one_positional_argument() -> None:
    """``SyncerPyramid(config)``, ``Corpus(folder)``: what the object is made of; everything else by keyword."""
    found = set()
    for _, value in exported():
        if not inspect.isclass(value) or hasattr(value, "_fields") or hasattr(value, "__dataclass_fields__"):
            continue
        if not value.__module__.startswith("avsync.") or issubclass(value, BaseException) or "__init__" not in vars(value):
            continue
        kinds = [parameter.kind for parameter in inspect.signature(value).parameters.values()]
        if kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD) > 1:
            found.add(f"{value.__module__}.{value.__qualname__}")
    assert not found


def definitions(path: Path) -> set[str]:
    """Public classes, functions and constants that a module defines."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def test_no_two_things_share_a_name() -> None:
    places = defaultdict(list)
    for path in sorted(ROOT.rglob("*.py")):
        for name in definitions(path):
            places[name].append(str(path.relative_to(ROOT)))
    found = {name: where for name, where in places.items() if len(where) > 1}
    assert set(found) == set(HOMONYMS), {name: found.get(name) for name in set(found) ^ set(HOMONYMS)}


@pytest.mark.parametrize(
    ("module", "function"),
    [
        ("InfoNCE", "info_nce"),
        ("AllPairsInfoNCE", "all_pairs_info_nce"),
        ("ContrastiveLoss", "contrastive_loss"),
        ("CosineBCE", "cosine_bce"),
        ("SigmoidPairLoss", "sigmoid_pair_loss"),
        ("MultiScaleSyncLoss", "multi_scale_sync_loss"),
        ("HingeDiscriminatorLoss", "hinge_discriminator_loss"),
        ("HingeGeneratorLoss", "hinge_generator_loss"),
    ],
)
def test_loss_class_and_function_share_a_stem(module: str, function: str) -> None:
    losses = importlib.import_module("avsync.losses")
    assert module.lower() == function.replace("_", "") and {module, function} <= set(losses.__all__)
    others = {name for name in losses.__all__ if name[0].isupper() and name.endswith(("Loss", "NCE", "BCE"))}
    assert {name.lower() for name in others} <= {name.replace("_", "") for name in losses.__all__ if name.islower()}


def test_rooms_export_what_they_list_and_the_top_level_is_small() -> None:
    for room in ROOMS:
        module = importlib.import_module(room)
        names = getattr(module, "__all__", [])
        assert len(names) == len(set(names)) and all(hasattr(module, name) for name in names), room
    assert 40 <= len(avsync.__all__) <= 60


def test_examples_in_docstrings_are_found_by_doctest() -> None:
    """The API reference shows them, and only ``pytest --doctest-modules`` runs them."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    for path in sorted(ROOT.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if ">>>" not in source:
            continue
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        written = sum(
            ">>>" in (ast.get_docstring(node) or "")
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        )
        found = finder.find(importlib.import_module(name), name)
        assert sum(bool(test.examples) for test in found) == written, name
