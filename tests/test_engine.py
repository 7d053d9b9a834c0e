"""The training loop: its books, its schedule, and resuming as if nothing had happened."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from avsync.errors import ArgumentError, CheckpointError
from avsync.training.checkpoint import RandomState, Stateful, save_checkpoint
from avsync.training.engine import History, cosine_schedule, make_fabric, set_learning_rate, step_schedule, train_loop


class Run:
    """A tiny training with everything that a resume must bring back: dropout, a generator, Adam and a schedule."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.05)
        self.chance = torch.Generator().manual_seed(7)
        self.evaluated: list[int] = []

    @property
    def state(self) -> dict[str, Stateful]:
        return {"model": self.model, "optimizer": self.optimizer, "random": RandomState(self.chance)}

    def step(self, now: int) -> dict[str, Tensor]:
        set_learning_rate(self.optimizer, cosine_schedule(now, 20, warm_up=3))
        x = torch.randn(6, 4, generator=self.chance)
        loss = (self.model(x) - x.sum(1, keepdim=True)).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss, "double": 2 * loss.detach().double()}

    def evaluate(self, now: int) -> dict[str, float]:
        self.evaluated.append(now)
        return {"norm": float(sum(p.detach().norm() for p in self.model.parameters()))}

    def go(self, steps: int, **options: object) -> History:
        return train_loop("test", steps=steps, step=self.step, state=self.state, progress=False, log_every=4, **options)

    def weights(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.model.parameters()])


@pytest.mark.parametrize("stop", [1, 4, 7, 19])
def test_a_resumed_run_is_an_undisturbed_one(tmp_path: Path, stop: int) -> None:
    whole = Run(0)
    expected = whole.go(20, evaluate=whole.evaluate, evaluate_every=5)

    class Stopped(Exception):
        pass

    first = Run(0)

    def until_stopped(now: int) -> dict[str, Tensor]:
        if now > stop:
            raise Stopped
        return first.step(now)

    path = tmp_path / "state.pt"
    options = {"checkpoint": path, "checkpoint_every": 1, "evaluate_every": 5, "log_every": 4, "progress": False}
    with pytest.raises(Stopped):
        train_loop("test", steps=20, step=until_stopped, state=first.state, evaluate=first.evaluate, **options)

    second = Run(99)
    got = second.go(20, evaluate=second.evaluate, evaluate_every=5, checkpoint=path, resume=True)
    assert torch.equal(second.weights(), whole.weights())
    assert got == expected
    assert first.evaluated + second.evaluated == whole.evaluated == [5, 10, 15, 20]


def test_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    path, run = tmp_path / "state.pt", Run(0)
    history = run.go(6, checkpoint=path)
    again = Run(1)
    assert again.go(6, checkpoint=path, resume=True) == history
    assert torch.equal(again.weights(), run.weights())
    assert again.go(6, checkpoint=path) != history  # without resume it starts anew


def test_books() -> None:
    values = iter(range(1, 11))
    history = train_loop(
        "test", steps=10, step=lambda now: {"x": torch.tensor(next(values))}, state={}, log_every=4, progress=False
    )
    assert history == {"x": [(4, 2.5), (8, 6.5), (10, 9.5)]}


def test_progress_bar_shows_the_values(capsys: pytest.CaptureFixture[str]) -> None:
    train_loop("bar", steps=2, step=lambda now: {"x": torch.tensor(0.25)}, state={}, log_every=1)
    shown = capsys.readouterr().err
    assert "bar" in shown and "x=0.250" in shown


@given(st.integers(1, 1000), st.integers(0, 100), st.floats(0, 0.5))
def test_cosine_schedule_rises_then_falls_to_its_floor(steps: int, warm_up: int, floor: float) -> None:
    factors = [cosine_schedule(step, steps, warm_up=warm_up, floor=floor) for step in range(1, steps + 1)]
    assert all(0 < factor <= 1 or (factor == pytest.approx(floor) and step == steps) for step, factor in enumerate(factors, 1))
    after = factors[warm_up:]
    assert after == sorted(after, reverse=True)
    if steps >= warm_up:
        assert factors[-1] == pytest.approx(floor)


def test_step_schedule_is_the_papers() -> None:
    assert [step_schedule(step, 75) for step in (1, 70, 71, 75)] == [1.0, 1.0, 0.1, 0.1]


def test_set_learning_rate_scales_what_each_group_began_with() -> None:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.1)]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    for factor in (0.5, 0.2, 1.0):
        set_learning_rate(optimizer, factor)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([factor, 0.1 * factor])


def test_make_fabric() -> None:
    fabric = make_fabric(accelerator="cpu")
    assert fabric.device == torch.device("cpu") and fabric.world_size == 1


def test_errors(tmp_path: Path) -> None:
    for options in ({"steps": 0}, {"steps": 1, "log_every": 0}, {"steps": 1, "checkpoint_every": 0}):
        with pytest.raises(ArgumentError, match="expected"):
            train_loop("test", step=lambda now: {}, state={}, progress=False, **options)
    path, model = tmp_path / "state.pt", nn.Linear(2, 2)
    save_checkpoint(path, {"model": model}, other=1)
    with pytest.raises(CheckpointError, match="training loop"):
        train_loop("test", steps=1, step=lambda now: {}, state={"model": model}, checkpoint=path, resume=True, progress=False)
    path.write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="damaged"):
        train_loop("test", steps=1, step=lambda now: {}, state={"model": model}, checkpoint=path, resume=True, progress=False)
