"""Losses on several gloo processes, as a script: ``python tests/ranks.py FOLDER`` leaves what every process of 2 and of 4 got.

Torch is imported once and the processes are forked from there, so that a group of four starts in a fraction of a second. The script
is one of its own because forking pytest, whose torch may have threads by then, would not be safe.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

# DistributedDataParallel imports this in every process; here it is imported once, before the processes are forked.
import torch._dynamo
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from avsync import MultiScaleSyncLoss, SyncerConfig, SyncerPyramid, SyncerPyramidConfig
from avsync.errors import ShapeError
from avsync.losses.all_pairs import all_pairs_info_nce
from avsync.losses.distributed import (
    gather,
    log_sum_exp_across,
    reduce_windows_across,
    sum_across,
)
from avsync.losses.info_nce import InfoNCE, sampled_info_nce
from avsync.losses.negatives import sample_negatives
from avsync.models.syncer.interface import Embeddings
from avsync.training.objectives import LevelObjective, SyncerTrainingConfig, level_losses

WORLDS = (2, 4)
CLIPS, WINDOWS, EMBED = 4, 6, 8
"""Clips of all processes together, and sizes."""
Group = dist.ProcessGroup | None
Result = dict[str, Tensor]


class Encoders(nn.Module):
    """Two linear encoders and a temperature: enough to see whether gradients of parameters agree."""

    def __init__(self) -> None:
        super().__init__()
        self.audio, self.motion = nn.Linear(EMBED, EMBED), nn.Linear(EMBED, EMBED)
        self.log_temperature = nn.Parameter(torch.tensor(-1.0))

    def forward(self, loss: Callable[..., Tensor], motion: Tensor, audio: Tensor, mask: Tensor | None, group: Group) -> Tensor:
        return loss(self.motion(motion), self.audio(audio), self.log_temperature.exp(), mask, group)


def material() -> tuple[Tensor, Tensor, Tensor]:
    """Sound, motion and mask of the whole batch, in double precision; the second clip is half padding."""
    chance = torch.Generator().manual_seed(3)
    audio = torch.randn(CLIPS, WINDOWS, EMBED, generator=chance, dtype=torch.float64)
    motion = audio + torch.randn(CLIPS, WINDOWS, EMBED, generator=chance, dtype=torch.float64)
    mask = torch.ones(CLIPS, WINDOWS, dtype=torch.bool)
    mask[1, 3:] = False
    return motion, audio, mask


def all_pairs(m: Tensor, a: Tensor, temperature: Tensor, mask: Tensor | None, group: Group, **options: object) -> Tensor:
    return all_pairs_info_nce(m, a, temperature=temperature, mask=mask, group=group, **options)


def plain_scale(m: Tensor, a: Tensor, temperature: Tensor, mask: Tensor | None, group: Group) -> Tensor:
    return all_pairs(m, a, temperature, mask, group, min_temperature=1 / 60, exclusion=1)


def one_way_sum(m: Tensor, a: Tensor, temperature: Tensor, mask: Tensor | None, group: Group) -> Tensor:
    return all_pairs(m, a, temperature, mask, group, symmetric=False, reduction="sum")


def given_negatives(m: Tensor, a: Tensor, temperature: Tensor, mask: Tensor | None, group: Group) -> Tensor:
    indices = sample_negatives(CLIPS, WINDOWS, 5, mask=material()[2], generator=torch.Generator().manual_seed(5))
    first = 0 if group is None else dist.get_rank(group) * a.shape[0]
    indices = indices[first : first + a.shape[0]]
    return sampled_info_nce(m, a, indices, temperature=temperature, mask=mask, group=group)


def drawn_negatives(m: Tensor, a: Tensor, temperature: Tensor, mask: Tensor | None, group: Group) -> Tensor:
    loss = InfoNCE(num_negatives=5, temperature=0.5)
    return temperature * loss(m, a, generator=torch.Generator().manual_seed(5), mask=mask, group=group)


def weighted_windows(m: Tensor, a: Tensor, temperature: Tensor, mask: Tensor | None, group: Group) -> Tensor:
    """What trains two levels, windows counting by a weight that processes hold different sums of."""
    return temperature * trained(m, a, mask, group, objective="all_pairs", offset_weight=1.0)


def weighted_negatives(m: Tensor, a: Tensor, temperature: Tensor, mask: Tensor | None, group: Group) -> Tensor:
    return temperature * trained(m, a, mask, group, objective="info_nce", num_negatives=5)


def equal_windows(m: Tensor, a: Tensor, temperature: Tensor, mask: Tensor | None, group: Group) -> Tensor:
    return temperature * trained(m, a, mask, group, weighted=False, objective="all_pairs", offset_weight=1.0)


def trained(m: Tensor, a: Tensor, mask: Tensor | None, group: Group, *, weighted: bool = True, **settings: Any) -> Tensor:
    objectives = [LevelObjective(config=SyncerTrainingConfig(**settings)) for _ in range(2)]
    rank = 0 if group is None else dist.get_rank(group)
    weight = torch.linspace(0, 1, CLIPS * WINDOWS, dtype=torch.float64).reshape(CLIPS, WINDOWS).square()
    weight = weight[rank * a.shape[0] : (rank + 1) * a.shape[0]]
    # The second level has other values and fewer windows.
    levels = [Embeddings(m, a, mask), Embeddings(a[:, 1:], m[:, 1:], None if mask is None else mask[:, 1:])]
    chance = torch.Generator().manual_seed(5)
    weights = [weight, weight[:, 1:]] if weighted else None
    losses = level_losses(objectives, levels, chance, group, span=2, weights=weights)
    # Processes hold shares here, whose mean is the loss; the other losses are whole on every process.
    mean = sum_across([losses.detach()], group)[0] / (1 if group is None else dist.get_world_size(group))
    return (losses - losses.detach() + mean) @ losses.new_tensor([1.0, 0.3])


LOSSES = {
    loss.__name__: loss
    for loss in (
        all_pairs,
        plain_scale,
        one_way_sum,
        given_negatives,
        drawn_negatives,
        weighted_windows,
        weighted_negatives,
        equal_windows,
    )
}


def run(group: Group) -> Result:
    """Every loss with its gradients, averaged over processes as DistributedDataParallel does."""
    results: Result = {}
    rank, world = (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))
    own = slice(rank * CLIPS // world, (rank + 1) * CLIPS // world)
    motion, audio, mask = material()
    for name, loss in LOSSES.items():
        for masked in (False, True):
            torch.manual_seed(0)
            encoders = Encoders().double()
            model: nn.Module = encoders if group is None else DistributedDataParallel(encoders)
            value = model(loss, motion[own], audio[own], mask[own] if masked else None, group)
            # Not even a gradient that is thrown away may be NaN: who looks for another one would find it first.
            with warnings.catch_warnings(action="ignore"), torch.autograd.detect_anomaly():
                value.backward()
            key = f"{name}, {'masked' if masked else 'whole'}"
            results[f"{key}: loss"] = value.detach()
            results |= {f"{key}: {part}": parameter.grad for part, parameter in encoders.named_parameters()}
    results |= pieces(group, rank)
    results |= hidden(group, own)
    results |= held(group, own)
    if group is not None:
        unequal(group, rank)
    return results


def hidden(group: Group, own: slice) -> Result:
    """NaN behind the mask of one process reaches no gradient of any."""
    motion, audio, mask = material()
    motion[~mask], audio[~mask] = torch.nan, torch.nan
    results: Result = {}
    for name in ("all_pairs", "one_way_sum", "given_negatives"):
        m, a = motion[own].clone().requires_grad_(), audio[own].clone().requires_grad_()
        LOSSES[name](m, a, torch.tensor(0.3, dtype=torch.float64), mask[own], group).backward()
        results |= {f"hidden {name} motion": m.grad, f"hidden {name} audio": a.grad}
    return results


class Guided(nn.Module):
    """Somebody's module that holds a sync loss."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        config = SyncerPyramidConfig(
            syncer=SyncerConfig(audio_features=3, points=7, width=4, embed=4), num_levels=2, audio="custom"
        )
        self.loss = MultiScaleSyncLoss(syncers=SyncerPyramid(config))
        self.mix = nn.Linear(14, 14)

    def forward(self, landmarks: Tensor, audio: Tensor) -> Tensor:
        return self.loss(self.mix(landmarks.flatten(2)).unflatten(2, (7, 2)), audio, reference=landmarks[:, 0]).total


