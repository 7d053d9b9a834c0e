"""The training loop: its books, its schedule, and resuming as if nothing had happened."""

from __future__ import annotations

import logging
import os
import random
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from avsync.errors import ArgumentError, CheckpointError, ConfigError, DivergedError
from avsync.training.checkpoint import Stateful, save_checkpoint
from avsync.training.ema import averaged, weight_average
from avsync.training.engine import History, train_loop
from avsync.training.interrupts import StopSignals, TrainingInterrupted
from avsync.training.logging import read_log
from avsync.training.optimisation import Precision, Trained, cosine_schedule, set_learning_rate, step_schedule
from avsync.training.processes import free_cores, make_fabric
from avsync.training.random_state import RandomState
from avsync.training.store import CheckpointStore


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

    path = tmp_path / "state"
    options = {"checkpoint": path, "checkpoint_every": 1, "evaluate_every": 5, "log_every": 4, "progress": False}
    with pytest.raises(Stopped):
        train_loop("test", steps=20, step=until_stopped, state=first.state, evaluate=first.evaluate, **options)

    second = Run(99)
    got = second.go(20, evaluate=second.evaluate, evaluate_every=5, checkpoint=path, resume=True)
    assert torch.equal(second.weights(), whole.weights())
    assert got == expected
    assert first.evaluated + second.evaluated == whole.evaluated == [5, 10, 15, 20]


def test_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    path, run = tmp_path / "state", Run(0)
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
    assert "bar" in shown and "x=0.25" in shown


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
    store, model = CheckpointStore(tmp_path), nn.Linear(2, 2)
    options = {"steps": 9, "step": lambda now: {}, "state": {"model": model}, "checkpoint": tmp_path, "progress": False}
    save_checkpoint(store.path(1), {"model": model}, other=1)
    with pytest.raises(CheckpointError, match="training loop"):
        train_loop("test", resume=True, **options)
    save_checkpoint(store.path(1), {"another": model})
    with pytest.raises(CheckpointError, match=r"expected the state of \['model'\]"):
        train_loop("test", resume=True, **options)
    store.path(1).write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="no good checkpoint"):
        train_loop("test", resume=True, **options)
    for wrong in ({"precision": "16-true"}, {"strategy": "fsdp"}):
        with pytest.raises(ArgumentError, match="expected one of"):
            make_fabric(accelerator="cpu", **wrong)


def test_a_damaged_checkpoint_costs_only_the_steps_behind_the_one_before(tmp_path: Path) -> None:
    expected = Run(0)
    expected.go(12)
    Run(0).go(8, checkpoint=tmp_path, checkpoint_every=3)
    store = CheckpointStore(tmp_path)
    assert store.steps() == [3, 6, 8]
    store.path(8).write_bytes(store.path(8).read_bytes()[:-1])
    again = Run(1)
    with pytest.warns(UserWarning, match=r"step-00000008\.ckpt is damaged: truncated.*going on from step 6"):
        again.go(12, checkpoint=tmp_path, checkpoint_every=3, resume=True)
    assert torch.equal(again.weights(), expected.weights())


@pytest.mark.parametrize("mode", ["max", "min"])
def test_the_best_evaluation_is_kept_wherever_it_falls(tmp_path: Path, mode: str) -> None:
    scores = {2: 0.1, 4: 0.9, 6: 0.3, 8: 0.05, 10: 0.4}
    run, weights = Run(0), {}

    def evaluate(now: int) -> dict[str, float]:
        weights[now] = run.weights()
        return {"score": scores[now]}

    store = CheckpointStore(tmp_path, keep=1, best="score", mode=mode)
    run.go(10, evaluate=evaluate, evaluate_every=2, checkpoint=store, checkpoint_every=5)
    assert store.steps() == [10]
    other = Run(1)
    assert store.load_best(other.state)["step"] == (4 if mode == "max" else 8)
    assert torch.equal(other.weights(), weights[4 if mode == "max" else 8])


