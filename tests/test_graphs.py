"""CUDA graphs in training, as far as a CPU shows: the update reads no number, draws nothing, and replays with the same numbers.

The capture itself needs a GPU; the last tests run there.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils._python_dispatch import TorchDispatchMode

from avsync.audio import LogMel
from avsync.corpus import ClipBank, SyntheticCorpus
from avsync.errors import ArgumentError
from avsync.models import SyncerPyramid
from avsync.training import GanSteps, GanTrainingConfig, SyncerTrainingConfig, make_fabric, train_generator
from avsync.training.graphs import CudaRecorder, GraphedStep, make_capturable, use_cuda_graphs
from avsync.training.optimisation import set_learning_rate
from avsync.training.syncers import SyncerSteps
from benchmarks.gpu import TINY, gan_models

GAN = GanTrainingConfig(steps=6, batch_size=4, frames=12, generator_lr=1e-3, discriminator_lr=1e-3, reconstruction_weight=0.1)
READS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique", "lift_fresh")
"""Operations that bring numbers of the device to the host, or Python's to the device."""
DRAWS = ("rand", "normal", "uniform_", "bernoulli", "multinomial", "native_dropout")


class Queue(TorchDispatchMode):
    """Mode that refuses operations a GPU's queue would wait for, and random ones, as a capture does."""

    def __init__(self, *, draws: bool = False) -> None:
        super().__init__()
        self.draws, self.open, self.calls, self._drawn = draws, False, 0, set[int]()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        name = function.overloadpacket.__name__
        masks = [x for x in args[1] if x is not None and x.dtype == torch.bool] if name in ("index", "index_put_") else []
        random = any(name.startswith(draw) for draw in DRAWS)
        # The host may read what it has just drawn on the CPU itself.
        own = name == "_local_scalar_dense" and args[0].data_ptr() in self._drawn
        if not self.open and ((name in READS and not own) or masks or (random and not self.draws)):
            raise AssertionError(f"{name} in a step that a CUDA graph captures")
        result = function(*args, **(kwargs or {}))
        if random and isinstance(result, Tensor) and result.numel() < 3:
            self._drawn.add(result.data_ptr())
        return result


@pytest.fixture
def adam_reads_its_step(monkeypatch: pytest.MonkeyPatch) -> Queue:
    """A queue that is open while Adam steps: on a CPU Adam reads its step number, which ``capturable`` forbids on a GPU."""
    queue, step = Queue(), torch.optim.Adam.step

    def opened(*arguments: Any, **options: Any) -> Any:
        queue.open = True
        try:
            return step(*arguments, **options)
        finally:
            queue.open = False

    monkeypatch.setattr(torch.optim.Adam, "step", opened)
    return queue


