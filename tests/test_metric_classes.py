"""The torchmetrics classes give what their functions give on all clips at once, however the clips are dealt out."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.multiprocessing.spawn import spawn

import avsync.metrics
from avsync import metrics
from avsync.errors import ArgumentError, ShapeError

OPTIONS = {"max_offset": 4, "lead": 2}
PAIRS: list[tuple[str, Callable[..., Tensor], bool]] = [
    ("LSEDistance", metrics.lse_distance, False),
    ("LSEConfidence", metrics.lse_confidence, True),
    ("DistanceAtZero", metrics.distance_at_zero, False),
    ("RankAtZero", metrics.rank_at_zero, False),
    ("OffsetAccuracy", metrics.offset_accuracy, True),
]


def clips(number: int = 12, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    motion, audio = torch.randn(number, 20, 6, generator=generator), torch.randn(number, 24, 6, generator=generator)
    audio[:, 3:23] += motion  # half of them one window late or so, with noise
    mask = torch.rand(number, 20, generator=generator) > 0.2
    return motion, audio, mask


@pytest.mark.parametrize(("name", "function", "higher"), PAIRS)
def test_class_is_function(name: str, function: Callable[..., Tensor], higher: bool) -> None:
    motion, audio, mask = clips()
    metric = getattr(metrics, name)(**OPTIONS)
    assert metric.higher_is_better is higher
    assert metric.full_state_update is False and metric.is_differentiable is False
    expected = function(motion, audio, mask=mask, **OPTIONS)
    for part in (slice(0, 5), slice(5, 6), slice(6, 12)):
        metric.update(motion[part], audio[part], mask=mask[part])
    torch.testing.assert_close(metric.compute(), expected)
    # A forward gives the batch's own value, and the whole is unharmed by it.
    more = clips(seed=1)
    torch.testing.assert_close(metric(more[0], more[1]), function(more[0], more[1], **OPTIONS))
    each = torch.cat(
        [
            function(motion, audio, mask=mask, reduction="none", **OPTIONS),
            function(more[0], more[1], reduction="none", **OPTIONS),
        ]
    )
    torch.testing.assert_close(metric.compute(), each.mean())
    metric.reset()
    with pytest.raises(ArgumentError, match="at least one clip"), pytest.warns(UserWarning, match="before the ``update``"):
        metric.compute()


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.integers(0, 2**31))
def test_any_batches_give_the_same(sizes: list[int], seed: int) -> None:
    motion, audio, _ = clips(sum(sizes), seed)
    metric = metrics.LSEConfidence(**OPTIONS)
    for v, a in zip(motion.split(sizes), audio.split(sizes), strict=True):
        metric.update(v, a)
    torch.testing.assert_close(metric.compute(), metrics.lse_confidence(motion, audio, **OPTIONS))


def test_options_and_masks_reach_the_function() -> None:
    motion, audio, _ = clips()
    audio_mask = torch.ones(12, 24, dtype=torch.bool)
    audio_mask[:, 20:] = False
    loose = metrics.OffsetAccuracy(tolerance=4, **OPTIONS)
    assert loose(motion, audio) == 1 > metrics.OffsetAccuracy(tolerance=0, **OPTIONS)(motion, audio)
    legacy = metrics.LSEDistance(edges="legacy", **OPTIONS)
    expected = metrics.lse_distance(motion, audio, edges="legacy", audio_mask=audio_mask, **OPTIONS)
    torch.testing.assert_close(legacy(motion, audio, audio_mask=audio_mask), expected)
    assert expected != metrics.lse_distance(motion, audio, audio_mask=audio_mask, **OPTIONS)


@pytest.mark.parametrize(
    "options", [{"max_offset": -1}, {"lead": -1}, {"edges": "wrapped"}, {"tolerance": -1}, {"max_offset": 2, "lead": -3}]
)
def test_bad_options(options: dict[str, object]) -> None:
    with pytest.raises(ArgumentError, match="expected"):
        metrics.OffsetAccuracy(**options)


def test_bad_shapes_change_nothing() -> None:
    metric = metrics.LSEDistance(**OPTIONS)
    motion, audio, _ = clips()
    metric.update(motion, audio)
    before = metric.compute()
    with pytest.raises(ShapeError):
        metric.update(motion, audio[:3])
    metric._computed = None
    assert metric.compute() == before


def test_metrics_can_be_copied_saved_and_collected() -> None:
    from torchmetrics import MetricCollection

    motion, audio, _ = clips()
    both = MetricCollection([metrics.LSEDistance(**OPTIONS), metrics.LSEConfidence(**OPTIONS)])
    both.update(motion, audio)
    found = both.compute()
    torch.testing.assert_close(found["LSEDistance"], metrics.lse_distance(motion, audio, **OPTIONS))
    torch.testing.assert_close(found["LSEConfidence"], metrics.lse_confidence(motion, audio, **OPTIONS))
    single = metrics.RankAtZero(**OPTIONS)
    single.update(motion, audio)
    assert pickle.loads(pickle.dumps(single)).compute() == single.compute()  # noqa: S301 - our own bytes


def _process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    motion, audio, mask = clips()
    part = slice(0, 5) if rank == 0 else slice(5, 12)
    found = {}
    for name, _, _ in PAIRS:
        metric = getattr(metrics, name)(**OPTIONS)
        metric.update(motion[part], audio[part], mask=mask[part])
        found[name] = metric.compute()
    torch.save(found, Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()


def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    spawn(_process, args=(str(tmp_path),), nprocs=2)
    motion, audio, mask = clips()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, function, _ in PAIRS:
            torch.testing.assert_close(found[name], function(motion, audio, mask=mask, **OPTIONS))


def test_torchmetrics_is_needed_only_when_a_class_is_made() -> None:
    script = (
        "import sys\n"
        "import avsync.metrics\n"
        "from avsync.errors import MissingExtraError\n"
        "if 'torchmetrics' in sys.modules: raise SystemExit('imported too early')\n"
        "sys.modules['torchmetrics'] = None\n"
        "metric = avsync.metrics.LSEDistance\n"
        "try: metric(max_offset=3)\n"
        "except MissingExtraError as error: print(error)\n"
        "else: raise SystemExit('made without its base')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert "avsync[metrics]" in done.stdout


def test_names_of_the_package() -> None:
    assert set(avsync.metrics.__all__) >= {name for name, _, _ in PAIRS}
    with pytest.raises(AttributeError, match="no attribute 'LSED'"):
        _ = avsync.metrics.LSED
