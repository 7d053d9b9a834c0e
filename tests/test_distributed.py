"""Losses over several processes are those of one process that holds the whole batch: values and gradients."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from avsync.errors import ArgumentError, ShapeError
from avsync.losses.distributed import (
    gather,
    gather_mask,
    log_sum_exp_across,
    rank_and_size,
    reduce_windows_across,
    sum_across,
)
from avsync.losses.negatives import excluded_pairs
from tests import ranks

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Tensor]]]:
    """What every process of 2 and of 4 got, by the number of processes."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    script = [sys.executable, str(ROOT / "tests" / "ranks.py"), str(folder)]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr
    return {
        world: [torch.load(folder / f"{world}-{rank}.pt", weights_only=True) for rank in range(world)] for world in ranks.WORLDS
    }


@pytest.mark.parametrize("world", ranks.WORLDS)
def test_losses_and_gradients_are_those_of_one_process(processes: dict[int, list[dict[str, Tensor]]], world: int) -> None:
    alone = ranks.run(None)
    compared = [key for key in alone if ": " in key]
    assert len(compared) == 2 * len(ranks.LOSSES) * 6
    for key in compared:
        scale = max(1.0, float(alone[key].abs().max()))
        for of_rank in processes[world]:
            assert torch.allclose(of_rank[key], alone[key], rtol=0, atol=1e-12 * scale), key
        assert float(alone[key].abs().max()) > 0, f"{key} is zero, which would agree with anything"


@pytest.mark.parametrize("world", ranks.WORLDS)
def test_a_module_that_holds_the_sync_loss(processes: dict[int, list[dict[str, Tensor]]], world: int) -> None:
    """The frozen syncers are no parameters that DistributedDataParallel could broadcast or reduce, and the gradient is the mean."""
    alone = ranks.held(None, slice(None))
    for of_rank in processes[world]:
        for key, value in alone.items():
            assert torch.allclose(of_rank[key], value, rtol=1e-4, atol=1e-6), key
    assert float(alone["held grad"].abs().max()) > 0


@pytest.mark.parametrize("world", ranks.WORLDS)
def test_negatives_of_other_processes_count(processes: dict[int, list[dict[str, Tensor]]], world: int) -> None:
    """Without a group the loss of a process is another one: the agreement above is no accident of the material."""
    motion, audio, _ = ranks.material()
    torch.manual_seed(0)
    encoders = ranks.Encoders().double()
    own = slice(0, ranks.CLIPS // world)
    lonely = encoders(ranks.all_pairs, motion[own], audio[own], None, None)
    assert processes[world][0]["all_pairs, whole: loss"] > lonely + 0.1


@pytest.mark.parametrize("world", ranks.WORLDS)
def test_collectives_and_their_gradients(processes: dict[int, list[dict[str, Tensor]]], world: int) -> None:
    weight = sum(range(1, world + 1))  # each process multiplies what it gets by its rank + 1
    for rank, of_rank in enumerate(processes[world]):
        assert of_rank["gathered"][:, 0].tolist() == [float(r + 1) for r in range(world) for _ in range(2)]
        expected = weight * torch.arange(6 * rank, 6 * rank + 6).reshape(2, 3)
        assert torch.equal(of_rank["gather grad"], expected.float())
        assert of_rank["total"] == sum(range(world)) and of_rank["total grad"] == weight
        assert of_rank["none"].tolist() == [[rank, rank]]


@pytest.mark.parametrize("world", ranks.WORLDS)
def test_collectives_over_several_tensors(processes: dict[int, list[dict[str, Tensor]]], world: int) -> None:
    for rank, got in enumerate(processes[world]):
        assert got["joined gathered 0"].tolist() == [[float(r)] * 2 for r in range(world)]
        assert got["joined gathered 1"].tolist() == [r + 0.1 for r in range(world) for _ in range(2)]
        assert got["joined sum 0"].tolist() == [[float(sum(range(world)))] * 2]
        assert got["joined sum 2"].tolist() == [[float(world)]]
        # Every process takes the first process's row of what is gathered, and thrice the sum.
        assert got["joined grad 0"].tolist() == [[world * (rank == 0) + 3.0 * world] * 2]
        assert got["joined grad 1"].tolist() == [2.0 * world] * 2
        assert got["joined grad 2"].tolist() == [[float(world)]]


@pytest.mark.parametrize("world", ranks.WORLDS)
def test_logarithms_of_sums_do_not_overflow(processes: dict[int, list[dict[str, Tensor]]], world: int) -> None:
    values = torch.arange(float(world))
    for rank, got in enumerate(processes[world]):
        assert got["log sum large"].tolist() == [1000.0 * (world - 1), 0.0]
        # All processes call backward: each sees its share of the sum once a process.
        assert got["log sum large grad"].tolist() == [world * float(rank == world - 1), world * float(rank == 0)]
        assert got["log sum moderate"].item() == pytest.approx(values.logsumexp(0).item(), rel=1e-6)
        assert got["log sum moderate grad"].item() == pytest.approx(world * values.softmax(0)[rank].item(), rel=1e-6)


@pytest.mark.parametrize("world", ranks.WORLDS)
def test_padding_reaches_no_gradient_of_any_process(processes: dict[int, list[dict[str, Tensor]]], world: int) -> None:
    """The script itself tries unequal batches and masks on one process, and fails unless each raises a named error on every process."""
    alone = ranks.run(None)
    for key in (key for key in alone if key.startswith("hidden")):
        parts = (
            torch.cat([of_rank[key] for of_rank in processes[world]]) / world
        )  # every process calls backward on the whole loss
        assert parts.isfinite().all() and parts.any()
        torch.testing.assert_close(parts, alone[key])


def test_one_process_needs_no_group() -> None:
    x = torch.rand(2, 3, requires_grad=True)
    mask = torch.tensor([[True, False, True]] * 2)
    assert gather_mask(mask, None) is mask
    assert gather_mask(None, None) is None
    assert gather([x, x], None)[1] is x and log_sum_exp_across([x], None)[0] is x
    assert [part is x for part in sum_across([x, mask.float()], None)] == [True, False]
    assert rank_and_size(None) == (0, 1)
    assert float(reduce_windows_across([x.detach()], [mask], "mean")[0]) == pytest.approx(float(x.detach()[mask].mean()))


def test_errors() -> None:
    with pytest.raises(ShapeError, match="floating"):
        gather([torch.ones(2, dtype=torch.int64)], None)
    with pytest.raises(ShapeError, match="floating"):
        sum_across([torch.ones(2, dtype=torch.int64)], None)
    with pytest.raises(ShapeError, match=r"`tensors`: expected a floating-point tensor, got torch\.int64"):
        log_sum_exp_across([torch.ones(2), torch.ones(2, dtype=torch.int64)], None)
    with pytest.raises(ArgumentError, match="reduction"):
        reduce_windows_across([torch.ones(1, 1)], [None], "max")


@pytest.mark.parametrize("masked", [False, True])
def test_rows_of_excluded_pairs(masked: bool) -> None:
    mask = torch.tensor([[True, True, False]] * 4) if masked else None
    whole = excluded_pairs(4, 3, exclusion=1, mask=mask)
    part = excluded_pairs(4, 3, exclusion=1, mask=mask, rows=(1, 3))
    assert whole is not None and part is not None
    assert torch.equal(part, whole[3:9])