def test_logs_of_an_interrupted_run_are_those_of_an_undisturbed_one(tmp_path: Path) -> None:
    whole = Run(0)
    history = whole.go(20, evaluate=whole.evaluate, evaluate_every=5, logs=tmp_path / "whole")
    rows = read_log(tmp_path / "whole")
    assert sorted(rows) == sorted((step, name, value) for name, points in history.items() for step, value in points)
    assert {step for step, name, _ in rows if name == "norm"} == {5, 10, 15, 20}

    parts = {"logs": tmp_path / "parts", "checkpoint": tmp_path / "state", "checkpoint_every": 6}
    first = Run(0)
    first.go(
        15, evaluate=first.evaluate, evaluate_every=5, **parts
    )  # its last entry, at step 15, is one that the whole run lacks
    CheckpointStore(tmp_path / "state").path(15).unlink()
    with (tmp_path / "parts" / "metrics.csv").open("a") as file:
        file.write("16,loss,0.12")  # a row that was not finished
    second = Run(1)
    second.go(20, evaluate=second.evaluate, evaluate_every=5, resume=True, **parts)
    assert (tmp_path / "parts" / "metrics.csv").read_text() == (tmp_path / "whole" / "metrics.csv").read_text()
    # What TensorBoard shows of the event files of both runs.
    events = EventAccumulator(str(tmp_path / "parts"))
    events.Reload()
    shown = [(event.step, event.value) for event in events.Scalars("test/loss")]
    assert [step for step, _ in shown] == [4, 8, 12, 16, 20]
    assert [value for _, value in shown] == pytest.approx([value for _, value in history["loss"]])


def test_a_new_run_begins_new_logs(tmp_path: Path) -> None:
    for _ in range(2):
        Run(0).go(4, logs=tmp_path)
    assert [row[:2] for row in read_log(tmp_path)] == [(4, "loss"), (4, "double")]


def test_mixed_precision_leaves_inputs_and_parameters_alone() -> None:
    """641 and 642 pixels are one number in bfloat16: what Fabric would make of landmarks, were they not kept from it."""
    fabric = make_fabric(accelerator="cpu", precision="bf16-mixed")
    model = nn.Linear(1, 1)
    seen: list[Tensor] = []

    def difference(x: Tensor) -> Tensor:
        seen.append(x)
        product = model(x)
        seen.append(product)
        return product.float().sum()

    trained = Trained(fabric, difference, [model], torch.optim.SGD(model.parameters(), lr=0.1))
    loss = trained(torch.tensor([[641.0], [642.0]]))
    fabric.backward(loss)
    assert seen[0].dtype == torch.float32 and float(seen[0][1] - seen[0][0]) == 1.0
    assert seen[1].dtype == torch.bfloat16, "the model itself ran in half precision"
    assert loss.dtype == torch.float32 and model.weight.dtype == torch.float32
    assert float(model.weight.grad) == pytest.approx(1283, rel=0.01)


def test_float16_scales_its_loss_clips_true_gradients_and_remembers_the_scale(tmp_path: Path) -> None:
    """On the CPU, with the scaler that a GPU would use: Fabric itself offers float16 on GPUs only."""

    def fabric_16() -> Fabric:
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
        fabric = Fabric(accelerator="cpu", plugins=[MixedPrecision("16-mixed", "cpu", scaler=scaler)])
        fabric.launch()
        return fabric

    def run(steps: int, *, resume: bool) -> tuple[Tensor, float, list[float]]:
        torch.manual_seed(0)
        fabric, model = fabric_16(), nn.Linear(4, 1)
        trained = Trained(fabric, lambda x: model(x).float().square().mean(), [model], torch.optim.SGD(model.parameters(), 0.1))
        norms: list[float] = []

        def step(now: int) -> dict[str, Tensor]:
            trained.optimizer.zero_grad()
            loss = trained(torch.full((2, 4), 1.0 + now / 8))
            fabric.backward(loss)
            norms.append(float(trained.clip([model], 0.05)[0]))
            assert float(torch.cat([p.grad.flatten() for p in model.parameters()]).norm()) == pytest.approx(0.05, rel=1e-3)
            trained.optimizer.step()
            return {"loss": loss}

        state = {"model": model, "optimizer": trained.optimizer, "precision": Precision(fabric)}
        train_loop("test", steps=steps, step=step, state=state, checkpoint=tmp_path, resume=resume, progress=False)
        return model.weight.detach().clone(), fabric.strategy.precision.scaler.get_scale(), norms

    whole, scale, norms = run(8, resume=False)
    assert scale == 4 * 1024, "the scale has grown twice"
    assert 0.05 < max(norms) < 100, "norms are of the gradients, not of the scaled ones"
    run(5, resume=False)
    resumed, again, _ = run(8, resume=True)
    assert torch.equal(whole, resumed) and again == scale


def test_accumulated_gradients_are_those_of_the_whole() -> None:
    fabric, model = make_fabric(accelerator="cpu"), nn.Linear(3, 1)
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    trained = Trained(fabric, lambda part: model(part).square().mean(), [model], torch.optim.SGD(model.parameters(), lr=1.0))
    fabric.backward(trained(x))
    expected = model.weight.grad.clone()
    trained.optimizer.zero_grad()
    for part in range(4):
        with trained.gradients_stay(part < 3):
            fabric.backward(trained(x[2 * part : 2 * part + 2]) / 4)
    assert torch.allclose(model.weight.grad, expected, rtol=1e-5)