def held(group: Group, own: slice) -> Result:
    """A module that holds a sync loss, in DistributedDataParallel: value, gradient, and the frozen weights afterwards."""
    chance = torch.Generator().manual_seed(4)
    landmarks, audio = torch.rand(CLIPS, 40, 7, 2, generator=chance), torch.randn(CLIPS, 160, 3, generator=chance)
    module = Guided()
    before = {name: value.clone() for name, value in module.loss.syncers.state_dict().items()}
    model: nn.Module = module if group is None else DistributedDataParallel(module)
    value = model(landmarks[own], audio[own])
    value.backward()
    after = module.loss.syncers.state_dict()
    assert not any("syncers" in name for name, _ in model.named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in before)
    world = 1 if group is None else dist.get_world_size(group)
    mean = sum_across([value.detach()], group)[0] / world
    assert module.mix.weight.grad is not None
    return {"held loss": mean, "held grad": module.mix.weight.grad}


def unequal(group: Group, rank: int) -> None:
    """A smaller last batch, or a mask on one process only, raises the same named error on every process, which can then go on."""
    motion, audio, mask = (x[:2] for x in material())
    fewer = motion[: 2 - (rank == 0)], audio[: 2 - (rank == 0)]
    one_mask = mask if rank == 0 else None
    drawn = torch.zeros(2, WINDOWS, 3, dtype=torch.int64)
    calls: list[tuple[str, Callable[[], object]]] = [
        ("motion", lambda: all_pairs_info_nce(*fewer, group=group)),
        ("mask", lambda: all_pairs_info_nce(motion, audio, mask=one_mask, group=group)),
        ("motion", lambda: sampled_info_nce(*fewer, drawn[: len(fewer[0])], group=group)),
        ("mask", lambda: sampled_info_nce(motion, audio, drawn, mask=one_mask, group=group)),
        ("motion", lambda: InfoNCE(num_negatives=3)(*fewer, group=group)),
        ("mask", lambda: InfoNCE(num_negatives=3)(motion, audio, mask=one_mask, group=group)),
        ("tensors", lambda: gather([fewer[0]], group)),
        ("tensors", lambda: sum_across([fewer[0]], group)),
        ("tensors", lambda: log_sum_exp_across([fewer[0]], group)),
    ]
    calls += [
        ("mask", partial(trained, motion, audio, one_mask, group, weighted=False, objective=objective))
        for objective in ("all_pairs", "info_nce", "contrastive")
    ]
    for name, call in calls:
        with pytest.raises(ShapeError, match=f"`{name}`.*all processes"):
            call()


