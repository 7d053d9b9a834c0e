"""Random state of a training run: one random generator per process, all of them in the checkpoint."""

from __future__ import annotations

import hashlib
import warnings
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


def _number(*parts: object) -> int:
    """Compute a seed below 2^63 from the text of the arguments, the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def rank_generator(seed: int, rank: int = 0) -> torch.Generator:
    """Return the random generator from which one process draws its crops, augmentation and negatives.

    Process 0 draws the same numbers as a run of one process. The generators of the others follow from seed and rank. Torch's
    global generator, which dropout uses and which begins in the same state on all processes, is seeded again on each of them.

    Args:
        seed: Seed of the training run.
        rank: Number of the process.

    Returns:
        A generator on the CPU.

    Example:
        >>> rank_generator(3, 1).initial_seed() == rank_generator(3, 2).initial_seed()
        False

    Source: ours.
    """
    if rank == 0:
        return torch.Generator().manual_seed(seed)
    torch.manual_seed(_number("dropout", torch.initial_seed(), rank))
    return torch.Generator().manual_seed(_number("crops", seed, rank))


class RandomState:
    """Random states of a training run, checkpointed like a module.

    What is saved are the states of all processes, so :meth:`state_dict` is a collective: every process must call it.

    Args:
        generator: The generator that the training draws from.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def state_dict(self) -> dict[str, Any]:
        """The states of the generator and of torch's global generators (dropout draws from them), of every process."""
        return {"processes": _of_all(_own_state(self.generator))}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the states of this process; those of GPUs only if the number of GPUs is the same.

        If the checkpoint was written by another number of processes, no random stream can continue. Each process then begins a
        new stream, which follows from the saved state, and a warning reports it.
        """
        saved = state_dict["processes"]
        rank, world = _rank_and_world()
        if len(saved) == world:
            _put_back(self.generator, saved[rank])
            return
        if rank == 0:
            warnings.warn(
                f"the checkpoint was written by {len(saved)} processes and this run has {world}: it continues from"
                " the same weights with other crops, so the final weights will differ",
                stacklevel=2,
            )
        origin = hashlib.sha256(saved[0]["generator"].numpy().tobytes()).hexdigest()
        self.generator.manual_seed(_number("crops", origin, rank, world))
        torch.manual_seed(_number("dropout", origin, rank, world))


def _rank_and_world() -> tuple[int, int]:
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def _own_state(generator: torch.Generator) -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"generator": generator.get_state(), "torch": torch.get_rng_state(), "cuda": cuda}


def _put_back(generator: torch.Generator, state: dict[str, Any]) -> None:
    generator.set_state(state["generator"])
    torch.set_rng_state(state["torch"])
    cuda = state.get("cuda", [])
    if cuda and torch.cuda.device_count() == len(cuda):
        torch.cuda.set_rng_state_all(cuda)


def _of_all(own: dict[str, Any]) -> list[dict[str, Any]]:
    """The states of all processes in the order of ranks; as plain tensors, since gathering objects would unpickle them."""
    _, world = _rank_and_world()
    if world == 1:
        return [own]
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")

    def gathered(state: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(state, device=device) for _ in range(world)]
        dist.all_gather(parts, state.to(device))
        return [part.cpu() for part in parts]

    generators, globals_ = gathered(own["generator"]), gathered(own["torch"])
    cuda = [gathered(state) for state in own["cuda"]]
    return [
        {"generator": generators[rank], "torch": globals_[rank], "cuda": [states[rank] for states in cuda]}
        for rank in range(world)
    ]
