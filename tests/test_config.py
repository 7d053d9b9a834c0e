"""Configs through JSON and back: nothing is lost, and nothing unknown, missing or of a wrong type gets in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avsync.errors import ArgumentError, ConfigError
from avsync.models.syncer.pyramid import SyncerConfig, SyncerPyramidConfig
from avsync.pretrained import config_from_dict, config_to_dict

sizes = st.integers(1, 500)
syncers = st.builds(
    SyncerConfig,
    audio_features=sizes,
    points=sizes,
    motion_channels=st.just(2),
    width=sizes,
    embed=sizes,
    frame_blocks=st.integers(0, 5),
    dropout=st.floats(0, 0.9),
)
pyramids = st.builds(
    SyncerPyramidConfig,
    syncer=syncers,
    num_levels=st.integers(1, 6),
    audio=st.just("custom"),
    reference=st.sampled_from(["first", "mean"]),
)


@dataclass(frozen=True)
class Everything:
    name: str = "x"
    flag: bool = True
    rate: float = 0.5
    windows: tuple[int, ...] = (5, 10)
    span: tuple[float, str] = (0.9, "s")
    limit: int | None = None
    devices: int | str = 1
    mode: Literal["a", "b"] = "a"
    inner: SyncerConfig = SyncerConfig()


@given(pyramids)
def test_round_trip(config: SyncerPyramidConfig) -> None:
    assert config_from_dict(SyncerPyramidConfig, json.loads(json.dumps(config_to_dict(config)))) == config


@pytest.mark.parametrize(
    "config", [Everything(), Everything(limit=3, devices="auto", mode="b", windows=(), span=(1.0, ""), flag=False)]
)
def test_round_trip_of_every_type(config: Everything) -> None:
    back = config_from_dict(Everything, json.loads(json.dumps(config_to_dict(config))))
    assert back == config
    assert isinstance(back.windows, tuple)


def test_whole_numbers_may_stand_for_floats() -> None:
    back = config_from_dict(Everything, config_to_dict(Everything()) | {"rate": 1})
    assert back.rate == 1.0 and isinstance(back.rate, float)


@given(pyramids, st.sampled_from(["num_levels", "syncer", "reference"]))
def test_a_missing_or_unknown_field_is_an_error(config: SyncerPyramidConfig, name: str) -> None:
    values = config_to_dict(config)
    with pytest.raises(ConfigError, match="unknown \\['colour'\\]"):
        config_from_dict(SyncerPyramidConfig, values | {"colour": 1})
    del values[name]
    with pytest.raises(ConfigError, match=f"missing \\['{name}'\\]"):
        config_from_dict(SyncerPyramidConfig, values)


def test_fields_that_came_later_may_be_missing() -> None:
    """A model saved before level widths, context and normalisation existed loads as what it was."""
    config = SyncerPyramidConfig(syncer=SyncerConfig(width=8), num_levels=2, reference="mean")
    values = config_to_dict(config)
    for name in ("audio_context", "width", "mean_normalisation"):
        del values[name]
    del values["syncer"]["audio_context"]
    assert config_from_dict(SyncerPyramidConfig, values) == config


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", 1),
        ("flag", 1),
        ("rate", "fast"),
        ("rate", True),
        ("windows", 5),
        ("windows", [5, "x"]),
        ("windows", [True]),
        ("span", [0.9]),
        ("span", ["s", 0.9]),
        ("limit", "x"),
        ("limit", 1.5),
        ("devices", None),
        ("devices", 1.5),
        ("mode", "c"),
        ("inner", None),
        ("inner", {}),
    ],
)
def test_a_wrong_type_is_an_error(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match="expected"):
        config_from_dict(Everything, config_to_dict(Everything()) | {field: value})


def test_impossible_values_and_non_objects() -> None:
    with pytest.raises(ConfigError, match="`num_levels`"):
        config_from_dict(SyncerPyramidConfig, config_to_dict(SyncerPyramidConfig()) | {"num_levels": 0})
    with pytest.raises(ArgumentError, match=r"`values`: expected Mapping\[str, Any\], got list: \[1\]"):
        config_from_dict(SyncerConfig, [1])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"`SyncerPyramidConfig\.syncer`: expected a JSON object, got list"):
        config_from_dict(SyncerPyramidConfig, config_to_dict(SyncerPyramidConfig()) | {"syncer": [1]})
