"""The motion prior against loops over its statistics, and what it does to motion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from avsync import from_pretrained, save_pretrained
from avsync.corpus.synthetic.talker import SyntheticCorpus
from avsync.errors import ArgumentError, ClipTooShortError, ConfigError, ShapeError
from avsync.losses.motion_prior import MotionPrior, MotionPriorConfig

SMALL = MotionPriorConfig(components=5, lags=(1, 2, 8))


def walks(batch: int, frames: int = 30, *, seed: int = 0) -> Tensor:
    """Faces whose points drift along a few shared directions."""
    source = torch.Generator().manual_seed(seed)
    faces = torch.rand(1, 1, 68, 2, generator=torch.Generator().manual_seed(9)) * 100
    shared = torch.randn(12, 68 * 2, generator=torch.Generator().manual_seed(8))
    steps = torch.randn(batch, frames, 12, generator=source).cumsum(1) * torch.linspace(1.0, 0.1, 12)
    own = 0.01 * torch.randn(batch, frames, 136, generator=source)
    return faces + (steps @ shared + own).unflatten(-1, (68, 2))


def obvious(prior: MotionPrior, clip: np.ndarray) -> float:
    """Compute the energy of one clip with loops over statistics and frames."""
    height = np.ptp(clip[0, :, 1])
    moved = ((clip - clip[:1]) / height).reshape(len(clip), -1)
    directions = prior.directions.double().numpy()
    coefficients = moved @ directions
    residual = moved - coefficients @ directions.T
    ratios = []
    for row, lag in enumerate(prior.config.lags):
        if lag >= len(clip):
            continue
        for k in range(directions.shape[1]):
            power = np.mean([(coefficients[t + lag, k] - coefficients[t, k]) ** 2 for t in range(len(clip) - lag)])
            ratios.append(power / float(prior.real_changes[row, k]))
        power = np.mean([np.sum((residual[t + lag] - residual[t]) ** 2) for t in range(len(clip) - lag)])
        ratios.append(power / float(prior.real_residual_changes[row]))
    inner = range(1, len(clip) - 1)
    for k in range(directions.shape[1]):
        power = np.mean([(coefficients[t + 1, k] - 2 * coefficients[t, k] + coefficients[t - 1, k]) ** 2 for t in inner])
        ratios.append(power / float(prior.real_accelerations[k]))
    ratios.append(np.mean(np.sum(residual**2, axis=1)) / float(prior.real_others[0]))
    ratios.append(
        np.mean([np.sum((moved[t + 1] - 2 * moved[t] + moved[t - 1]) ** 2) for t in inner]) / float(prior.real_others[1])
    )
    return float(np.mean([max(0.0, np.sqrt(ratio) - 1) ** 2 for ratio in ratios]))


@pytest.mark.parametrize("frames", [3, 9, 30])
def test_equals_the_loops(frames: int) -> None:
    prior = MotionPrior.fit(walks(20), config=SMALL)
    clips = 2.0 * walks(4, frames, seed=3).double()
    clips = clips + torch.randn(clips.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = [obvious(prior, clip) for clip in clips.numpy()]
    np.testing.assert_allclose(prior(clips, reduction="none").numpy(), expected, rtol=1e-5)
    assert min(expected) > 0


def test_still_faces_cost_nothing_and_have_a_finite_gradient() -> None:
    prior = MotionPrior.fit(walks(20), config=SMALL)
    still = walks(2)[:, :1].repeat(1, 20, 1, 1).requires_grad_()
    energy = prior(still)
    energy.backward()
    assert energy.item() == 0 and still.grad is not None and bool((still.grad == 0).all())


def test_unit_and_place_do_not_matter() -> None:
    prior = MotionPrior.fit(walks(20), config=SMALL)
    clips = walks(3, seed=4) * 3
    torch.testing.assert_close(prior(clips), prior(0.01 * clips + 7.0), rtol=1e-3, atol=1e-4)


def test_descent_on_the_energy_calms_a_trembling_face() -> None:
    prior = MotionPrior.fit(walks(20), config=SMALL)
    clips = walks(2, seed=5)
    trembling = (clips + 0.5 * torch.randn(clips.shape, generator=torch.Generator().manual_seed(2))).requires_grad_()
    before = prior(trembling).item()
    optimizer = torch.optim.Adam([trembling], lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        prior(trembling).backward()
        optimizer.step()
    assert prior(trembling).item() < 0.2 * before


def test_compiles_whole_and_works_in_half_precision() -> None:
    prior = MotionPrior.fit(walks(20), config=SMALL)
    clips = 3 * walks(2, seed=6)
    compiled = torch.compile(prior, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(clips), prior(clips))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(prior(clips), prior(clips).float())


def test_saves_and_loads(tmp_path: Path) -> None:
    prior = MotionPrior.fit(walks(20), config=SMALL)
    save_pretrained(prior, tmp_path / "prior")
    clips = 3 * walks(2, seed=6)
    assert torch.equal(MotionPrior.from_pretrained(tmp_path / "prior")(clips), prior(clips))


def test_the_pretrained_prior_tells_trembling_from_talking() -> None:
    prior = from_pretrained("motion-prior-landmarks68-25fps")
    clip = SyntheticCorpus(split="val", speakers=1, clips_per_speaker=1, seconds=4.0)[0]
    talking = torch.from_numpy(clip.landmarks[None, :80])
    height = talking[..., 1].amax() - talking[..., 1].amin()
    trembling = talking + 0.03 * height * torch.randn(talking.shape, generator=torch.Generator().manual_seed(0))
    assert prior(trembling).item() > 10 * prior(talking).item()


@pytest.mark.parametrize(
    ("error", "match", "call"),
    [
        (ShapeError, "`landmarks`", lambda prior: prior(torch.rand(2, 10, 68, 3))),
        (ClipTooShortError, "`landmarks`.*3 frames", lambda prior: prior(torch.rand(2, 2, 68, 2))),
        (ArgumentError, "`reduction`", lambda prior: prior(torch.rand(2, 10, 68, 2), reduction="avg")),
        (ClipTooShortError, "largest lag", lambda prior: prior.fit(walks(5, 8), config=SMALL)),
        (ArgumentError, "still ones", lambda prior: prior.fit(torch.rand(5, 1, 68, 2).repeat(1, 30, 1, 1), config=SMALL)),
        (ConfigError, "`lags`", lambda prior: MotionPriorConfig(lags=())),
        (ConfigError, "`components`", lambda prior: MotionPriorConfig(components=200)),
    ],
)
def test_errors(error: type[Exception], match: str, call: object) -> None:
    with pytest.raises(error, match=match):
        call(MotionPrior(SMALL))  # type: ignore[operator]
