"""Checkpoints: whole, strict, and never unpickled."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from avsync.errors import CheckpointError
from avsync.training.checkpoint import RandomState, load_checkpoint, save_checkpoint


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("unpickled",))


def test_round_trip(tmp_path: Path) -> None:
    path, model = tmp_path / "state.pt", nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    generator = torch.Generator().manual_seed(5)
    state = {"model": model, "optimizer": optimizer, "random": RandomState(generator)}
    save_checkpoint(path, state, step=3, history={"loss": [[1, 0.5]]}, name="x")
    expected = torch.rand(4, generator=generator), torch.rand(4)

    other, fresh = nn.Linear(3, 2), torch.Generator()
    optimizer = torch.optim.Adam(other.parameters())
    values = load_checkpoint(path, {"model": other, "optimizer": optimizer, "random": RandomState(fresh)})
    assert values == {"step": 3, "history": {"loss": [[1, 0.5]]}, "name": "x"}
    assert torch.equal(other.weight, model.weight)
    assert torch.equal(torch.rand(4, generator=fresh), expected[0]) and torch.equal(torch.rand(4), expected[1])
    assert optimizer.state_dict()["state"][0]["step"] == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_truncated(tmp_path: Path, share: float) -> None:
    path = tmp_path / "state.pt"
    save_checkpoint(path, {"model": nn.Linear(30, 20)})
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path, {"model": nn.Linear(30, 20)})


def test_nothing_is_unpickled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "state.pt"
    torch.save({"state": {"model": Bomb()}, "values": {}}, path)
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path, {"model": nn.Linear(3, 2)})
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path, {"model": nn.Linear(3, 2)})
    assert "unpickled" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "content", [[1], {}, {"state": 1, "values": {}}, {"state": {"model": {}}}, {"state": {"other": {}}, "values": {}}, {1: 2}]
)
def test_foreign(tmp_path: Path, content: object) -> None:
    path = tmp_path / "state.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"expected the state of \['model'\]"):
        load_checkpoint(path, {"model": nn.Linear(3, 2)})


def test_state_that_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    save_checkpoint(path, {"model": nn.Linear(3, 2)})
    with pytest.raises(CheckpointError, match="does not fit"):
        load_checkpoint(path, {"model": nn.Linear(3, 4)})
    with pytest.raises(CheckpointError, match="does not fit"):
        load_checkpoint(path, {"model": RandomState(torch.Generator())})
    torch.save({"state": {"model": 5}, "values": {}}, path)
    with pytest.raises(CheckpointError, match="does not fit"):
        load_checkpoint(path, {"model": nn.Linear(3, 2)})


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(tmp_path / "none.pt", {})