@given(st.integers(1, 30), st.floats(0.0, 0.999))
def test_average_of_weights_against_its_definition(updates: int, decay: float) -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    average = weight_average(model, decay=decay)
    expected = float(model[0].weight.detach())
    for number in range(1, updates + 1):
        model[0].weight.data.fill_(number)
        model[1].running_mean.fill_(number)
        average.update_parameters(model)
        share = min(decay, (1 + number) / (10 + number))
        expected = share * expected + (1 - share) * number
    held = {name: value.clone() for name, value in model.state_dict().items()}
    with averaged(model, average) as shown:
        assert shown is model and float(model[0].weight.detach()) == pytest.approx(expected, rel=1e-4)
        assert float(model[1].running_mean) == updates, "buffers are copied, not averaged"
    assert all(torch.equal(held[name], value) for name, value in model.state_dict().items())


def test_average_of_weights_refuses_impossible_decays() -> None:
    for decay in (-0.1, 1.0):
        with pytest.raises(ConfigError, match="decay"):
            weight_average(nn.Linear(1, 1), decay=decay)


def finite(store: CheckpointStore) -> bool:
    """Whether every tensor of every checkpoint of the folder is finite."""
    models = [torch.load(file, weights_only=True)["state"]["model"] for file in store.folder.glob("*.ckpt")]
    return bool(models) and all(bool(value.isfinite().all()) for model in models for value in model.values())


@pytest.mark.parametrize("bad", random.Random(0).sample(range(7, 60), 10))
def test_nan_is_noticed_within_ten_steps_and_never_saved(tmp_path: Path, bad: int) -> None:
    run, taken = Run(0), []

    def step(now: int) -> dict[str, Tensor]:
        taken.append(now)
        if now == bad:
            with torch.no_grad():
                run.model[0].bias[3] = torch.nan  # what an optimiser makes of a NaN batch
        return run.step(now)

    store = CheckpointStore(tmp_path)
    with pytest.raises(
        DivergedError, match=r"`loss` is nan at step \d+; .*last good checkpoint is .*step-\d+\.ckpt.*learning rate"
    ):
        train_loop(
            "test", steps=80, step=step, state=run.state, checkpoint=store, checkpoint_every=6, log_every=10, progress=False
        )
    assert taken[-1] - bad < 10
    assert finite(store) and max(store.steps()) == 6 * ((bad - 1) // 6), "the last good checkpoint is kept, and no later one"
    again = Run(1)
    again.go(80, checkpoint=store, resume=True)
    assert again.weights().isfinite().all()


@pytest.mark.parametrize("kept", [True, False])
def test_weights_that_are_not_finite_are_noticed_where_no_scalar_shows_them(tmp_path: Path, kept: bool) -> None:
    model = nn.Linear(2, 2)

    def step(now: int) -> dict[str, Tensor]:
        model.weight.data.fill_(torch.inf if now == 4 else 1.0)
        return {"loss": torch.tensor(1.0)}

    options = {"checkpoint": tmp_path, "checkpoint_every": 3} if kept else {}
    with pytest.raises(DivergedError, match=r"1 of 2 tensors hold NaN or infinities, the first is `model\.weight`"):
        train_loop("test", steps=4, step=step, state={"model": model}, progress=False, **options)
    assert not kept or CheckpointStore(tmp_path).steps() == [3]


def test_a_model_that_is_not_finite_is_not_evaluated(tmp_path: Path) -> None:
    run = Run(0)
    with pytest.raises(DivergedError, match=r"`x` is inf at step 2; the run was stopped, and there is no checkpoint"):
        train_loop(
            "test",
            steps=9,
            step=lambda now: {"x": torch.tensor(1.0 if now < 2 else torch.inf)},
            state={},
            evaluate=run.evaluate,
            evaluate_every=2,
            progress=False,
        )
    assert run.evaluated == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_state_and_names_resume(tmp_path: Path, number: signal.Signals) -> None:
    run, handler = Run(0), signal.getsignal(number)

    def step(now: int) -> dict[str, Tensor]:
        if now == 3:
            signal.raise_signal(number)
        return run.step(now)

    with pytest.raises(TrainingInterrupted, match=rf"{number.name} after step 3 of 20.*--resume.*step-00000003") as caught:
        train_loop("test", steps=20, step=step, state=run.state, checkpoint=tmp_path, progress=False)
    assert caught.value.exit_status == 128 + number and isinstance(caught.value, KeyboardInterrupt)
    assert CheckpointStore(tmp_path).steps() == [3]
    assert signal.getsignal(number) is handler, "the handlers are put back"


def test_a_second_signal_interrupts_at_once() -> None:
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGINT)
        assert signals.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_without_a_checkpoint_ctrl_c_is_left_alone() -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        train_loop("test", steps=3, step=lambda now: signal.raise_signal(signal.SIGINT) or {}, state={}, progress=False)
    assert not isinstance(caught.value, TrainingInterrupted)


