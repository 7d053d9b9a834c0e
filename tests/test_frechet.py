"""The Frechet distance against SciPy, torchmetrics and a second derivation; streaming and merging; few, bad and constant features."""

from __future__ import annotations

import copy
import functools
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from avsync.corpus.synthetic.talker import SyntheticCorpus
from avsync.errors import ArgumentError, ClipTooShortError, ShapeError
from avsync.metrics.distance import landmark_distance, landmark_error
from avsync.metrics.frechet import (
    extract_statistics,
    frechet_distance,
    frechet_extractor_distance,
    frechet_motion_distance,
    gaussian_distance,
    gaussian_statistics,
    load_motion_autoencoder,
    merge_statistics,
)
from avsync.metrics.modular_distance import (
    FrechetDistance,
    FrechetMotionDistance,
    LandmarkDistance,
    LandmarkError,
    MouthOpeningCorrelation,
    VelocityError,
)
from benchmarks.frechet_response import DAMAGES
from tests.reference import frechet as reference

seeds = st.integers(0, 2**31)


def features(seed: int, vectors: int, size: int, *, offset: float = 0.0) -> Tensor:
    """Correlated features of very different variances around ``offset``."""
    rng = torch.Generator().manual_seed(seed)
    mix = torch.randn(size, size, generator=rng, dtype=torch.float64) * torch.logspace(0, -2, size, dtype=torch.float64)
    return offset + torch.randn(vectors, size, generator=rng, dtype=torch.float64) @ mix


@given(seeds, st.integers(1, 24), st.sampled_from([0.0, 100.0]))
def test_agrees_with_scipy(seed: int, size: int, offset: float) -> None:
    preds, target = features(seed, 4 * size + 2, size, offset=offset), features(seed + 1, 5 * size + 2, size, offset=offset)
    expected = reference.frechet_distance(preds.numpy(), target.numpy())
    assert frechet_distance(preds, target).item() == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(target, preds).item() == pytest.approx(expected, rel=1e-6)
    assert reference.frechet_distance_of_few(preds.numpy(), target.numpy()) == pytest.approx(expected, rel=1e-6)


class _Means(nn.Module):
    """Pictures to 12 features: sums over patches, in float64."""

    num_features = 12

    def forward(self, pictures: Tensor) -> Tensor:
        return pictures.double().unflatten(2, (2, -1)).unflatten(4, (2, -1)).mean(dim=(3, 5)).flatten(1)


def test_agrees_with_torchmetrics() -> None:
    rng = torch.Generator().manual_seed(0)
    target = torch.rand(60, 3, 8, 8, generator=rng)
    preds = (target[:50] * 0.7 + 0.2 * torch.rand(50, 3, 8, 8, generator=rng)).clamp(0, 1)
    theirs = FrechetInceptionDistance(feature=_Means(), normalize=True)
    theirs.set_dtype(torch.float64)
    theirs.update(target, real=True)
    theirs.update(preds, real=False)
    ours = frechet_extractor_distance(
        _Means(), preds, target, chunk=7
    )  # theirs gives other people's networks the pictures as they are
    assert ours.item() == pytest.approx(theirs.compute().item(), rel=1e-6)


@given(seeds, st.integers(2, 9), st.integers(2, 9), st.integers(10, 40))
def test_few_vectors_are_exact_and_warned_of(seed: int, first: int, second: int, size: int) -> None:
    preds, target = features(seed, first, size), features(seed + 1, second, size)
    with pytest.warns(UserWarning, match=f"{first} and {second} vectors of {size} features"):
        got = frechet_distance(preds, target).item()
    assert got == pytest.approx(reference.frechet_distance_of_few(preds.numpy(), target.numpy()), rel=1e-6)


def test_known_values() -> None:
    x = features(0, 50, 6)
    assert frechet_distance(x, x).item() == pytest.approx(0, abs=1e-10)
    assert frechet_distance(x + 2, x).item() == pytest.approx(6 * 4)
    spread = float(np.trace(np.cov(x.numpy(), rowvar=False)))
    assert frechet_distance(3 * (x - x.mean(0)), x - x.mean(0)).item() == pytest.approx(4 * spread), (
        "(3 - 1)^2 times the variance"
    )
    constant = torch.zeros(50, 6, dtype=torch.float64)
    assert frechet_distance(constant, x - x.mean(0)).item() == pytest.approx(spread), "no variance: the other's is left"
    assert frechet_distance(constant, constant).item() == 0


