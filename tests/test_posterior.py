"""The posterior over offsets, its calibration on disk and in fact, and answers to clips that cannot be told."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from avsync.audio import LogMel
from avsync.corpus import ClipBank
from avsync.corpus.synthetic.talker import SyntheticCorpus
from avsync.errors import ArgumentError, CheckpointError, ConfigError, ShapeError
from avsync.evaluation.calibration import calibrate
from avsync.figures import expected_calibration_error, reliability_diagram
from avsync.metrics import (
    Calibration,
    LevelCalibration,
    fit_calibration,
    load_calibration,
    offset_posterior,
    save_calibration,
    sub_frame_offset,
)
from avsync.metrics.calibration import offset_probabilities
from avsync.models import SyncerConfig, SyncerPyramid, SyncerPyramidConfig

LEVEL = LevelCalibration(scale=20.0, power=0.5, match_bias=-3.0, match_weights=(0.5, 0.0, 1.0))
NOISE = 0.6


def curves(clips: int, windows: int, depth: float, seed: int, reach: int = 7) -> Tensor:
    """Mean distances whose minimum at offset 0 is ``depth`` below the rest, with noise that shrinks with the windows."""
    noise = torch.randn(clips, 2 * reach + 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = 1.2 + NOISE * windows**-0.5 * noise
    found[:, reach] -= depth
    return found


def test_posterior_is_the_softmax_of_the_evidence() -> None:
    distances = curves(5, 16, 0.3, 0)
    got = offset_posterior(distances, 16, calibration=LEVEL)
    evidence = -20.0 * 16**0.5 * distances.numpy()
    expected = np.exp(evidence - evidence.max(1, keepdims=True))
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(got.probabilities.numpy(), expected, rtol=1e-9, atol=1e-300)
    best = distances.argmin(1)
    for clip, j in enumerate(best.tolist()):
        near = expected[clip, max(j - 1, 0) : j + 2].sum()
        assert got.probability[clip].item() == pytest.approx(near * got.match[clip].item())
    by_clip = offset_posterior(distances, torch.full((5,), 16), calibration=LEVEL)
    torch.testing.assert_close(by_clip, got)


@given(st.floats(-3, 3), st.integers(0, 3), st.floats(0.1, 10))
def test_a_parabola_is_read_between_frames(offset: float, more: int, bend: float) -> None:
    reach = 4 + more
    at = torch.arange(reach, -reach - 1, -1, dtype=torch.float64)
    got = sub_frame_offset(bend * (at - offset).square()[None] + 1)
    assert got.item() == pytest.approx(offset, abs=1e-6)


def test_no_parabola_where_there_is_none() -> None:
    nan = math.nan
    distances = [
        [1, 2, 3, 4, 5],
        [5, 4, 3, 2, 1],
        [2, 2, 2, 2, 2],
        [3, nan, 1, 2, 3],
        [nan, nan, nan, nan, nan],
        [1, 1, 2, 3, 4],
    ]
    assert sub_frame_offset(torch.tensor(distances)).tolist() == [2, -2, 0, 0, 0, 2]
    assert sub_frame_offset(torch.ones(2, 1)).tolist() == [0, 0]


def test_offsets_without_a_distance_have_no_probability() -> None:
    distances = torch.tensor([[math.nan, 1.0, 0.5, 1.0, 1.0], 5 * [math.nan]])
    got = offset_posterior(distances, 9, calibration=LEVEL)
    assert got.probabilities[0, 0] == 0 and got.probabilities[0].sum().item() == pytest.approx(1)
    assert got.probabilities[1].isnan().all()
    assert got.probability[1] == 0 and not got.answered[1] and got.match[1] == 0 and got.offset_frames[1] == 0


def test_prior_and_threshold() -> None:
    distances = curves(50, 16, 0.2, 1)
    odds = {prior: offset_posterior(distances, 16, calibration=LEVEL, prior=prior) for prior in (0.1, 0.5, 0.9, 1.0)}
    for low, high in ((0.1, 0.5), (0.5, 0.9)):
        moved = odds[high].match.logit() - odds[low].match.logit()
        torch.testing.assert_close(moved, torch.full_like(moved, math.log(9)))
    assert (odds[1.0].match == 1).all()
    strict = offset_posterior(distances, 16, calibration=LEVEL, threshold=0.9)
    assert torch.equal(strict.answered, odds[0.5].probability >= 0.9)
    assert strict.answered.any() and not strict.answered.all()


@pytest.mark.parametrize("options", [{"prior": 0}, {"prior": 1.5}, {"threshold": -0.1}, {"threshold": 1.1}])
def test_options_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ArgumentError, match="expected"):
        offset_posterior(torch.ones(1, 3), 4, calibration=LEVEL, **options)


def test_shapes() -> None:
    with pytest.raises(ShapeError):
        offset_posterior(torch.ones(3), 4, calibration=LEVEL)
    with pytest.raises(ShapeError):
        offset_probabilities(torch.ones(3), 4, scale=1.0, power=1.0)


def fitted() -> Calibration:
    lengths = (9, 25, 64)
    good = [[curves(400, n, 0.3, n)] for n in lengths]
    bad = [[curves(400, n, 0.0, n + 1)] for n in lengths]
    return fit_calibration(good, bad, [[n] for n in lengths])


def test_the_fit_finds_the_numbers_of_the_material() -> None:
    """With Gaussian noise on one deeper offset the true posterior is ``exp(-depth n / noise^2 m_j)``."""
    level = fitted().levels[0]
    true = 0.3 / NOISE**2
    for windows in (9, 25, 64):
        assert level.scale * windows**level.power == pytest.approx(true * windows, rel=0.3)


def test_probabilities_come_true_on_clips_that_were_not_fitted() -> None:
    level = fitted().levels[0]
    stated, right = [], []
    for windows in (9, 25, 64):
        for depth, seed in ((0.3, 1000), (0.0, 2000)):
            distances = curves(2000, windows, depth, windows + seed)
            stated.append(offset_posterior(distances, windows, calibration=level).probability)
            right.append((distances.argmin(1) - 7).abs() <= 1 if depth else torch.zeros(2000, dtype=torch.bool))
    stated_all, right_all = torch.cat(stated), torch.cat(right)
    assert expected_calibration_error(stated_all, right_all) < 0.03
    assert expected_calibration_error(stated_all.sqrt(), right_all) > 0.05  # the test can fail
    answered = stated_all >= 0.5
    assert right_all[answered].double().mean() > 0.8
    unrelated = stated[-1]
    assert (unrelated >= 0.5).double().mean() < 0.1  # 64 windows of another's sound: "cannot tell"
    assert (stated[-2] >= 0.5).double().mean() > 0.8


def fading(clips: int, true: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Mean distances without audio around the clips: the further from offset 0, the fewer windows, none at the ends."""
    reach = 7
    windows = torch.tensor([float(25 - 5 * abs(j - reach)) for j in range(2 * reach + 1)]).clamp_min(0)
    noise = torch.randn(clips, 2 * reach + 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = 1.2 + NOISE * windows.clamp_min(1).double() ** -0.5 * noise
    found.scatter_add_(1, reach - true[:, None], torch.full((clips, 1), -0.5, dtype=torch.float64))
    return found.masked_fill(windows == 0, math.nan), windows


def test_offsets_with_fewer_windows_count_less() -> None:
    """The posterior is that of the material at every offset; one number of windows for all offsets is too sure of the ends."""
    moved = torch.arange(-3, 4).repeat(600)
    good, windows = fading(moved.numel(), moved, 0)
    none = torch.full_like(moved, 7)  # at an offset without windows
    bad, _ = fading(moved.numel(), none, 1)
    level = fit_calibration([[good]], [[bad]], [[windows]], offsets=[[moved]]).levels[0]
    assert level.scale * 25**level.power == pytest.approx(0.5 / NOISE**2 * 25, rel=0.3)
    fresh, _ = fading(moved.numel(), moved, 2)
    for counts, error in ((windows[None], 0.0), (torch.full((1, 15), 25.0), 0.02)):
        posterior = offset_posterior(fresh, counts, calibration=level, prior=1.0)
        right = (7 - fresh.nan_to_num(9.0).argmin(1) - moved).abs() <= 1
        found = float(expected_calibration_error(posterior.probability.float(), right))
        assert found < 0.03 if error == 0 else found > error
    same = offset_posterior(good, windows.expand_as(good), calibration=level)
    torch.testing.assert_close(same, offset_posterior(good, windows[None], calibration=level))


def test_equal_windows_at_all_offsets_are_one_number() -> None:
    distances = curves(5, 16, 0.3, 0)
    torch.testing.assert_close(
        offset_posterior(distances, torch.full((1, 15), 16.0), calibration=LEVEL),
        offset_posterior(distances, 16, calibration=LEVEL),
    )


def test_fit_refuses_windows_and_offsets_that_do_not_fit() -> None:
    good, bad = [[curves(3, 9, 0.3, 0)]], [[curves(3, 9, 0.0, 1)]]
    with pytest.raises(ShapeError, match="`windows`: expected a number or"):
        fit_calibration(good, bad, [[torch.ones(3)]])
    with pytest.raises(ShapeError, match="`offsets`: expected one per clip"):
        fit_calibration(good, bad, [[9]], offsets=[[torch.zeros(2, dtype=torch.long)]])
    with pytest.raises(ArgumentError, match="`offsets`: expected at most 7"):
        fit_calibration(good, bad, [[9]], offsets=[[torch.tensor([0, 8, 0])]])
    with pytest.raises(ShapeError, match="`windows`"):
        offset_posterior(torch.ones(2, 3), torch.ones(3, 3), calibration=LEVEL)


def test_fit_refuses_what_it_cannot_use() -> None:
    good, bad = [[curves(3, 9, 0.3, 0)]], [[curves(3, 9, 0.0, 1)]]
    with pytest.raises(ArgumentError, match="one entry per length"):
        fit_calibration(good, bad, [])
    with pytest.raises(ArgumentError, match="one entry per length"):
        fit_calibration([], [], [])
    with pytest.raises(ArgumentError, match="`mismatched`: expected 1 levels"):
        fit_calibration(good, [[bad[0][0], bad[0][0]]], [[9]])
    for broken in (torch.zeros(0, 3), torch.zeros(3, 4), torch.full((3, 3), math.nan), torch.zeros(3)):
        with pytest.raises(ShapeError, match="`matched`"):
            fit_calibration([[broken]], bad, [[9]])


def test_a_calibration_survives_the_disk(tmp_path: Path) -> None:
    calibration = fitted()
    save_calibration(calibration, tmp_path / "calibration.json")
    assert load_calibration(tmp_path / "calibration.json") == calibration


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"calibration": {}},
        {"calibration": {"levels": []}},
        {"calibration": {"levels": [{**asdict(LEVEL), "match_weights": [0.0, 1.0, 2.0], "name": "x"}]}},
        {"calibration": {"levels": [{**asdict(LEVEL), "match_weights": [0.0, 1.0]}]}},
        {"calibration": {"levels": [{**asdict(LEVEL), "match_weights": [0.0, 1.0, 2.0], "scale": "20"}]}},
        {"calibration": {"levels": [{**asdict(LEVEL), "match_weights": [0.0, 1.0, 2.0], "scale": -20.0}]}},
        {"more": 1},
    ],
)
def test_files_are_read_strictly(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "calibration.json"
    save_calibration(Calibration((LEVEL,)), path)
    calibration = json.loads(path.read_text())["calibration"]
    path.write_text(
        json.dumps({"format": 1, "calibration": calibration, **change})
    )  # without a checksum, which would refuse first
    with pytest.raises(CheckpointError, match="calibration"):
        load_calibration(path)


@pytest.mark.parametrize("content", [None, "{", "[]", '"text"'])
def test_damaged_files(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "calibration.json").write_text(content)
    with pytest.raises(CheckpointError, match="`path`"):
        load_calibration(tmp_path / "calibration.json")


@pytest.mark.parametrize(
    "change",
    [{"scale": 0.0}, {"scale": math.nan}, {"power": math.inf}, {"match_bias": math.nan}, {"match_weights": (1.0, 2.0)}],
)
def test_impossible_numbers(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        replace(LEVEL, **change)
    with pytest.raises(ConfigError, match="at least one level"):
        Calibration(())


def test_reliability_diagram_draws_what_came_true() -> None:
    stated = torch.tensor([0.15, 0.15, 0.85, 0.85, 0.85, 0.85])
    right = torch.tensor([0, 0, 1, 1, 1, 0])
    assert expected_calibration_error(stated, right) == pytest.approx((2 * 0.15 + 4 * 0.1) / 6)
    figure = reliability_diagram(
        {"level 0": {"all": (stated, right), "first": ([0.5], [1])}, "level 1": {"all": (stated, right)}}
    )
    assert [axes.get_title() for axes in figure.axes[:2]] == ["level 0", "level 1"]
    drawn = figure.axes[0].containers[0].lines[0]
    np.testing.assert_allclose(drawn.get_xdata(), [0.15, 0.85], rtol=1e-6)
    np.testing.assert_allclose(drawn.get_ydata(), [0.0, 0.75])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["all", "first"]


@pytest.mark.parametrize(("stated", "right"), [([], []), ([0.5], [1, 0]), ([1.5], [1]), ([math.nan], [1]), ([0.5], [0.5])])
def test_reliability_of_nonsense(stated: list[float], right: list[float]) -> None:
    with pytest.raises(ArgumentError, match="expected"):
        expected_calibration_error(stated, right)
    with pytest.raises(ArgumentError, match="expected"):
        reliability_diagram({"level 0": {"all": (stated, right)}})
    with pytest.raises(ArgumentError, match="`panels`"):
        reliability_diagram({})


def test_syncers_are_calibrated_on_a_corpus() -> None:
    """Of syncers that know the talker, matched audio is answered and right; another speaker's audio and still faces are not answered."""
    whole = SyncerPyramid.from_pretrained("landmarks68-25fps")
    syncers = SyncerPyramid(config=whole.config.finest(1)).eval()
    syncers.load_state_dict({name: value for name, value in whole.state_dict().items() if name in syncers.state_dict()})
    features = syncers.speech_features()
    assert features is not None
    bank = ClipBank(SyntheticCorpus(split="val", speakers=4, clips_per_speaker=2, seconds=14.0), features=features.features)
    lines: list[str] = []
    found = calibrate(syncers, bank, lengths=(60,), stride=40, progress=lines.append)
    assert lines == [f"60 frames: {found.rows[0]['crops'] + found.rows[1]['crops']} crops of 4 speakers"]
    rows = {row["kind"]: row for row in found.rows}
    assert rows["own"]["answered"] > 0.9 and rows["own"]["right among answered"] == 1.0
    assert rows["other"]["answered"] < 0.2 and rows["still"]["answered"] < 0.2
    assert len(found.calibration.levels) == len(found.mixed) == 1
    assert found.mixed[0][0].numel() == 2 * found.own[0][0].numel()


def test_more_levels_than_search_ranges_for_a_calibration() -> None:
    config = SyncerPyramidConfig(syncer=SyncerConfig(width=4, embed=2), num_levels=7, audio="log-mel")
    bank = ClipBank(SyntheticCorpus(split="val", speakers=4, clips_per_speaker=1, seconds=8.0), features=LogMel())
    with pytest.raises(ArgumentError, match=r"`syncers`: expected at most 6 levels, .* got 7"):
        calibrate(SyncerPyramid(config), bank, lengths=(80,))


def test_too_few_speakers_for_a_calibration() -> None:
    syncers = SyncerPyramid.from_pretrained("landmarks68-25fps-head")
    features = syncers.speech_features()
    assert features is not None
    bank = ClipBank(SyntheticCorpus(split="val", speakers=1, clips_per_speaker=1, seconds=8.0), features=features.features)
    with pytest.raises(ArgumentError, match="`bank`: expected clips of at least 4 speakers, got 1"):
        calibrate(syncers, bank)