def test_eleven_signals_in_a_row_make_progress(tmp_path: Path) -> None:
    whole = Run(0)
    expected = whole.go(20)
    for _ in range(11):
        run = Run(0)

        def step(now: int, run: Run = run) -> dict[str, Tensor]:
            signal.raise_signal(signal.SIGTERM)
            return run.step(now)

        with pytest.raises(TrainingInterrupted):
            train_loop(
                "test", steps=20, step=step, state=run.state, checkpoint=tmp_path, resume=True, log_every=4, progress=False
            )
    assert max(CheckpointStore(tmp_path).steps()) == 11
    last = Run(5)
    assert last.go(20, checkpoint=tmp_path, resume=True) == expected
    assert torch.equal(last.weights(), whole.weights())


def test_checkpoints_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every reading of the clock is 10 seconds after the one before, and so is every step."""
    readings = iter(range(0, 10_000, 10))
    monkeypatch.setattr("avsync.training.engine.time", SimpleNamespace(monotonic=lambda: float(next(readings))))
    store, seen = CheckpointStore(tmp_path, keep=99), []
    Run(0).go(
        9, checkpoint=store, checkpoint_seconds=25.0, evaluate=lambda now: seen.append(store.steps()) or {}, evaluate_every=1
    )
    assert store.steps() == [3, 6, 9], "30 seconds after the beginning and after each checkpoint"


def test_two_runs_never_share_a_folder(tmp_path: Path) -> None:
    store, other = CheckpointStore(tmp_path / "run"), CheckpointStore(tmp_path / "run")
    with store.lock():
        with (
            pytest.raises(CheckpointError, match=r"another training run writes to .*run and holds .*\.lock"),
            other.lock(seconds=0),
        ):
            pass
        with CheckpointStore(tmp_path / "elsewhere").lock(seconds=0):
            pass
    with other.lock(seconds=0):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be used"), CheckpointStore(tmp_path / "file" / "run").lock():
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_killed_run_frees_its_folder(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with CheckpointStore(tmp_path).lock():
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1]) and (tmp_path / ".lock").exists()
    with CheckpointStore(tmp_path).lock(seconds=0):
        pass


def test_a_run_holds_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avsync.training.store.LOCK_SECONDS", 0.0)
    second = Run(1)
    with pytest.raises(CheckpointError, match="another training run"):
        Run(0).go(4, checkpoint=tmp_path, evaluate=lambda now: second.go(4, checkpoint=tmp_path) and {})
    second.go(4, checkpoint=tmp_path)


def test_other_settings_are_named(tmp_path: Path) -> None:
    settings = {"rate": 0.1, "seed": 0, "spans": (3, 6)}
    run = Run(0)
    run.go(4, checkpoint=tmp_path, settings=settings)
    again = Run(1)
    before = again.weights()
    with pytest.raises(
        CheckpointError, match=r"step-00000004.*`rate` was 0\.1 and is 0\.2, `seed` was 0 and is 1; choose another"
    ):
        again.go(8, checkpoint=tmp_path, settings={**settings, "rate": 0.2, "seed": 1}, resume=True)
    assert torch.equal(again.weights(), before), "nothing was loaded"
    again.go(8, checkpoint=tmp_path, settings={**settings, "new": 1}, resume=True)


def test_resuming_reports_what_it_reuses(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="avsync")
    Run(0).go(4, checkpoint=tmp_path, resume=True)
    assert "no checkpoint in" in caplog.text and "begins at step 1" in caplog.text
    Run(0).go(8, checkpoint=tmp_path, resume=True)
    assert f"test: continues after step 4 of 8, from {CheckpointStore(tmp_path).path(4)}" in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        b"step,name,value\n1,loss,x\n",
        b"step,name,value\n1,loss\n",
        b"a,b\n",
        b"\xff\xfe\n",
        b'step,name,value\n1,"loss,2\n',
        b"\n",
    ],
)
def test_damaged_logs_are_named(tmp_path: Path, content: bytes) -> None:
    Run(0).go(4, checkpoint=tmp_path / "state", logs=tmp_path)
    (tmp_path / "metrics.csv").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"metrics\.csv is damaged: line \d"):
        Run(0).go(8, checkpoint=tmp_path / "state", logs=tmp_path, resume=True)


def test_free_cores_leaves_busy_ones_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    for load, expected in ((0.2, 6), (3.4, 5), (7.0, 1), (40.0, 1)):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0.0, 0.0), raising=False)
        assert free_cores() == expected