@given(seeds, st.lists(st.integers(1, 20), min_size=1, max_size=6), st.sampled_from([0.0, 1e6]))
def test_parts_merge_to_the_whole(seed: int, sizes: list[int], offset: float) -> None:
    x = features(seed, sum(sizes), 5) + offset
    parts = [gaussian_statistics(part) for part in x.split(sizes)]
    whole, merged = gaussian_statistics(x), merge_statistics(parts)
    assert merged.vectors == whole.vectors
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(merged.scatter, whole.scatter, rtol=1e-7, atol=1e-7)
    if sum(sizes) > 1:
        np.testing.assert_allclose(merged.covariance.numpy(), np.cov(x.numpy(), rowvar=False), rtol=1e-6, atol=1e-6)


def test_float32_features_are_summed_in_float64() -> None:
    """A large mean would cost float32, and sums of squares, all digits of the variance."""
    x = features(0, 500, 3).float() * 1e-2 + 1000
    got = merge_statistics(gaussian_statistics(part) for part in x.split(50))
    np.testing.assert_allclose(got.covariance.numpy(), np.cov(x.double().numpy(), rowvar=False), rtol=1e-9)


def test_extraction_is_chunked_and_without_gradient() -> None:
    sizes = []

    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            sizes.append(x.shape[0])
            return x.flatten(1)

    clips = torch.rand(10, 2, 2, requires_grad=True)
    got = extract_statistics(Flat(), clips, chunk=4)
    assert sizes == [4, 4, 2]
    assert not got.mean.requires_grad
    torch.testing.assert_close(got.scatter, gaussian_statistics(clips.flatten(1)).scatter)


def test_errors() -> None:
    x = features(0, 20, 4)
    with pytest.raises(ArgumentError, match="at least 2 feature vectors, got 1"):
        frechet_distance(x[:1], x)
    bad = x.clone()
    bad[3, 2], bad[7] = torch.nan, torch.inf
    with pytest.raises(ArgumentError, match="NaN or infinity in 2 of 20 vectors"):
        frechet_distance(x, bad)
    with pytest.raises(ShapeError, match="`preds`: expected 4 features, those of `target`, got 3"):
        frechet_distance(x[:, :3], x)
    with pytest.raises(ShapeError, match="features"):
        gaussian_statistics(x[0])
    with pytest.raises(ShapeError, match="at least 1 vector"):
        gaussian_statistics(x[:0])
    with pytest.raises(ShapeError, match="floating"):
        gaussian_statistics(x.long())
    with pytest.raises(ShapeError, match="4 features in all"):
        merge_statistics([gaussian_statistics(x), gaussian_statistics(x[:, :2])])
    with pytest.raises(ArgumentError, match="parts"):
        merge_statistics([])
    with pytest.raises(ShapeError, match="covariance2"):
        gaussian_distance(torch.zeros(2), torch.eye(2), torch.zeros(2), torch.eye(3))
    with pytest.raises(ArgumentError, match="clips"):
        extract_statistics(nn.Flatten(), torch.rand(0, 3, 3))
    with pytest.raises(ArgumentError, match="chunk"):
        extract_statistics(nn.Flatten(), torch.rand(2, 3, 3), chunk=0)


@functools.cache
def talkers(frames: int = 80, count: int = 22) -> Tensor:
    corpus = SyntheticCorpus(split="val", speakers=count, clips_per_speaker=1, seconds=frames / 25)
    return torch.stack([torch.from_numpy(clip.landmarks) for clip in corpus])


def test_the_motion_distance_of_talkers() -> None:
    """Still and trembling faces are farther from talkers than other talkers are, and who talks where does not matter."""
    faces = talkers()
    first, second = faces[:11], faces[11:]

    def distance(preds: Tensor, target: Tensor) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # 33 windows a set
            return frechet_motion_distance(preds, target, chunk=5).item()

    real = distance(first, second)
    height = float(second[0, 0, :, 1].max() - second[0, 0, :, 1].min())
    assert distance(second[:, :1].expand_as(second), second) > 2 * real
    assert (
        distance(second + 0.02 * height * torch.randn(second.shape, generator=torch.Generator().manual_seed(0)), second) > real
    )
    moved = 0.3 * second + torch.rand(11, 1, 1, 2, generator=torch.Generator().manual_seed(0)) * 500
    assert distance(moved, second) < 1e-3
    assert distance(first, second) == pytest.approx(distance(second, first), rel=1e-6)
    assert distance(first[:, :40], second[:, :40]) > 0


