"""Loader that prepares random batches in advance; the batches do not depend on the number of workers.

Batch ``n`` has its own random generator, seeded by the seed of the loader and ``n``. The order in which workers finish
therefore has no effect, and the state of the loader is one number: the number of returned batches. Workers are threads, because
the cost of a batch is mostly copying, which runs without Python's lock, and because threads share the bank without copies
between processes.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import torch

from avsync._checks import check_positive, check_type, checked
from avsync.corpus._process import ProcessBound
from avsync.corpus.banks.augmentation import AugmentConfig
from avsync.corpus.banks.bank import Batch, CropBank
from avsync.errors import ArgumentError, CheckpointError


def _device(device: torch.device | str) -> torch.device:
    try:
        return torch.device(device)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise ArgumentError(f"`device`: expected a device of torch, got {device!r:.100}") from error


class BatchLoader(ProcessBound):
    """Endless sequence of random batches, prepared in advance by threads.

    Args:
        bank: The bank of clips, in memory or in shards.
        batch_size: Crops per batch.
        frames: Landmark frames per crop.
        augment: Augmentation of the crops; None for none.
        margin: Landmark frames of additional audio on both sides.
        speakers_distinct: As in :meth:`avsync.corpus.banks.bank.CropBank.sample`.
        speaker_power: As in :meth:`avsync.corpus.banks.bank.CropBank.sample`.
        seed: Seed of the random generators.
        workers: Number of threads; 0 makes each batch on request.
        prefetch: Number of batches made in advance.
        device: Device of the batches. Copies to a GPU start from page-locked memory and run in parallel with computation.
        rank: Rank of this process. Each process gets different batches; all processes together get the batches that one process
            with this seed would get.
        world_size: Number of processes.

    Raises:
        ArgumentError: A number is out of its range, or no clip of the bank is long enough (a
            :class:`~avsync.errors.ClipTooShortError`).

    Example:
        >>> import numpy as np
        >>> from avsync.audio.features import LogMel
        >>> from avsync.corpus.clip import Clip
        >>> from avsync.corpus.banks.bank import ClipBank
        >>> clip = Clip("a", "anna", "train", np.ones((50, 68, 2), np.float32), np.zeros(32000, np.float32))
        >>> with BatchLoader(ClipBank([clip], features=LogMel()), batch_size=2, frames=20, workers=1) as loader:
        ...     next(loader).landmarks.shape, loader.state_dict()["position"]
        (torch.Size([2, 20, 68, 2]), 1)

    Source: ours.
    """

    def __init__(
        self,
        bank: CropBank,
        *,
        batch_size: int,
        frames: int,
        augment: AugmentConfig | None = None,
        margin: int = 0,
        speakers_distinct: bool = True,
        speaker_power: float = 1.0,
        seed: int = 0,
        workers: int = 1,
        prefetch: int = 4,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        check_type("bank", bank, CropBank)
        for name, value in {
            "workers": workers,
            "prefetch": prefetch,
            "seed": seed,
            "rank": rank,
            "world_size": world_size,
        }.items():
            check_type(name, value, int)
        check_positive("workers", workers, allow_zero=True)
        check_positive("prefetch", prefetch)
        if not 0 <= rank < world_size:
            raise ArgumentError(f"`rank`: expected a number from 0 to world_size - 1 = {world_size - 1}, got {rank}")
        self.bank, self.seed, self.rank, self.world_size = bank, seed, rank, world_size
        self.workers, self.prefetch, self.device = workers, prefetch, _device(device)
        self._what: dict[str, Any] = {
            "batch_size": batch_size,
            "frames": frames,
            "augment": augment,
            "margin": margin,
            "speakers_distinct": speakers_distinct,
            "speaker_power": speaker_power,
        }
        self._pin = self.device.type == "cuda" and bank.device.type == "cpu"
        self._bind_process()
        self._position = 0
        self._ahead: deque[Future[Batch]] = deque()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="avsync-loader") if workers else None
        self._make(0)  # raises errors in the arguments here instead of later in a thread

    def _make(self, number: int) -> Batch:
        """Return the batch ``number`` of this process."""
        words = f"{self.seed}/{number * self.world_size + self.rank}".encode()
        seed = int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "big") >> 1  # torch takes 63 bits
        batch = self.bank.sample(generator=torch.Generator().manual_seed(seed), **self._what)
        return batch.pin_memory() if self._pin else batch

    def __iter__(self) -> Iterator[Batch]:
        """Return the loader itself; the sequence has no end."""
        return self

    def __next__(self) -> Batch:
        """Return the next batch, on the loader's device."""
        self._check_process()
        if self._pool is None:
            batch = self._make(self._position)
        else:
            while len(self._ahead) < self.prefetch:
                self._ahead.append(self._pool.submit(self._make, self._position + len(self._ahead)))
            batch = self._ahead.popleft().result()
            self._ahead.append(self._pool.submit(self._make, self._position + self.prefetch))
        self._position += 1
        return batch.to(self.device, non_blocking=self._pin)

    def state_dict(self) -> dict[str, Any]:
        """Return the seed and the position: the number of returned batches, without batches made in advance."""
        return {"seed": self.seed, "position": self._position}

    @checked
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the position of a :meth:`state_dict`.

        Raises:
            CheckpointError: The state belongs to a loader with another seed.
        """
        if set(state_dict) != {"seed", "position"} or state_dict["seed"] != self.seed:
            raise CheckpointError(f"`state_dict`: expected that of a loader with seed {self.seed}, got {state_dict!r}")
        self._forget()
        self._position = int(state_dict["position"])

    def _forget(self) -> None:
        while self._ahead:
            self._ahead.pop().cancel()

    def close(self) -> None:
        """Stop the threads; a closed loader makes no more batches."""
        if self._is_inherited:
            return
        self._forget()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        """Return the loader, which is closed at the end of the block."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the loader."""
        self.close()
