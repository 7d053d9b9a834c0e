"""Wrong arguments of every public function end in one of avsync's errors, whatever is wrong with them.

``tests/right_calls`` has one right call of each function. One argument after the other is replaced by values of a wrong type, dtype,
device, rank or size; the call then works (for some arguments a value of another type is right) or raises an
:class:`avsync.errors.AvsyncError`. A public name without a right call fails a test.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import random
import warnings
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import avsync
from avsync.errors import AvsyncError
from tests.right_calls import ROOMS, Call, all_calls

CALLS = all_calls()
DRAWN = 12
"""Wrong arguments of a slow function that are tried."""


CALLBACKS = {"progress", "drift", "evaluate", "accept", "confirm", "extractor"}
"""Optional arguments that are functions."""


def as_tensor(change: Callable[[torch.Tensor], Any], other: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a change of tensors (of the first of a list of tensors), and of anything else."""

    def of(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return change(value)
        if isinstance(value, np.ndarray) and value.dtype != object:
            changed = change(torch.from_numpy(value))
            return changed.numpy() if isinstance(changed, torch.Tensor) and changed.device.type == "cpu" else changed
        if isinstance(value, list | tuple) and value and isinstance(value[0], torch.Tensor):
            return [change(value[0]), *value[1:]]
        return other(value)

    return of


WRONG: dict[str, Callable[[Any], Any]] = {
    "None": lambda _: None,
    "text": lambda _: "avg",
    "bytes": lambda _: b"x",
    "number": lambda _: -1,
    "zero": lambda _: 0,
    "not a number": lambda _: float("nan"),
    "infinity": lambda _: float("inf"),
    "fraction": lambda _: 1.5,
    "flag": lambda _: True,
    "dictionary": lambda _: {},
    "object": lambda _: object(),
    "function": lambda _: lambda *a, **k: None,
    "list": as_tensor(lambda x: x.tolist(), lambda x: [x]),
    "other array": as_tensor(lambda x: x.detach().numpy(), lambda _: np.array(1.0)),
    "texts": lambda _: ["a", 1],
    "integers": as_tensor(lambda x: x.to(torch.int8), lambda _: torch.tensor(3)),
    "float64": as_tensor(lambda x: x.double(), lambda _: np.zeros(3)),
    "half": as_tensor(lambda x: x.half(), lambda _: torch.zeros(3)),
    "complex": as_tensor(lambda x: x.to(torch.complex64), lambda _: 1j),
    "meta": as_tensor(lambda x: x.to("meta"), lambda _: torch.ones(2, device="meta")),
    "one axis fewer": as_tensor(lambda x: x[0] if x.ndim else x, lambda _: ()),
    "one axis more": as_tensor(lambda x: x[None], lambda _: torch.ones(1, 1)),
    "empty": as_tensor(lambda x: x[:0] if x.ndim else x, lambda _: []),
    "nothing along the second axis": as_tensor(lambda x: x[:, :0] if x.ndim > 1 else x, lambda _: (1, 2)),
    "one entry more": as_tensor(lambda x: torch.cat([x, x[:1]]) if x.ndim else x, lambda _: [0.5, -1.0]),
    "one fewer along the second axis": as_tensor(lambda x: x[:, 1:] if x.ndim > 1 else x, lambda _: [None]),
    "one more along the last axis": as_tensor(lambda x: torch.cat([x, x[..., :1]], -1) if x.ndim else x, lambda _: {"a": 1}),
    "all NaN": as_tensor(lambda x: torch.full(x.shape, torch.nan), lambda _: range(3)),
    "unsigned": as_tensor(lambda x: x.to(torch.uint8), lambda _: np.uint8(3)),
    "rational": lambda _: Fraction(1, 2),
    "module": lambda _: torch.nn.Linear(1, 1),
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text may be the name of a file, too."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", CALLS)
def test_the_right_call_works(name: str) -> None:
    with quiet():
        CALLS[name].function(**CALLS[name].arguments())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_a_wrong_argument_ends_in_an_error_of_avsync(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(list(CALLS)))
    arguments = list(CALLS[name].arguments())
    if arguments:
        check(CALLS[name], data.draw(st.sampled_from(arguments)), data.draw(st.sampled_from(list(WRONG))))


@pytest.mark.parametrize("name", CALLS)
def test_every_wrong_argument_ends_in_an_error_of_avsync(name: str) -> None:
    call, bad = CALLS[name], {}
    tried = [(argument, kind) for argument in call.arguments() for kind in WRONG]
    for argument, kind in random.Random(name).sample(tried, min(DRAWN, len(tried))) if call.slow else tried:
        try:
            check(call, argument, kind)
        except Exception as error:  # noqa: BLE001 (all of them are reported together)
            bad[f"{argument}: {kind}"] = f"{type(error).__name__}: {str(error)[:80]}"
    assert not bad, bad


FIELDS: tuple[Any, ...] = (None, "x", b"x", -1, 1.5, object(), {}, [], torch.tensor(1.0), np.array(["x", None]))
"""Wrong values of a field of a named tuple or a dataclass."""


@pytest.mark.parametrize("name", CALLS)
def test_wrong_fields_of_arguments_end_in_an_error_of_avsync(name: str) -> None:
    """Named tuples check nothing when they are made, so that the functions that take them have to name what is wrong."""
    call, bad, chance = CALLS[name], {}, random.Random(name)
    for argument, value in call.arguments().items():
        holder = value[0] if isinstance(value, list) and value else value
        change = holder._replace if hasattr(holder, "_fields") else partial(dataclasses.replace, holder)
        known = getattr(holder, "_fields", None) or [
            field.name
            for field in (
                dataclasses.fields(holder) if dataclasses.is_dataclass(holder) and not isinstance(holder, type) else ()
            )
            if field.init
        ]
        tried = [(field, wrong) for field in known for wrong in FIELDS]
        for field, wrong in chance.sample(tried, min(DRAWN, len(tried))):
            try:
                with quiet(), contextlib.suppress(AvsyncError):
                    changed = change(**{field: wrong})
                    given = [changed, *value[1:]] if holder is not value else changed
                    call.function(**{**call.arguments(), argument: given})
            except Exception as error:  # noqa: BLE001 (all of them are reported together)
                bad[f"{argument}.{field}: {wrong!r:.20}"] = f"{type(error).__name__}: {str(error)[:80]}"
    assert not bad, bad


def quiet() -> contextlib.AbstractContextManager[Any]:
    """Ignore warnings: a wrong argument may well be worth one."""
    return warnings.catch_warnings(action="ignore")


def check(call: Call, argument: str, kind: str) -> None:
    arguments = call.arguments()
    if kind in ("function", "module") and (callable(arguments[argument]) or argument in CALLBACKS):
        return  # the error of a user's own function or module is theirs
    # An index beyond the end of a sequence is Python's IndexError, which loops wait for.
    with quiet(), contextlib.suppress(AvsyncError, *([IndexError] if argument == "index" else [])):
        call.function(**{**arguments, argument: WRONG[kind](arguments[argument])})


PACKAGES = (
    *(f"avsync.{room}" for room in ROOMS if room != "files"),
    "avsync.corpus.banks",
    "avsync.corpus.detectors",
    "avsync.corpus.extraction",
    "avsync.corpus.media",
    "avsync.corpus.synthetic",
    "avsync.evaluation.syncnet",
    "avsync.models.generator",
    "avsync.models.syncer",
    "avsync.training.doctor",
    "avsync.pretrained",
    "avsync.pyramid",
)
NOT_TRIED = {
    "Model": "a type variable",
    "ConfigT": "a type variable",
    "Value": "a type variable",
    "added_later": "declares a field of a class, at import",
    "renamed": "declares a field of a class, at import",
    "load_i3d": "needs weights of 50 MB; tests/test_feature_nets.py tries wrong files",
    "load_inception": "needs weights of 90 MB; tests/test_feature_nets.py tries wrong files",
    "SyncNet.from_file": "needs weights of 50 MB; tests/test_syncnet.py tries wrong files",
    "whisper_features": "needs a model of another package; tests/test_speech_models.py",
    "wav2vec2_features": "needs a model of another package; tests/test_speech_models.py",
    "AudioEncoder.frames_of": "called by the encoder only",
    "MotionEncoder.frames_of": "called by the encoder only",
    "CudaRecorder": "needs a GPU",
    "GraphedStep": "records for a GPU; tests/test_graphs.py",
    "make_capturable": "needs a GPU",
    "calibrate": "needs minutes of clips; benchmarks measure it",
    "describe": "takes an open file of PyAV",
    "Detector": "a protocol",
    "Detections": "an annotation",
    "VideoFrame": "made by a source of video only",
    "CheckedDetector.__call__": "called by the extraction only",
    "MultiScaleSyncer": "an interface; the pyramid and the ensemble are tried",
    "CropBank": "an interface; the bank in memory is tried",
    "PretrainedModel": "an interface; the models are tried",
    "TalkDetector.__call__": "called by the extraction only",
    "evaluation_figures": "tests/test_evaluate.py draws them",
}


def public_functions() -> Iterator[tuple[str, Any]]:
    """Yield every public function, constructor and method with an argument, by the name that its right call must have."""
    for package in PACKAGES:
        module = importlib.import_module(package)
        names = getattr(module, "__all__", None) or [
            key
            for key, value in vars(module).items()
            if not key.startswith("_") and getattr(value, "__module__", "") == package
        ]
        for name in names:
            value = getattr(module, name)
            if inspect.isfunction(value) and inspect.signature(value).parameters:
                yield name, value
            elif inspect.isclass(value) and value.__module__.startswith("avsync.") and not issubclass(value, BaseException):
                yield from of_class(name, value)


def of_class(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    plain = hasattr(value, "_fields") or (dataclasses.is_dataclass(value) and not hasattr(value, "__post_init__"))
    if (
        not plain and not issubclass(value, dict) and len(inspect.signature(value).parameters)
    ):  # a named tuple or a plain dataclass checks nothing
        yield name, value
    for key, method in vars(value).items():
        function = getattr(method, "__func__", method)
        if not inspect.isfunction(function) or (key.startswith("_") and key not in ("__call__", "__getitem__")):
            continue
        if len(inspect.signature(function).parameters) - (not isinstance(method, staticmethod)) > 0:
            yield f"{name}.{key}", function


def test_every_public_name_is_tried() -> None:
    inherited = {"MultiScaleSyncer": "SyncerPyramid"}
    missing = set()
    for name, _ in public_functions():
        owner, _, method = name.partition(".")
        if name not in CALLS and not {name, owner} & set(NOT_TRIED) and f"{inherited.get(owner)}.{method}" not in CALLS:
            missing.add(name)
    assert not missing, missing
    assert len(CALLS) > 250 and avsync.__all__


def test_every_argument_is_tried() -> None:
    for name, function in public_functions():
        if name in CALLS:
            parameters = inspect.signature(function).parameters.values()
            named = {p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)} - {"self", "cls"}
            assert named <= set(CALLS[name].arguments()), name