@pytest.fixture(autouse=True)
def _values_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks of values look at tensors on the CPU only; here they behave as on a GPU."""
    for name, module in list(sys.modules.items()):
        if name.startswith("avsync.") and "values_known" in vars(module):
            monkeypatch.setattr(module, "values_known", lambda *values: False)


class StandIn:
    """Recorder that runs the recorded function again at every replay, in a closed queue."""

    def __init__(self, queue: Queue) -> None:
        self.queue, self.log = queue, list[str]()

    def aside(self, function: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        self.log.append("eager")
        return function()

    def record(self, function: Callable[[], Mapping[str, Tensor]]) -> tuple[Callable[[], object], Mapping[str, Tensor]]:
        self.log.append("record")
        outputs: dict[str, Tensor] = {}

        def replay() -> None:
            self.log.append("replay")
            with self.queue:
                outputs.update(function())

        return replay, outputs


@pytest.fixture(scope="module")
def bank() -> ClipBank:
    return ClipBank(SyntheticCorpus(speakers=3, clips_per_speaker=1, seconds=6.0), features=LogMel())


def trained(bank: ClipBank, config: GanTrainingConfig, **options: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    generator, discriminators, sync_loss = gan_models(TINY, torch.device("cpu"))
    fabric = make_fabric(accelerator="cpu")
    history = train_generator(
        generator, discriminators, bank, config, sync_loss=sync_loss, fabric=fabric, progress=False, log_every=1, **options
    )
    return generator.state_dict() | {f"d.{name}": value for name, value in discriminators.state_dict().items()}, history


LIFELIKE = {
    "pair_weight": 0.0,
    "schedule": "cosine",
    "sync_target": "capped",
    "variety_weight": 1.0,
    "liveliness_weight": 1.0,
    "opening_weight": 1.0,
}


@pytest.mark.parametrize("changes", [{}, {"accumulate": 2, "ema_decay": 0.9}, LIFELIKE])
def test_a_recorded_step_trains_as_an_eager_one(
    bank: ClipBank, monkeypatch: pytest.MonkeyPatch, adam_reads_its_step: Queue, changes: dict[str, Any]
) -> None:
    config = dataclasses.replace(GAN, **changes)
    expected, history = trained(bank, config)
    recorder, prepared = StandIn(adam_reads_its_step), []
    monkeypatch.setattr("avsync.training.gan.use_cuda_graphs", lambda asked, fabric: True)
    monkeypatch.setattr("avsync.training.gan.CudaRecorder", lambda device: recorder)
    monkeypatch.setattr("avsync.training.gan.make_capturable", lambda optimizer, device: prepared.append(optimizer))
    got, recorded_history = trained(bank, config)
    assert recorder.log == ["eager"] * 3 + ["record"] + ["replay"] * 3
    assert len(prepared) == 2 and adam_reads_its_step.calls > 100
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert history == recorded_history


def test_the_update_draws_and_reads_nothing(bank: ClipBank, adam_reads_its_step: Queue) -> None:
    """And the queue does refuse: a step that draws inside is caught."""
    generator, discriminators, sync_loss = gan_models(TINY, torch.device("cpu"))
    fabric = make_fabric(accelerator="cpu")
    options = {"sync_loss": sync_loss, "fabric": fabric, "augment": None, "cuda_graphs": False}
    steps = GanSteps(generator.train(), discriminators=discriminators.train(), bank=bank, config=GAN, **options)
    drawn = steps.draw()
    steps.update(drawn)  # as the eager steps before a recording: constants of the shapes are made once and kept
    with adam_reads_its_step:
        scalars = steps.update(drawn)
    assert {"frame", "window", "pair", "sync", "generator", "discriminator", "grad"} <= set(scalars)
    with adam_reads_its_step, pytest.raises(AssertionError, match="randn"):
        torch.randn(3)
    with adam_reads_its_step, pytest.raises(AssertionError, match="_local_scalar_dense"):
        float(scalars["grad"])


@pytest.mark.parametrize(
    "changes", [{}, {"objective": "info_nce"}, {"offset_weight": 1.0, "pause_weight": 0.5, "ema_decay": 0.9}]
)
def test_a_step_of_syncers_reads_nothing_but_its_own_draws(
    bank: ClipBank, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    queue = Queue(draws=True)
    # On a GPU, too, the bank and the counter of the average lie on the CPU.
    for owner, name in ((torch.optim.AdamW, "step"), (ClipBank, "sample"), (AveragedModel, "update_parameters")):
        original = getattr(owner, name)

        def opened(*arguments: Any, original: Any = original, **options: Any) -> Any:
            queue.open = True
            try:
                return original(*arguments, **options)
            finally:
                queue.open = False

        monkeypatch.setattr(owner, name, opened)
    torch.manual_seed(0)
    pyramid = SyncerPyramid(TINY.syncers)
    config = SyncerTrainingConfig(steps=4, batch_size=4, frames=40, fine_frames=24, num_negatives=5, **changes)
    fabric = make_fabric(accelerator="cpu")
    steps = SyncerSteps(
        pyramid=pyramid.train(), bank=bank, config=config, levels=[0, 1], fabric=fabric, augment=None, compiled=False
    )
    with queue:
        scalars = steps.step(1)
    assert float(scalars["loss"]) > 0 and queue.calls > 100


def test_inputs_of_other_shapes_are_refused() -> None:
    step = GraphedStep(lambda inputs: {"sum": inputs[0].sum()}, recorder=StandIn(Queue()), warm_up=1)
    assert [float(step([torch.full((2,), value)])["sum"]) for value in (1.0, 2.0, 3.0)] == [2.0, 4.0, 6.0]
    first = step([torch.ones(2)])
    step([torch.zeros(2)])
    assert float(first["sum"]) == 2.0, "results are not overwritten by the next call"
    for wrong in (torch.ones(3), torch.ones(2, dtype=torch.float64)):
        with pytest.raises(ArgumentError, match="`inputs`: expected"):
            step([wrong])


def test_graphs_are_used_where_they_are_possible() -> None:
    fabric = make_fabric(accelerator="cpu")
    assert not use_cuda_graphs(None, fabric) and not use_cuda_graphs(False, fabric)
    with pytest.raises(ArgumentError, match="`cuda_graphs`: expected a GPU, got cpu"):
        use_cuda_graphs(True, fabric)


def test_capturable_optimisers_keep_rate_and_step_on_the_device() -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([parameter], lr=0.5)
    parameter.sum().backward()
    optimizer.step()
    make_capturable(optimizer, torch.device("cpu"))
    make_capturable(optimizer, torch.device("cpu"))
    (group,) = optimizer.param_groups
    rate = group["lr"]
    set_learning_rate(optimizer, 0.25)
    assert group["capturable"] and group["lr"] is rate and float(rate) == 0.125, "changed in place, as a graph needs it"
    set_learning_rate(optimizer, 0.5)
    assert float(rate) == 0.25 and isinstance(optimizer.state[parameter]["step"], Tensor)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_captured_step_trains_as_an_eager_one(bank: ClipBank, precision: str) -> None:
    results = []
    for cuda_graphs in (False, True):
        generator, discriminators, sync_loss = gan_models(TINY, torch.device("cuda"))
        fabric = make_fabric(accelerator="cuda", precision=precision)
        history = train_generator(
            generator,
            discriminators,
            bank,
            GAN,
            sync_loss=sync_loss,
            fabric=fabric,
            cuda_graphs=cuda_graphs,
            progress=False,
            log_every=1,
        )
        results.append([value for key in ("generator", "discriminator", "grad") for _, value in history[key]])
    # Kernels may sum in another order; products of bfloat16 magnify the difference.
    assert results[1] == pytest.approx(results[0], rel=1e-3 if precision == "32-true" else 1e-2, abs=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_steps_do_not_wait_for_the_device(bank: ClipBank) -> None:
    generator, discriminators, sync_loss = gan_models(TINY, torch.device("cuda"))
    fabric = make_fabric(accelerator="cuda")
    options = {"sync_loss": sync_loss, "fabric": fabric, "augment": None, "cuda_graphs": None}
    steps = GanSteps(generator.train(), discriminators=discriminators.train(), bank=bank, config=GAN, **options)
    for now in range(1, 7):
        # The first step copies constants to the device, and the recording waits by itself; every other step must not.
        torch.cuda.set_sync_debug_mode("default" if now in (1, 4) else "error")
        try:
            steps.step(now)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert isinstance(CudaRecorder(fabric.device), CudaRecorder)