def pieces(group: Group, rank: int) -> Result:
    """The collectives by themselves; every process weighs what it gets differently."""
    x = torch.full((2, 3), float(rank + 1), requires_grad=True)
    gathered = gather([x], group)[0]
    ((rank + 1) * gathered * torch.arange(gathered.numel()).reshape(gathered.shape)).sum().backward()
    y = torch.tensor(float(rank), requires_grad=True)
    total = sum_across([y], group)[0]
    ((rank + 1) * total).backward()
    none = reduce_windows_across([torch.full((1, 2), float(rank))], [None], "none", group)[0]
    return joined_pieces(group, rank) | {
        "gathered": gathered.detach(),
        "gather grad": x.grad,
        "total": total.detach(),
        "total grad": y.grad,
        "none": none,
    }


def joined_pieces(group: Group, rank: int) -> Result:
    """Collectives over tensors of several shapes and types, one of which nothing depends on in backward."""
    given = [torch.full((1, 2), float(rank)), torch.full((2,), rank + 0.1, dtype=torch.float64), torch.ones(1, 1)]
    for x in given:
        x.requires_grad_()
    gathered = gather(given, group)
    sums = sum_across(given, group)
    (gathered[0][0].sum() + 2 * gathered[1].sum() + 3 * sums[0].sum() + sums[2].sum()).backward()
    large = torch.tensor([1000.0 * rank, -1000.0 * rank], requires_grad=True)
    moderate = torch.tensor([float(rank)], requires_grad=True)
    logs = [*log_sum_exp_across([large], group), *log_sum_exp_across([moderate], group, moderate=True)]
    (logs[0].sum() + logs[1].sum()).backward()
    assert [x.dtype for x in gathered] == [x.dtype for x in sums] == [x.dtype for x in given]
    results = {f"joined gathered {i}": x.detach() for i, x in enumerate(gathered)}
    results |= {f"joined sum {i}": x.detach() for i, x in enumerate(sums)}
    results |= {f"joined grad {i}": x.grad for i, x in enumerate(given)}
    results |= {"log sum large": logs[0].detach(), "log sum large grad": large.grad}
    return results | {"log sum moderate": logs[1].detach(), "log sum moderate grad": moderate.grad}


def main(folder: Path) -> int:
    """Fork the groups, one after the other; the exit status is the number of processes that failed."""
    torch.set_num_threads(1)
    failures = 0
    for world in WORLDS:
        children: list[int] = []
        for rank in range(world):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the machine's own name need not resolve
                    dist.init_process_group("gloo", init_method=f"file://{folder}/store{world}", rank=rank, world_size=world)
                    torch.save(run(dist.group.WORLD), folder / f"{world}-{rank}.pt")
                    dist.barrier()
                    status = 0
                finally:
                    os._exit(status)
            children.append(child)
        failures += sum(os.waitpid(child, 0)[1] != 0 for child in children)
    return failures


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
