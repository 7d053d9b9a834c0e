"""Checkpoints: whole, checked, strict, never unpickled; the last few and the best of them in a folder."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path
from typing import Any, Self

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from avsync.errors import ArgumentError, CheckpointError
from avsync.training.checkpoint import (
    DamagedCheckpointError,
    check_checkpoint,
    load_checkpoint,
    save_checkpoint,
    take_state,
    write_checkpoint,
)
from avsync.training.optimisation import OptimizerState
from avsync.training.random_state import RandomState, rank_generator
from avsync.training.store import CheckpointStore


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("unpickled",))


def test_round_trip(tmp_path: Path) -> None:
    path, model = tmp_path / "state.ckpt", nn.Linear(3, 2)
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


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "state.ckpt"
    save_checkpoint(path, {"model": nn.Linear(30, 20)}, step=1)
    return path.read_bytes()


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_no_truncation_goes_unnoticed(tmp_path: Path, good: bytes, data: st.DataObject) -> None:
    path, model = tmp_path / "state.ckpt", nn.Linear(30, 20)
    before = model.weight.clone()
    path.write_bytes(good[: data.draw(st.integers(0, len(good) - 1))])
    with pytest.raises(DamagedCheckpointError, match=r"state\.ckpt is damaged"):
        load_checkpoint(path, {"model": model})
    assert torch.equal(model.weight, before)


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_no_flipped_bit_goes_unnoticed(tmp_path: Path, good: bytes, data: st.DataObject) -> None:
    path, changed = tmp_path / "state.ckpt", bytearray(good)
    changed[data.draw(st.integers(0, len(good) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(changed)
    with pytest.raises(DamagedCheckpointError, match=r"state\.ckpt is damaged"):
        load_checkpoint(path, {"model": nn.Linear(30, 20)})


def test_torch_reads_the_file_too(tmp_path: Path, good: bytes) -> None:
    path = tmp_path / "state.ckpt"
    path.write_bytes(good)
    assert torch.load(path, weights_only=True)["values"] == {"step": 1}


def test_nothing_is_unpickled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not even where somebody has given a malicious file the right checksum."""
    path = tmp_path / "state.ckpt"
    write_checkpoint(path, {"state": {"model": Bomb()}, "values": {}})
    check_checkpoint(path)
    with pytest.raises(CheckpointError, match="never read"):
        load_checkpoint(path, {"model": nn.Linear(3, 2)})
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DamagedCheckpointError, match="damaged"):
        load_checkpoint(path, {"model": nn.Linear(3, 2)})
    assert "unpickled" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "content", [{}, {"state": 1, "values": {}}, {"state": {"model": {}}}, {"state": {"other": {}}, "values": {}}, {1: 2}]
)
def test_foreign(tmp_path: Path, content: dict[Any, Any]) -> None:
    path = tmp_path / "state.ckpt"
    write_checkpoint(path, content)
    with pytest.raises(CheckpointError, match=r"expected the state of \['model'\]"):
        load_checkpoint(path, {"model": nn.Linear(3, 2)})


def test_state_that_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "state.ckpt"
    save_checkpoint(path, {"model": nn.Linear(3, 2)})
    with pytest.raises(CheckpointError, match="does not fit"):
        load_checkpoint(path, {"model": nn.Linear(3, 4)})
    with pytest.raises(CheckpointError, match="does not fit"):
        load_checkpoint(path, {"model": RandomState(torch.Generator())})
    write_checkpoint(path, {"state": {"model": 5}, "values": {}})
    with pytest.raises(CheckpointError, match="does not fit"):
        load_checkpoint(path, {"model": nn.Linear(3, 2)})