@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_distances_rise_with_damage(damage: str) -> None:
    """As in the study on real clips, whose damages these are."""
    faces = talkers()[:, :, :, :2]
    target = extract_statistics(load_motion_autoencoder(), faces)
    found = []
    for level in (0.0, 0.5, 1.0):
        preds = DAMAGES[damage](faces, level, torch.Generator().manual_seed(0))
        distance = frechet_distance(extract_statistics(load_motion_autoencoder(), preds), target)
        found.append((distance.item(), landmark_error(preds, faces).item(), landmark_distance(preds, faces).item()))
    assert found[0] == pytest.approx((0, 0, 0), abs=1e-3)
    for values in zip(*found, strict=True):
        assert list(values) == sorted(values)
        assert values[2] > 1.3 * values[1] > 0 or (damage == "time warp" and values[2] > 1.05 * values[1] > 0)


def test_the_motion_distance_refuses_what_it_cannot_take() -> None:
    faces = torch.rand(30, 80, 68, 2)
    with pytest.raises(ShapeError, match="frames=80"):
        frechet_motion_distance(faces[:, :60], faces)
    with pytest.raises(ShapeError, match="dims=2"):
        frechet_motion_distance(torch.rand(30, 80, 68, 3), torch.rand(30, 80, 68, 3))
    with pytest.raises(ClipTooShortError, match="at least 40 frames"):
        frechet_motion_distance(faces[:, :30], faces[:, :30])
    with pytest.raises(ArgumentError, match="at least 2"):
        frechet_motion_distance(faces[:1, :40], faces[:, :40])
    faces[2, 5, 3] = torch.nan
    with pytest.raises(ArgumentError, match="NaN"):
        frechet_motion_distance(faces, faces)


def pairs() -> tuple[Tensor, Tensor]:
    faces = talkers()[:10, :40]
    return faces[:5] * 1.01, faces[5:]


@pytest.mark.parametrize("metric", [LandmarkDistance, LandmarkError, VelocityError, MouthOpeningCorrelation])
def test_classes_are_their_functions_over_batches(metric: type) -> None:
    preds, target = pairs()
    assert metric.higher_is_better is (metric is MouthOpeningCorrelation)
    score = metric.score
    running = metric()
    running.update(preds[:2], target[:2])
    assert running(preds[2:], target[2:]).item() == pytest.approx(score(preds[2:], target[2:]).item(), rel=1e-5), "of the batch"
    assert running.compute().item() == pytest.approx(score(preds, target).item(), rel=1e-5)
    other = metric(dist_sync_fn=lambda state, group: [state, state], distributed_available_fn=lambda: True)
    other.update(preds[:2], target[:2])
    assert other.compute().item() == pytest.approx(score(preds[:2], target[:2]).item(), rel=1e-5), "the same from two processes"
    running.reset()
    with pytest.warns(UserWarning, match="before the ``update``"), pytest.raises(ArgumentError, match="at least one clip"):
        running.compute()


def test_class_options_reach_the_function() -> None:
    preds, target = pairs()
    got = LandmarkDistance(frontal=True, over_points="sum", unit="face", reference="mean")(preds, target)
    expected = LandmarkDistance.score(preds, target, frontal=True, over_points="sum", unit="face", reference="mean")
    assert got.item() == pytest.approx(expected.item(), rel=1e-6)
    lengths = torch.tensor([40, 10, 20, 30, 5])
    assert VelocityError()(preds, target, lengths).item() == pytest.approx(
        VelocityError.score(preds, target, lengths=lengths).item(), rel=1e-6
    )
    with pytest.raises(ArgumentError, match="unit"):
        LandmarkError(unit="px")
    with pytest.raises(ArgumentError, match="over_points"):
        LandmarkDistance(over_points="max")


