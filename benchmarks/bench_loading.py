"""Measure the cost of batches next to a training step: from memory and from shards, made on demand and made ahead by a thread.

The time to load a corpus is measured too: reading FLAC and npz with feature computation, against opening shards. Without
``--corpus`` a corpus of the synthetic talker is written first. Batches from memory and from shards must be equal before
anything is timed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from avsync.audio.features import LogMel
from avsync.corpus.banks.augmentation import AugmentConfig
from avsync.corpus.banks.bank import Batch, ClipBank, CropBank
from avsync.corpus.banks.loader import BatchLoader
from avsync.corpus.banks.shards import ShardedBank, build_shards
from avsync.corpus.clip import Corpus, write_clip, write_index
from avsync.corpus.synthetic.talker import SyntheticCorpus
from avsync.losses.all_pairs import AllPairsInfoNCE
from avsync.models.syncer.pyramid import SyncerPyramid
from benchmarks import _harness

REQUIRED_SHARE = 0.05


def seconds_of(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def make_step(device: torch.device) -> Callable[[Batch], None]:
    """Make a function that performs one optimisation step of a whole pyramid."""
    pyramid = SyncerPyramid().to(device)
    loss = AllPairsInfoNCE(temperature=0.07)
    optimizer = torch.optim.AdamW(pyramid.parameters())

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        losses: list[Tensor] = [loss(level.motion, level.audio) for level in pyramid(batch.landmarks, batch.audio)]
        torch.stack(losses).sum().backward()
        optimizer.step()

    return step


def main() -> None:
    arguments = _harness.parser(__doc__, repeats=15)
    arguments.add_argument("--corpus", type=Path, help="corpus folder (default: a synthetic one of 12 minutes)")
    arguments.add_argument("--batch", type=int, default=16)
    arguments.add_argument("--frames", type=int, default=160)
    arguments.add_argument("--workers", type=int, default=1)
    options = arguments.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device: torch.device = options.device
    with tempfile.TemporaryDirectory() as scratch:
        source = options.corpus
        if source is None:
            source = Path(scratch, "corpus")
            made = SyntheticCorpus(split="train", speakers=20, clips_per_speaker=3, seconds=12.0, cache=False)
            write_index(source, [write_clip(clip, source) for clip in made])
        corpus, features, cache = Corpus(source), LogMel(), Path(scratch, "shards")
        bank = ClipBank(corpus, features=features)
        ready = {
            "minutes": round(int(bank.lengths.sum()) / 1500, 1),
            "seconds to read and compute": round(seconds_of(lambda: ClipBank(corpus, features=features)), 3),
            "seconds to build shards": round(seconds_of(lambda: build_shards(corpus, cache, features=features)), 3),
            "seconds to open shards": round(seconds_of(lambda: ShardedBank(cache, features=features)), 4),
        }
        run(options, device, bank, ShardedBank(cache, features=features), ready)


def run(
    options: argparse.Namespace, device: torch.device, bank: ClipBank, shards: ShardedBank, ready: dict[str, float]
) -> None:
    size, frames, workers = options.batch, options.frames, options.workers
    augment = AugmentConfig(tempo=(0.8, 1.25), equaliser_db=3.0, noise_db=1.0)  # the most expensive setting: every kind is on

    def draw(source: CropBank) -> Batch:
        return source.sample(size, frames, generator=torch.Generator().manual_seed(0), augment=augment)

    ours, theirs = draw(shards), draw(bank)
    assert torch.equal(ours.landmarks, theirs.landmarks) and torch.equal(ours.audio, theirs.audio)
    print("batches from shards and from memory are equal")

    step, fixed = make_step(device), draw(bank).to(device)
    loaders = {
        name: BatchLoader(source, batch_size=size, frames=frames, augment=augment, workers=workers, device=device)
        for name, source in (("memory", bank), ("shards", shards))
    }
    waited: dict[str, list[float]] = {name: [] for name in loaders}

    def step_from(name: str) -> None:
        start = time.perf_counter()
        batch = next(loaders[name])
        waited[name].append(time.perf_counter() - start)
        step(batch)

    timings = _harness.measure(
        {
            "step alone": lambda: step(fixed),
            "sample then step": lambda: step(draw(bank).to(device)),
            "loader from memory": lambda: step_from("memory"),
            "loader from shards": lambda: step_from("shards"),
            "sample from memory": lambda: draw(bank),
            "sample from shards": lambda: draw(shards),
        },
        repeats=options.repeats,
        warm_up=options.warm_up,
    )
    for loader in loaders.values():
        loader.close()
    alone = timings["step alone"].median
    shares = {name: sorted(values)[len(values) // 2] / alone for name, values in waited.items()}
    extra = {
        **ready,
        "batch, frames": (size, frames),
        "workers": workers,
        "device": str(device),
        "sampling over the step": round(timings["sample from memory"].median / alone, 4),
        **{f"waiting for the loader over the step, {name}": round(share, 5) for name, share in shares.items()},
        "required at most": REQUIRED_SHARE,
        "met": max(shares.values()) <= REQUIRED_SHARE,
    }
    _harness.report("loading", timings, baseline="sample then step", extra=extra, out=options.out)


if __name__ == "__main__":
    main()