def test_settings_of_another_device_are_not_restored(tmp_path: Path) -> None:
    """A run on a GPU may save ``capturable``, with which torch refuses to step on a CPU, and a CPU saves ``fused``."""

    def trained(fused: bool) -> tuple[torch.nn.Linear, torch.optim.Adam]:
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        optimizer = torch.optim.Adam(model.parameters(), fused=fused)
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        return model, optimizer

    _, of_gpu = trained(fused=False)
    of_gpu.param_groups[0]["capturable"] = True
    save_checkpoint(tmp_path / "gpu.ckpt", {"optimizer": OptimizerState(of_gpu)})
    model, resumed = trained(fused=True)
    load_checkpoint(tmp_path / "gpu.ckpt", {"optimizer": OptimizerState(resumed)})
    assert resumed.param_groups[0]["fused"] and not resumed.param_groups[0]["capturable"]
    other, gone_on = trained(fused=True)
    for optimizer in (resumed, gone_on):
        optimizer.step()
    assert torch.equal(model.weight, other.weight)
    two = torch.optim.Adam([{"params": [model.weight]}, {"params": [model.bias]}])
    with pytest.raises(CheckpointError, match="does not fit the models"):
        load_checkpoint(tmp_path / "gpu.ckpt", {"optimizer": OptimizerState(two)})


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(tmp_path / "none.pt", {})


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A disk that takes as many more bytes as the list's only entry says, then none."""
    room = [10**9]
    opened = Path.open

    def open_limited(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        file = opened(path, mode, *arguments, **options)
        if mode == "wb":
            plain = file.write

            class Limited:
                def __enter__(self) -> Self:
                    return self

                def __exit__(self, *error: object) -> None:
                    file.close()

                def write(self, data: bytes) -> int:
                    room[0] -= len(data)
                    if room[0] < 0:
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    return plain(data)

                def flush(self) -> None:
                    file.flush()

            return Limited()
        return file

    monkeypatch.setattr(Path, "open", open_limited)
    return room


@pytest.mark.parametrize("room", [0, 200, 1500, 3000])
def test_a_full_disk_leaves_the_last_good_one(tmp_path: Path, full_disk: list[int], room: int) -> None:
    store, model = CheckpointStore(tmp_path, best="x"), nn.Linear(30, 20)
    store.save(1, take_state({"model": model}, step=1), is_best=True)
    saved = model.weight.clone()
    nn.init.zeros_(model.weight)
    full_disk[0] = room
    for is_best in (False, True):
        with pytest.raises(CheckpointError, match=r"No space left on device.*last good one is .*step-00000001\.ckpt"):
            store.save(2, take_state({"model": model}, step=2), is_best=is_best)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.ckpt", "step-00000001.ckpt"]
    full_disk[0] = 10**9
    assert store.newest_good() == 1
    for load in (lambda: store.load(1, {"model": model}), lambda: store.load_best({"model": model})):
        nn.init.zeros_(model.weight)
        load()
        assert torch.equal(model.weight, saved)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_device_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's own ENOSPC, through torch's writer, is told as what it is."""
    opened = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, mode="r", *rest: opened(Path("/dev/full") if mode == "wb" else path, mode, *rest)
    )
    with pytest.raises(CheckpointError, match="No space left on device"):
        save_checkpoint(tmp_path / "state.ckpt", {"model": nn.Linear(300, 300)})
    assert list(tmp_path.iterdir()) == []


def contents(store: CheckpointStore) -> dict[str, int]:
    """The number that every file of the folder holds."""
    return {file.name: int(torch.load(file, weights_only=True)["values"]["n"]) for file in store.folder.iterdir()}


def save(store: CheckpointStore, step: int, *, is_best: bool = False, n: int | None = None) -> None:
    store.save(step, take_state({}, n=step if n is None else n), is_best=is_best)


def test_the_last_few_and_the_best_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "run", keep=2, best="x")
    for step in range(1, 6):
        save(store, step, is_best=step == 2)
    assert contents(store) == {"step-00000004.ckpt": 4, "step-00000005.ckpt": 5, "best.ckpt": 2}
    save(store, 6, is_best=True)
    assert contents(store) == {"step-00000005.ckpt": 5, "step-00000006.ckpt": 6, "best.ckpt": 6}
    assert store.steps() == [5, 6] and store.newest_good() == 6


def test_the_best_is_copied_where_there_are_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*arguments: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    store = CheckpointStore(tmp_path)
    save(store, 3, is_best=True)
    assert contents(store) == {"step-00000003.ckpt": 3, "best.ckpt": 3}
    assert store.newest_good() == 3


def test_a_new_run_replaces_an_old_one_once_it_has_something_to_put_in_its_place(tmp_path: Path) -> None:
    old = CheckpointStore(tmp_path, keep=3, best="x")
    for step in (1, 2, 9):
        save(old, step, is_best=True, n=-step)
    new = CheckpointStore(tmp_path, keep=3, best="x")
    assert len(contents(new)) == 4
    save(new, 2)
    assert contents(new) == {"step-00000002.ckpt": 2}
    continued = CheckpointStore(tmp_path)
    continued.load(2, {})
    save(continued, 3)
    assert contents(continued) == {"step-00000002.ckpt": 2, "step-00000003.ckpt": 3}


def test_damaged_checkpoints_are_named_and_the_one_before_is_used(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for step in (1, 2, 3):
        save(store, step)
    assert store.newest_good() == 3
    store.path(3).write_bytes(store.path(3).read_bytes()[:100])
    damaged = bytearray(store.path(2).read_bytes())
    damaged[50] ^= 1
    store.path(2).write_bytes(damaged)
    with pytest.warns(UserWarning, match="step 1 instead") as warned:
        assert store.newest_good() == 1
    messages = [str(warning.message) for warning in warned]
    assert "step-00000003.ckpt" in messages[0] and "truncated" in messages[0]
    assert "step-00000002.ckpt" in messages[1] and "checksum" in messages[1]
    store.load(1, {})
    save(store, 2)
    assert contents(store) == {"step-00000001.ckpt": 1, "step-00000002.ckpt": 2}, "the damaged ones are gone"
    for step in (1, 2):
        store.path(step).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no good checkpoint.*step-00000002.*step-00000001"):
        store.newest_good()


def test_leftovers_of_killed_runs_are_removed(tmp_path: Path) -> None:
    for name in (".step-00000002-ab12.ckpt", ".best-x_y.ckpt", "notes.txt"):
        (tmp_path / name).write_text("half")
    store = CheckpointStore(tmp_path)
    save(store, 5)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["notes.txt", "step-00000005.ckpt"]


def test_which_evaluation_is_the_best() -> None:
    highest, lowest = CheckpointStore("x", best="a"), CheckpointStore("x", best="a", mode="min")
    points = {"a": [(1, 0.5), (2, 0.7), (3, 0.6)], "b": [(3, 9.0)]}
    assert not highest.is_best(points, 3) and not lowest.is_best(points, 3)
    points["a"].append((4, 0.8))
    assert highest.is_best(points, 4) and not lowest.is_best(points, 4)
    points["a"].append((5, 0.1))
    assert lowest.is_best(points, 5) and not highest.is_best(points, 5)
    assert not highest.is_best(points, 6), "no evaluation was at this step"
    assert not CheckpointStore("x").is_best(points, 5) and not CheckpointStore("x", best="c").is_best(points, 5)


def test_an_empty_or_missing_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path).newest_good() is None and CheckpointStore(tmp_path / "none").newest_good() is None
    with pytest.raises(CheckpointError, match="does not exist"):
        CheckpointStore(tmp_path).load_best({})


def test_errors() -> None:
    with pytest.raises(ArgumentError, match="keep"):
        CheckpointStore("x", keep=0)
    with pytest.raises(ArgumentError, match="mode"):
        CheckpointStore("x", mode="highest")


def test_ranks_draw_from_streams_of_their_own() -> None:
    def draws(rank: int) -> tuple[float, float]:
        torch.manual_seed(1)
        generator = rank_generator(5, rank)
        return float(torch.rand((), generator=generator)), float(torch.rand(()))

    streams = [draws(rank) for rank in range(4)]
    assert streams == [draws(rank) for rank in range(4)]
    assert len({crop for crop, _ in streams}) == len({dropout for _, dropout in streams}) == 4
    torch.manual_seed(1)
    expected = float(torch.rand((), generator=torch.Generator().manual_seed(5))), float(torch.rand(()))
    assert streams[0] == expected, "one process draws as it always did"


def test_another_number_of_processes_begins_new_streams() -> None:
    one, two = RandomState(torch.Generator().manual_seed(1)), RandomState(torch.Generator().manual_seed(2))
    saved = {"processes": [one.state_dict()["processes"][0], two.state_dict()["processes"][0]]}
    results = []
    for _ in range(2):
        state = RandomState(torch.Generator())
        with pytest.warns(UserWarning, match="written by 2 processes and this run has 1"):
            state.load_state_dict(saved)
        results.append(float(torch.rand((), generator=state.generator)))
    assert results[0] == results[1] != float(torch.rand((), generator=torch.Generator().manual_seed(1)))
