"""Models on disk: what is read is what was written, and every kind of damage is a CheckpointError."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from avsync import _files
from avsync.encoders import SyncerConfig
from avsync.errors import ArgumentError, CheckpointError
from avsync.pretrained import FORMAT, from_pretrained, save_pretrained
from avsync.syncer import SyncerPyramid, SyncerPyramidConfig

CONFIG = SyncerPyramidConfig(syncer=SyncerConfig(audio_features=3, points=4, width=4, embed=2), num_levels=2, reference="mean")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = SyncerPyramid(config=CONFIG)
    model.set_audio_statistics(torch.arange(3.0), torch.arange(1.0, 4.0))
    save_pretrained(model, tmp_path / "a" / "b")
    return tmp_path / "a" / "b"


def test_round_trip(saved: Path) -> None:
    model = SyncerPyramid(config=CONFIG)
    model.set_audio_statistics(torch.arange(3.0), torch.arange(1.0, 4.0))
    save_pretrained(model, saved)  # over what is there
    back = from_pretrained(SyncerPyramid, saved)
    assert back.config == CONFIG and not back.training
    expected = model.state_dict()
    assert back.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in back.state_dict().items())
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_files(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=name.split(".", maxsplit=1)[0]):
        from_pretrained(SyncerPyramid, saved)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_files(saved: Path, name: str, share: float) -> None:
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match="`folder`"):
        from_pretrained(SyncerPyramid, saved)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_damaged_files(saved: Path, name: str) -> None:
    (saved / name).write_bytes(b"\xff\xfe" + (saved / name).read_bytes()[2:])
    with pytest.raises(CheckpointError, match="cannot be read"):
        from_pretrained(SyncerPyramid, saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class": "Other"}, "Other"),
        ({"format": FORMAT + 1}, "newer avsync"),
        ({"format": "1"}, "expected"),
        ({"config": None}, "do not fit"),
        ({"config": {"num_levels": 2}}, "missing"),
    ],
)
def test_wrong_descriptions(saved: Path, change: dict[str, object], message: str) -> None:
    path = saved / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        from_pretrained(SyncerPyramid, saved)


def test_weights_of_another_size(saved: Path) -> None:
    path = saved / "config.json"
    description = json.loads(path.read_text())
    for change in ({"num_levels": 3}, {"num_levels": 1}, {"syncer": description["config"]["syncer"] | {"width": 5}}):
        path.write_text(json.dumps(description | {"config": description["config"] | change}))
        with pytest.raises(CheckpointError, match="do not fit"):
            from_pretrained(SyncerPyramid, saved)


def test_not_an_object(saved: Path) -> None:
    (saved / "config.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="expected"):
        from_pretrained(SyncerPyramid, saved)


def test_a_model_without_config(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="`model`"):
        save_pretrained(nn.Linear(2, 2), tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    _files.write_json(path, [1])

    def fail() -> None:
        with _files.replacing(path) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert json.loads(path.read_text()) == [1]
    assert list(tmp_path.iterdir()) == [path]
