"""The loader: the same batches whatever the workers, from any point on, and none lost to an error."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from avsync.audio.features import LogMel
from avsync.corpus.banks.augmentation import AugmentConfig
from avsync.corpus.banks.bank import Batch, ClipBank
from avsync.corpus.banks.loader import BatchLoader
from avsync.corpus.clip import Clip
from avsync.errors import ArgumentError, CheckpointError, ClipTooShortError


def make_clip(number: int) -> Clip:
    rng = np.random.default_rng(number)
    landmarks = rng.normal(100, 10, (40, 68, 2)).astype(np.float32)
    return Clip(f"c{number}", f"s{number % 3}", "train", landmarks, rng.normal(0, 0.1, 25600).astype(np.float32))


BANK = ClipBank([make_clip(number) for number in range(5)], features=LogMel())


def make_loader(**options: Any) -> BatchLoader:
    return BatchLoader(BANK, **{"batch_size": 4, "frames": 12, "augment": AugmentConfig(), "seed": 3, **options})


def batches(count: int, *, skip: int = 0, **options: Any) -> list[Batch]:
    with make_loader(**options) as loader:
        loader.load_state_dict({"seed": loader.seed, "position": skip})
        return [next(loader) for _ in range(count)]


def same(first: Batch, second: Batch) -> bool:
    fields = [field.name for field in dataclasses.fields(Batch)]
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in fields)


PLAIN = batches(12, workers=0)


@given(workers=st.integers(0, 4), prefetch=st.integers(1, 6), skip=st.integers(0, 8))
def test_batches_do_not_depend_on_workers_and_begin_anywhere(workers: int, prefetch: int, skip: int) -> None:
    found = batches(4, workers=workers, prefetch=prefetch, skip=skip)
    assert all(same(ours, theirs) for ours, theirs in zip(found, PLAIN[skip:], strict=False))


def test_batches_differ_from_one_another_and_between_seeds() -> None:
    assert not any(same(PLAIN[i], PLAIN[j]) for i in range(12) for j in range(i))
    assert not same(batches(1, seed=4)[0], PLAIN[0])


def test_the_state_counts_what_was_handed_out() -> None:
    with make_loader(workers=2, prefetch=5) as loader:
        for _ in range(3):
            next(iter(loader))
        state = loader.state_dict()
        rest = [next(loader) for _ in range(3)]
        assert state == {"seed": 3, "position": 3}
        loader.load_state_dict(state)  # what was made ahead for later batches must not slip in
        assert all(same(ours, theirs) for ours, theirs in zip(rest, [next(loader) for _ in range(3)], strict=True))
        for bad in ({"seed": 4, "position": 0}, {"position": 0}, {}):
            with pytest.raises(CheckpointError, match="a loader with seed 3"):
                loader.load_state_dict(bad)


def test_processes_share_out_the_batches_of_one() -> None:
    for rank in range(3):
        found = batches(4, rank=rank, world_size=3, workers=1)
        assert all(same(ours, theirs) for ours, theirs in zip(found, PLAIN[rank::3], strict=True))


def test_batches_are_made_ahead_by_other_threads_and_no_global_chance_is_used() -> None:
    made = []

    class Watched(ClipBank):
        def sample(self, *arguments: Any, **options: Any) -> Batch:
            made.append(threading.current_thread().name)
            return super().sample(*arguments, **options)

    bank = Watched([make_clip(0)], features=LogMel())
    state = torch.get_rng_state()
    with BatchLoader(bank, batch_size=2, frames=8, workers=1, prefetch=3) as loader:
        next(loader)
    assert torch.equal(state, torch.get_rng_state())
    assert made[0] == "MainThread" and len(made) >= 2 and all(name.startswith("avsync-loader") for name in made[1:])


def test_errors_of_workers_reach_the_caller() -> None:
    class Failing(ClipBank):
        calls = 0

        def sample(self, *arguments: Any, **options: Any) -> Batch:
            self.calls += 1
            if self.calls == 3:
                raise OSError("the disk is gone")
            return super().sample(*arguments, **options)

    bank = Failing([make_clip(0)], features=LogMel())
    with BatchLoader(bank, batch_size=2, frames=8, workers=1, prefetch=1) as loader:
        next(loader)
        with pytest.raises(OSError, match="the disk is gone"):
            [next(loader) for _ in range(3)]


def test_batches_for_a_gpu_are_pinned_and_sent_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be no GPU here, so the two calls that would use it are written down instead."""
    calls = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda x: calls.append("pin") or x)
    monkeypatch.setattr(Batch, "to", lambda batch, device, non_blocking=False: calls.append((device, non_blocking)) or batch)
    with make_loader(device="cuda", workers=0) as loader:
        calls.clear()
        next(loader)
    assert calls == ["pin"] * 5 + [(torch.device("cuda"), True)]
    calls.clear()
    batches(1, workers=0)
    assert calls == [(torch.device("cpu"), False)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu() -> None:
    found = batches(6, device="cuda", workers=2)
    assert all(same(ours.to("cpu"), theirs) for ours, theirs in zip(found, PLAIN, strict=False))
    assert found[0].landmarks.is_cuda


def test_bad_arguments() -> None:
    for options in ({"workers": -1}, {"prefetch": 0}, {"rank": 1}, {"rank": -1}, {"batch_size": 0}):
        with pytest.raises(ArgumentError):
            make_loader(**options)
    with pytest.raises(ClipTooShortError, match="the longest clip has 40 frames, got 41"):
        make_loader(frames=41)
