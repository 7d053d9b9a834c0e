"""Landmark geometry: identities, invariances, and the errors."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from avsync import landmarks as lm
from avsync.errors import ArgumentError, ClipTooShortError, ShapeError
from avsync.landmarks import augmentation as views


def clips(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype) * 20 + 100


seeds = st.integers(0, 2**31)
leading = st.sampled_from([(), (1,), (3,), (2, 2)])
dims = st.sampled_from([2, 3])


def test_the_groups_cover_the_68_points_once() -> None:
    points = torch.arange(lm.NUM_POINTS)
    groups = torch.cat([points[group] for group in (lm.JAW, lm.BROWS, lm.NOSE, lm.EYES, lm.OUTER_LIP, lm.INNER_LIP)])
    assert torch.equal(groups, points)
    assert torch.equal(points[lm.MOUTH], torch.arange(48, 68))


def test_flip_index_stays_in_its_group_and_is_its_own_inverse() -> None:
    index = torch.tensor(lm.FLIP_INDEX)
    points = torch.arange(lm.NUM_POINTS)
    assert torch.equal(index[index], points)
    for group in (lm.JAW, lm.BROWS, lm.NOSE, lm.EYES, lm.OUTER_LIP, lm.INNER_LIP):
        assert torch.equal(index[group].sort().values, points[group])
    assert torch.equal((index == points).nonzero().flatten(), torch.tensor([8, 27, 28, 29, 30, 33, 51, 57, 62, 66]))


@given(seeds, leading, dims, st.floats(-500, 500))
def test_flip_twice_is_the_identity(seed: int, batch: tuple[int, ...], dim: int, width: float) -> None:
    x = clips(seed, *batch, 4, 68, dim)
    torch.testing.assert_close(lm.flip(lm.flip(x, width=width), width=width), x)


def test_flip_takes_another_layout() -> None:
    x = torch.tensor([[[1.0, 5.0], [4.0, 6.0]]])
    assert lm.flip(x, width=10, index=(1, 0)).tolist() == [[[6.0, 6.0], [9.0, 5.0]]]


@given(seeds, leading, dims)
def test_accumulate_inverts_velocity(seed: int, batch: tuple[int, ...], dim: int) -> None:
    x = clips(seed, *batch, 6, 9, dim)
    torch.testing.assert_close(lm.accumulate(x[..., 0, :, :], lm.velocity(x)), x)


@given(seeds, leading, dims, st.sampled_from(["first", "mean"]), st.floats(0.01, 100), st.floats(-1e3, 1e3))
def test_displacement_ignores_position_and_scale(
    seed: int, batch: tuple[int, ...], dim: int, reference: str, factor: float, shift: float
) -> None:
    x = clips(seed, *batch, 5, 11, dim)
    moved = lm.displacement(factor * x + shift, reference=reference)
    torch.testing.assert_close(moved, lm.displacement(x, reference=reference), rtol=1e-6, atol=1e-6)


@given(seeds, leading, dims, st.sampled_from(["first", "mean"]))
def test_denormalise_inverts_normalise(seed: int, batch: tuple[int, ...], dim: int, reference: str) -> None:
    x = clips(seed, *batch, 5, 11, dim)
    normalised = lm.normalise(x, reference=reference)
    torch.testing.assert_close(lm.denormalise(*normalised), x)
    face = lm.reference_face(normalised.landmarks, reference)
    torch.testing.assert_close(face.mean(dim=-2), torch.zeros(*batch, dim, dtype=x.dtype), atol=1e-9, rtol=0)
    torch.testing.assert_close(lm.face_height(normalised.landmarks, reference), torch.ones(batch, dtype=x.dtype))


def test_displacement_value_and_given_reference() -> None:
    x = clips(0, 2, 5, 68, 2)
    face = clips(1, 2, 68, 2)
    height = face[..., 1].amax(-1) - face[..., 1].amin(-1)
    expected = torch.stack([3.0 * (x[b] - face[b]) / height[b] for b in range(2)])
    torch.testing.assert_close(lm.displacement(x, reference=face, scale=3.0), expected)
    torch.testing.assert_close(lm.displacement(x), lm.displacement(x, reference=x[:, 0]))


def test_lengths_keep_padding_out_of_the_mean() -> None:
    x = clips(0, 2, 6, 4, 2)
    x[0, 3:] = math.nan
    lengths = torch.tensor([3, 6])
    face = lm.reference_face(x, "mean", lengths=lengths)
    torch.testing.assert_close(face[0], x[0, :3].mean(0))
    torch.testing.assert_close(face[1], x[1].mean(0))
    torch.testing.assert_close(
        lm.displacement(x, reference="mean", lengths=lengths)[0, :3], lm.displacement(x[0, :3], reference="mean")
    )


def test_a_face_without_height_gives_finite_numbers_and_gradients() -> None:
    x = torch.full((1, 3, 4, 2), 5.0, requires_grad=True)
    for y in (lm.displacement(x), lm.normalise(x).landmarks, lm.displacement(torch.zeros(1, 3, 4, 2))):
        assert torch.isfinite(y).all()
    lm.displacement(x).sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()


@pytest.mark.parametrize("shape", [(1, 3, 52, 1), (1, 3, 1, 52), (1, 3, 4, 2), (2, 3, 68, 3)])
def test_without_a_height_the_unit_is_that_of_the_input(shape: tuple[int, ...]) -> None:
    """Blendshapes that start from rest, and landmarks that are all zero: the height was floored, and 8 / 3e-10 came out."""
    x = torch.zeros(shape)
    x[:, 1:] = 0.25
    moved = lm.displacement(x, scale=8.0)
    assert torch.equal(moved[:, 1:], torch.full_like(moved[:, 1:], 2.0))
    for reference in ("first", "mean"):
        zeros = torch.zeros(shape, requires_grad=True)
        lm.displacement(zeros, reference=reference).sum().backward()
        assert zeros.grad.abs().max() <= 8.0 * shape[1]
        zeros.grad = None
        lm.normalise(zeros, reference=reference).landmarks.square().sum().backward()
        assert zeros.grad.abs().max() <= 8.0
    coefficients = torch.rand(2, 5, 52, 1)
    torch.testing.assert_close(lm.displacement(coefficients, scale=1.0), coefficients - coefficients[:, :1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_differences_of_half_precision_landmarks_are_formed_in_float32(dtype: torch.dtype) -> None:
    x = (clips(0, 2, 5, 68, 2, dtype=torch.float32) * 10).to(dtype).requires_grad_()
    exact = x.detach().double()
    pairs = [
        (lm.displacement(x, reference="mean"), lm.displacement(exact, reference="mean")),
        (lm.velocity(x), lm.velocity(exact)),
        (lm.normalise(x).landmarks, lm.normalise(exact).landmarks),
        (lm.mouth_opening(x), lm.mouth_opening(exact)),
        (lm.accumulate(x[:, 0], x[:, 1:]), lm.accumulate(exact[:, 0], exact[:, 1:])),
        (lm.motion_features(x, motion=lm.MOTIONS), lm.motion_features(exact, motion=lm.MOTIONS)),
        (lm.frontalise(x), lm.frontalise(exact)),
    ]
    for found, expected in pairs:
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-4)
    sum(found.sum() for found, _ in pairs).backward()
    assert x.grad.dtype == dtype and x.grad.isfinite().all()


def test_mouth_opening_by_hand() -> None:
    x = clips(0, 2, 4, 68, 2)
    expected = torch.stack([torch.linalg.vector_norm(c[:, 62] - c[:, 66], dim=-1) / lm.face_height(c) for c in x])
    torch.testing.assert_close(lm.mouth_opening(x), expected)


@given(seeds, leading, dims)
def test_augmentation_is_one_similarity_a_clip(seed: int, batch: tuple[int, ...], dim: int) -> None:
    x = clips(seed, *batch, 4, 68, dim)
    generator = torch.Generator().manual_seed(seed)
    y = views.augment(x, rotation=0.5, translation=0.3, generator=generator)
    assert y.shape == x.shape
    flat_x, flat_y = x.reshape(-1, 4 * 68, dim), y.reshape(-1, 4 * 68, dim)
    renamed = lm.flip(x).reshape(-1, 4 * 68, dim)
    for before, after, mirrored in zip(flat_x, flat_y, renamed, strict=True):
        distances = torch.pdist(after)
        candidates = [distances / torch.pdist(candidate) for candidate in (before, mirrored)]
        ratio = min(candidates, key=lambda ratio: float(ratio.std()))
        torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-6, atol=1e-6)
        assert 0.9 <= ratio.mean() <= 1.1


@given(seeds)
def test_augmentation_moves_the_first_centroid_by_the_translation_only(seed: int) -> None:
    x = clips(seed, 5, 4, 68, 2)
    y = views.augment(x, translation=0.1, generator=torch.Generator().manual_seed(seed))
    shift = (y[:, 0].mean(1) - x[:, 0].mean(1)).abs() / lm.face_height(x)[:, None]
    assert shift.max() <= 0.1 + 1e-9
    assert shift.max() > 0.001


def test_augmentation_off_is_the_identity_and_chance_is_the_generators() -> None:
    x = clips(0, 3, 4, 68, 2)
    torch.testing.assert_close(views.augment(x, scale=(1, 1), translation=0, rotation=0, flip_probability=0), x)
    torch.testing.assert_close(
        views.augment(x, scale=(1, 1), translation=0, rotation=0, flip_probability=1),
        lm.flip(x - x[:, :1].mean(2, keepdim=True)) + x[:, :1].mean(2, keepdim=True),
    )
    state = torch.get_rng_state()
    first, again, other = (views.augment(x, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())
    assert views.augment(x[..., :5, :], flip_probability=0).shape == (3, 4, 5, 2)


def test_the_flipped_share_is_as_asked() -> None:
    x = clips(0, 1000, 1, 68, 2)
    y = views.augment(
        x, scale=(1, 1), translation=0, rotation=0, flip_probability=0.3, generator=torch.Generator().manual_seed(0)
    )
    share = (y != x).flatten(1).any(1) & ((y - x).flatten(1).abs().amax(1) > 1e-6)
    assert 0.25 < share.double().mean() < 0.35


def test_module_equals_the_function_in_training_and_rests_in_evaluation() -> None:
    x = clips(0, 2, 4, 68, 2)
    module = views.LandmarkAugment(scale=(0.5, 2.0), translation=0.2, rotation=0.3, flip_probability=0.7)
    expected = views.augment(
        x, scale=(0.5, 2.0), translation=0.2, rotation=0.3, flip_probability=0.7, generator=torch.Generator().manual_seed(3)
    )
    assert torch.equal(module(x, generator=torch.Generator().manual_seed(3)), expected)
    assert torch.equal(module.eval()(x), x)
    assert not module.state_dict()
    assert "scale=(0.5, 2.0)" in repr(module)


def test_gradients() -> None:
    x = clips(0, 2, 3, 68, 2)[:, :, :, :].requires_grad_()
    small = clips(0, 1, 3, 4, 2).requires_grad_()
    assert torch.autograd.gradcheck(lm.displacement, small)
    assert torch.autograd.gradcheck(lambda v: lm.normalise(v, reference="mean").landmarks, small)
    assert torch.autograd.gradcheck(lambda v: lm.accumulate(v[:, 0], lm.velocity(v)), small)
    (
        lm.flip(x).sum() + lm.mouth_opening(x).sum() + views.augment(x, generator=torch.Generator().manual_seed(0)).sum()
    ).backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lm.displacement(torch.zeros(68, 2)), r"`landmarks`: expected \(\.\.\., frames, points, dims\), got \(68, 2\)"),
        (
            lambda: lm.displacement(torch.zeros(3, 68, 2), reference=torch.zeros(67, 2)),
            r"`reference`: .*points=68.*got \(67, 2\)",
        ),
        (
            lambda: lm.reference_face(torch.zeros(2, 3, 4, 2), "mean", lengths=torch.ones(3)),
            r"`lengths`: expected \(2,\), got \(3,\)",
        ),
        (
            lambda: lm.displacement(torch.zeros(2, 3, 4, 2), reference=torch.zeros(2, 3, 4, 2)),
            r"`reference`: expected 'first', 'mean' or one face for each clip, \(2, points=4, dims=2\), got \(2, 3, 4, 2\)",
        ),
        (lambda: lm.displacement(torch.zeros(2, 3, 4, 2), reference=torch.zeros(3, 4, 2)), r"`reference`: .*got \(3, 4, 2\)"),
        (lambda: lm.displacement(torch.zeros(2, 3, 4, 2), reference=torch.zeros(4, 2).numpy()), r"`reference`: .*got ndarray"),
        (lambda: lm.displacement(torch.zeros(2, 3, 4, 2).numpy()), r"`landmarks`: .*got ndarray"),
        (lambda: lm.reference_face(torch.zeros(2, 3, 4, 2), "mean", lengths=[3, 3]), r"`lengths`: expected \(2,\), got list"),
        (lambda: lm.denormalise(torch.zeros(2, 3, 4, 2), torch.zeros(2), torch.zeros(2)), r"`centre`: expected \(2, 2\)"),
        (lambda: lm.flip(torch.zeros(3, 20, 2)), r"points=68.*got \(3, 20, 2\)"),
        (lambda: lm.flip(torch.zeros(3, 68, 1)), r"dims>=2.*got \(3, 68, 1\)"),
        (lambda: lm.mouth_opening(torch.zeros(3, 20, 2)), r"points=68"),
        (lambda: views.augment(torch.zeros(3, 20, 2)), r"points=68"),
        (lambda: lm.displacement(torch.zeros(3, 68, 2, dtype=torch.int64)), r"floating"),
        (lambda: lm.displacement(torch.zeros(3, 0, 2)), r"got \(3, 0, 2\)"),
        (lambda: lm.accumulate(torch.zeros(4, 2), torch.zeros(3, 5, 2)), r"`first` and `velocity`"),
    ],
)
def test_wrong_shapes(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(ShapeError, match=message):
        call()


def test_too_short_and_wrong_values() -> None:
    with pytest.raises(ClipTooShortError, match="at least 2 frames"):
        lm.velocity(torch.zeros(1, 68, 2))
    with pytest.raises(ClipTooShortError, match="at least 1 frames"):
        lm.displacement(torch.zeros(0, 68, 2))
    x = torch.zeros(1, 68, 2)
    with pytest.raises(ArgumentError, match="`reference`"):
        lm.displacement(x, reference="last")
    for settings in (
        {"scale": (0.0, 1.0)},
        {"scale": (1.1, 0.9)},
        {"translation": -1.0},
        {"rotation": -1.0},
        {"flip_probability": 2.0},
    ):
        with pytest.raises(ArgumentError, match=next(iter(settings))):
            views.augment(x, **settings)


def test_compiles_whole() -> None:
    compiled = torch.compile(lambda v: lm.displacement(v) + lm.flip(v), fullgraph=True, backend="eager")
    x = clips(0, 2, 4, 68, 2)
    torch.testing.assert_close(compiled(x), lm.displacement(x) + lm.flip(x))