def test_clips_without_a_correlation_are_counted() -> None:
    target = pairs()[1]
    metric = MouthOpeningCorrelation()
    metric.update(target, target)
    metric.update(target[:2, :1].expand(-1, 40, -1, -1), target[:2])
    assert metric.left_out == 2
    assert metric.compute().item() == pytest.approx(1, abs=1e-5)
    bad = target.clone()
    bad[0, 0, 0] = torch.nan
    bad[0, 3, 62] = torch.nan
    metric.update(bad, target)
    assert metric.compute().isnan(), "NaN is no stillness"


def test_the_streaming_class() -> None:
    x, y = features(0, 40, 6), features(1, 30, 6)
    expected = frechet_distance(x, y).item()
    metric = FrechetDistance(nn.Flatten(), num_features=6, chunk=7)
    for part in x.split(9):
        metric.update(preds=part)
    metric.update(target=y[:11])
    metric.update(target=y[11:])
    assert metric.compute().item() == pytest.approx(expected, rel=1e-9)
    assert not metric.higher_is_better
    assert metric.state_dict() == {}
    copied = copy.deepcopy(metric)
    assert copied.compute().item() == pytest.approx(expected, rel=1e-9)
    assert metric(preds=x, target=y).item() == pytest.approx(expected, rel=1e-9), "forward gives that of the batch"
    metric.reset()
    with pytest.warns(UserWarning, match="before the ``update``"), pytest.raises(ArgumentError, match="at least 2"):
        metric.compute()


def test_the_streaming_class_over_processes() -> None:
    x, y = features(0, 40, 6), features(1, 30, 6)
    ranks = [FrechetDistance(nn.Flatten(), num_features=6) for _ in range(2)]
    ranks[0].update(x[:25], y[:10])
    ranks[1].update(x[25:], y[10:])
    states = {name: [getattr(rank, name).clone() for rank in ranks] for name in ("preds_statistics", "target_statistics")}
    order = iter(states.values())
    gathering = FrechetDistance(
        nn.Flatten(), num_features=6, dist_sync_fn=lambda state, group: next(order), distributed_available_fn=lambda: True
    )
    gathering.update(x[:2], y[:2])
    assert gathering.compute().item() == pytest.approx(frechet_distance(x, y).item(), rel=1e-9)


def test_the_motion_class() -> None:
    faces = talkers()
    metric = FrechetMotionDistance()
    assert metric.extractor.num_features == load_motion_autoencoder().num_features == 64
    for part in faces.split(7):
        metric.update(preds=part.flip(1), target=part)
    assert metric.compute().item() == pytest.approx(frechet_motion_distance(faces.flip(1), faces).item(), rel=1e-5)


def test_class_errors() -> None:
    with pytest.raises(ArgumentError, match="num_features"):
        FrechetDistance(nn.Flatten())
    metric = FrechetDistance(nn.Flatten(), num_features=6)
    with pytest.raises(ArgumentError, match="got neither"):
        metric.update()
    with pytest.raises(ShapeError, match="features"):
        metric.update(torch.rand(3, 5))


def test_the_pretrained_network_follows_the_landmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is moved to their device, whatever that is; here a device without memory stands in for a GPU."""
    moved = []

    class Network(nn.Module):
        def to(self, device: torch.device) -> Network:  # type: ignore[override]
            moved.append(device)
            return self

        def forward(self, landmarks: Tensor) -> Tensor:
            assert landmarks.device == torch.device("meta")
            raise LookupError

    monkeypatch.setattr("avsync.metrics.frechet.load_motion_autoencoder", Network)
    clips = torch.rand(4, 40, 68, 2, device="meta")
    with pytest.raises(LookupError):
        frechet_motion_distance(clips, clips)
    assert moved == [torch.device("meta")]
    with pytest.raises(ArgumentError, match="`preds`: expected it on the device of `target`, meta, got cpu"):
        frechet_motion_distance(torch.rand(4, 40, 68, 2), clips)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_motion_distance_on_a_gpu() -> None:
    clips = torch.rand(2, 80, 40, 68, 2, generator=torch.Generator().manual_seed(0))
    expected = frechet_motion_distance(clips[0], clips[1])
    torch.testing.assert_close(frechet_motion_distance(clips[0].cuda(), clips[1].cuda()).cpu(), expected, rtol=1e-3, atol=0)
