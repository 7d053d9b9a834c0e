"""Contrastive losses: values against the reference, properties, gradients, precision, compilation, negatives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from avsync.errors import ArgumentError, ClipTooShortError, ShapeError
from avsync.losses._windows import sampled_similarity
from avsync.losses.all_pairs import AllPairsInfoNCE, all_pairs_info_nce
from avsync.losses.info_nce import InfoNCE, chance_level, info_nce, sampled_info_nce
from avsync.losses.negatives import excluded_pairs, gather_negatives, sample_negatives
from avsync.losses.pairs import (
    ContrastiveLoss,
    CosineBCE,
    LogitScale,
    SigmoidPairLoss,
    contrastive_loss,
    cosine_bce,
    sigmoid_pair_loss,
)
from avsync.models.syncer.interface import cosine_similarity, half_squared_distance, unit_norm
from tests.reference import contrastive as reference

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
SEEDS = st.integers(min_value=0, max_value=10_000)
BATCH_LOSSES: list[Callable[..., nn.Module]] = [InfoNCE, AllPairsInfoNCE, ContrastiveLoss, CosineBCE, SigmoidPairLoss]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pair(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    motion, audio = torch.randn(2, *shape, generator=seeded(seed), dtype=dtype)
    return motion, audio


def some_mask(clips: int, windows: int, seed: int) -> Tensor:
    lengths = torch.randint(1, windows + 1, (clips,), generator=seeded(seed))
    return torch.arange(windows) < lengths[:, None]


# --- similarity -------------------------------------------------------------------------------------------------------------------


@given(seed=SEEDS, factor=st.floats(min_value=1e-4, max_value=1e4))
def test_cosine(seed: int, factor: float) -> None:
    motion, audio = pair(3, 5, seed=seed)
    scores = cosine_similarity(motion, audio)
    expected = [reference.cosine(m, a) for m, a in zip(motion.numpy(), audio.numpy(), strict=True)]
    np.testing.assert_allclose(scores.numpy(), expected, atol=1e-12)
    torch.testing.assert_close(cosine_similarity(factor * motion, audio), scores)
    torch.testing.assert_close(half_squared_distance(motion, audio), 1 - scores)


def test_embeddings_of_zeros_have_no_gradient_and_no_nan() -> None:
    zeros = torch.zeros(2, 4, requires_grad=True)
    cosine_similarity(torch.ones(2, 4), zeros).sum().backward()
    assert zeros.grad is not None and (zeros.grad == 0).all()
    assert (unit_norm(torch.zeros(3)) == 0).all()


@pytest.mark.parametrize("embed", [1, 64])  # either side of the choice between the matrix of scores and copies
def test_sampled_similarity(embed: int) -> None:
    motion, audio = pair(3, 6, embed)
    indices = sample_negatives(3, 6, 4, generator=seeded())
    expected = cosine_similarity(audio[:, :, None].expand(-1, -1, 4, -1), gather_negatives(motion, indices))
    torch.testing.assert_close(sampled_similarity(motion, audio, indices), expected)


# --- InfoNCE ----------------------------------------------------------------------------------------------------------------------


@given(seed=SEEDS, temperature=st.floats(min_value=0.02, max_value=2.0))
def test_info_nce_against_the_reference(seed: int, temperature: float) -> None:
    motion, audio = pair(4, 6, seed=seed)
    negatives = torch.randn(4, 5, 6, generator=seeded(seed + 1), dtype=torch.float64)
    losses = info_nce(motion, audio, negatives, temperature=temperature, reduction="none")
    rows = zip(motion.numpy(), audio.numpy(), negatives.numpy(), strict=True)
    np.testing.assert_allclose(losses.numpy(), [reference.info_nce(*row, temperature) for row in rows], rtol=1e-7, atol=1e-9)
    assert (losses >= 0).all()
    assert (losses <= chance_level(5) + 2 / temperature).all()
    assert info_nce(motion, audio, negatives, temperature=temperature) == losses.mean()


@given(seed=SEEDS, factor=st.floats(min_value=1e-3, max_value=1e3))
def test_info_nce_ignores_order_and_scale(seed: int, factor: float) -> None:
    motion, audio = pair(3, 6, seed=seed)
    negatives = torch.randn(3, 8, 6, generator=seeded(seed + 1), dtype=torch.float64)
    loss = info_nce(motion, audio, negatives)
    order = torch.randperm(8, generator=seeded(seed))
    torch.testing.assert_close(info_nce(motion, audio, negatives[:, order]), loss)
    torch.testing.assert_close(info_nce(factor * motion, audio / factor, factor * negatives), loss)


@given(number=st.integers(min_value=1, max_value=60), temperature=st.floats(min_value=0.01, max_value=10.0))
def test_info_nce_at_chance_is_log_n_plus_one(number: int, temperature: float) -> None:
    motion, audio = pair(2, 6)
    negatives = motion[:, None].expand(-1, number, -1)
    loss = info_nce(motion, audio, negatives, temperature=temperature)
    assert loss.item() == pytest.approx(math.log(number + 1)) == chance_level(number)


@given(seed=SEEDS)
def test_info_nce_gradient_pulls_the_positive_and_pushes_the_negatives(seed: int) -> None:
    motion, audio = pair(4, 6, seed=seed)
    motion.requires_grad_()
    negatives = torch.randn(4, 5, 6, generator=seeded(seed + 1), dtype=torch.float64, requires_grad=True)
    info_nce(motion, audio, negatives).backward()
    with torch.no_grad():
        nearer = motion - 1e-3 * motion.grad / (motion.grad.norm() + 1e-30)
        farther = negatives - 1e-3 * negatives.grad / (negatives.grad.norm() + 1e-30)
        before = cosine_similarity(motion, audio)
        assert (cosine_similarity(audio, nearer) >= before - 1e-9).all()
        wide = audio[:, None].expand(-1, 5, -1)
        assert (cosine_similarity(farther, wide) <= cosine_similarity(negatives, wide) + 1e-9).all()


def test_a_lower_temperature_sharpens() -> None:
    audio = torch.eye(4, dtype=torch.float64)
    right, wrong = audio, audio.roll(1, dims=0)
    for good, bad, sign in ((right, wrong, 1), (wrong, right, -1)):
        warm, cold = (info_nce(good, audio, bad[:, None], temperature=t) for t in (0.5, 0.1))
        assert sign * (warm - cold) > 0


def test_the_temperature_may_be_a_tensor_and_learns() -> None:
    motion, audio = pair(2, 6, 8)
    temperature = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    loss = all_pairs_info_nce(motion, audio, temperature=temperature)
    torch.testing.assert_close(loss, all_pairs_info_nce(motion, audio, temperature=0.2))
    loss.backward()
    assert temperature.grad is not None and temperature.grad.abs() > 0


@pytest.mark.parametrize("temperature", [0.07, 0.01])  # either side of the short cut without a maximum
@given(
    seed=SEEDS,
    clips=st.integers(1, 3),
    windows=st.integers(1, 5),
    exclusion=st.integers(0, 2),
    masked=st.booleans(),
    symmetric=st.booleans(),
)
def test_all_pairs_against_the_reference(
    temperature: float, seed: int, clips: int, windows: int, exclusion: int, masked: bool, symmetric: bool
) -> None:
    motion, audio = pair(clips, windows, 6, seed=seed)
    mask = some_mask(clips, windows, seed) if masked else None
    if clips == 1 and windows < 2 * exclusion + 2:
        with pytest.raises(ClipTooShortError, match=f"at least {2 * exclusion + 2} windows"):
            all_pairs_info_nce(motion, audio, temperature=temperature, exclusion=exclusion, mask=mask, symmetric=symmetric)
        return
    losses = all_pairs_info_nce(
        motion, audio, temperature=temperature, exclusion=exclusion, mask=mask, symmetric=symmetric, reduction="none"
    )
    valid = np.ones((clips, windows), dtype=bool) if mask is None else mask.numpy()
    expected = reference.all_pairs_info_nce(motion.numpy(), audio.numpy(), temperature, exclusion, valid, symmetric=symmetric)
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-7, atol=1e-9)
    mean = all_pairs_info_nce(motion, audio, temperature=temperature, exclusion=exclusion, mask=mask, symmetric=symmetric)
    assert mean.item() == pytest.approx(expected[valid].mean(), abs=1e-9)


def test_all_pairs_short_cut_and_floor_of_the_temperature() -> None:
    motion, audio = pair(4, 9, 8, dtype=torch.float32)
    cold = torch.tensor(0.001)
    floored = all_pairs_info_nce(motion, audio, temperature=cold, min_temperature=0.02)
    torch.testing.assert_close(floored, all_pairs_info_nce(motion, audio, temperature=0.02), rtol=1e-5, atol=1e-5)
    extreme = all_pairs_info_nce(-audio, audio, temperature=0.001)
    assert extreme.isfinite() and extreme > 1000


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_several_levels_are_each_by_itself(reduction: str) -> None:
    levels = [pair(3, 9, 8), pair(2, 5, 4, seed=1)]
    masks, taus = [None, some_mask(2, 5, 1)], [0.2, torch.tensor(0.01, dtype=torch.float64)]
    motion, audio = zip(*levels, strict=True)
    options = {"temperature": taus, "mask": masks, "reduction": reduction}
    drawn = [sample_negatives(3, 9, 4, generator=seeded()), sample_negatives(2, 5, 2, mask=masks[1], generator=seeded())]
    together = all_pairs_info_nce(motion, audio, **options), sampled_info_nce(motion, audio, drawn, **options)
    for i, (m, a) in enumerate(levels):
        alone = {"temperature": taus[i], "mask": masks[i], "reduction": reduction}
        torch.testing.assert_close(together[0][i], all_pairs_info_nce(m, a, **alone))
        torch.testing.assert_close(together[1][i], sampled_info_nce(m, a, drawn[i], **alone))


@given(seed=SEEDS)
def test_padding_is_inert(seed: int) -> None:
    motion, audio = pair(3, 5, 6, seed=seed)
    mask = some_mask(3, 5, seed)
    junk = torch.where(mask[..., None], audio, 1e3), torch.where(mask[..., None], motion, -7.0)
    for loss in (
        lambda m, a: all_pairs_info_nce(m, a, mask=mask, exclusion=1),
        lambda m, a: sigmoid_pair_loss(m, a, mask=mask, exclusion=1),
    ):
        torch.testing.assert_close(loss(motion, audio), loss(*junk))


def test_sampled_equals_gathered() -> None:
    motion, audio = pair(4, 12, 8)
    indices = sample_negatives(4, 12, 7, generator=seeded())
    losses = sampled_info_nce(motion, audio, indices, reduction="none")
    expected = info_nce(motion, audio, gather_negatives(motion, indices), reduction="none")
    torch.testing.assert_close(losses, expected)
    mask = some_mask(4, 12, 0)
    indices = sample_negatives(4, 12, 7, mask=mask, generator=seeded())
    expected = info_nce(motion, audio, gather_negatives(motion, indices), reduction="none")
    torch.testing.assert_close(sampled_info_nce(motion, audio, indices, mask=mask), expected[mask].mean())


# --- negatives --------------------------------------------------------------------------------------------------------------------


@given(
    seed=SEEDS,
    clips=st.integers(1, 4),
    windows=st.integers(1, 9),
    number=st.integers(1, 20),
    exclusion=st.integers(0, 3),
    source=st.sampled_from(["both", "in_clip", "cross_clip"]),
    masked=st.booleans(),
)
def test_negatives_are_where_they_may_be(
    seed: int, clips: int, windows: int, number: int, exclusion: int, source: str, masked: bool
) -> None:
    mask = some_mask(clips, windows, seed) if masked else None
    can_in_clip, can_cross = windows >= 2 * exclusion + 2, clips > 1
    possible = {"in_clip": can_in_clip, "cross_clip": can_cross, "both": can_in_clip or can_cross}[source]

    def draw() -> Tensor:
        return sample_negatives(clips, windows, number, source=source, exclusion=exclusion, mask=mask, generator=seeded(seed))

    if not possible:
        with pytest.raises(ShapeError):
            draw()
        return
    indices = draw()
    assert indices.shape == (clips, windows, number) and indices.dtype == torch.int64
    assert (indices >= 0).all() and (indices < clips * windows).all()
    clip, window = indices // windows, indices % windows
    same = clip == torch.arange(clips)[:, None, None]
    distance = (window - torch.arange(windows)[None, :, None]).abs()
    assert not (same & (distance <= exclusion)).any()
    if source != "both":
        assert (same == (source == "in_clip")).all()
    elif can_in_clip and can_cross and mask is None:
        assert (same.sum(dim=-1) == number // 2).all()
    if mask is not None:
        allowed = candidates(clips, windows, exclusion, source, mask)
        drawn_padding = ~mask.reshape(-1)[indices]
        assert not (drawn_padding.any(dim=-1) & allowed.any(dim=-1).reshape(clips, windows)).any()


def candidates(clips: int, windows: int, exclusion: int, source: str, mask: Tensor) -> Tensor:
    """All pairs (anchors, windows) that may be drawn, by the definition."""
    clip = torch.arange(clips).repeat_interleave(windows)
    window = torch.arange(windows).repeat(clips)
    same = clip[:, None] == clip
    outside = ~same | ((window[:, None] - window).abs() > exclusion)
    kind = {"both": torch.ones_like(same), "in_clip": same, "cross_clip": ~same}[source]
    return outside & kind & mask.reshape(-1)


@pytest.mark.parametrize("source", ["in_clip", "cross_clip"])
def test_negatives_are_even_and_distinct(source: str) -> None:
    counts = torch.zeros(20, 20)
    generator = seeded()
    for _ in range(1000):
        row = sample_negatives(2, 10, 3, source=source, exclusion=1, generator=generator).reshape(20, 3)
        assert (row.sort(dim=-1).values.diff(dim=-1) > 0).all()
        counts.scatter_add_(1, row, torch.ones(20, 3))
    allowed = candidates(2, 10, 1, source, torch.ones(2, 10, dtype=torch.bool))
    share = counts / counts.sum(dim=1, keepdim=True) * allowed.sum(dim=1, keepdim=True)
    assert (counts[~allowed] == 0).all()
    torch.testing.assert_close(share[allowed], torch.ones_like(share[allowed]), rtol=0, atol=0.25)


def test_negatives_repeat_for_a_seed_and_differ_between_draws() -> None:
    generator = seeded(3)
    first, second = (sample_negatives(3, 20, 8, generator=generator) for _ in range(2))
    torch.testing.assert_close(first, sample_negatives(3, 20, 8, generator=seeded(3)))
    assert (first != second).any()


def test_negatives_when_one_source_is_empty() -> None:
    one_clip = sample_negatives(1, 10, 5, generator=seeded())
    assert one_clip.shape == (1, 10, 5)
    short = sample_negatives(3, 2, 5, exclusion=1, generator=seeded())
    assert (short // 2 != torch.arange(3)[:, None, None]).all()


def test_excluded_pairs() -> None:
    assert excluded_pairs(2, 3) is None
    mask = torch.tensor([[True, True, False]])
    table = excluded_pairs(1, 3, mask=mask)
    assert table is not None
    assert table.int().tolist() == [[0, 0, 1], [0, 0, 1], [1, 1, 0]]


# --- losses on single pairs -------------------------------------------------------------------------------------------------------


@given(seed=SEEDS, margin=st.floats(min_value=0.1, max_value=2.0))
def test_margin_against_the_reference(seed: int, margin: float) -> None:
    motion, audio = pair(6, 5, seed=seed)
    target = torch.rand(6, generator=seeded(seed), dtype=torch.float64).round()
    losses = contrastive_loss(motion, audio, target, margin=margin, reduction="none")
    rows = zip(motion.numpy(), audio.numpy(), target.numpy(), strict=True)
    np.testing.assert_allclose(losses.numpy(), [reference.contrastive_loss(*row, margin) for row in rows], atol=1e-10)
    torch.testing.assert_close(contrastive_loss(motion, audio, target.bool(), margin=margin, reduction="none"), losses)


def test_margin_gradient_is_finite_at_distance_zero() -> None:
    for dtype in (torch.float32, torch.float64):
        audio = torch.randn(4, 8, generator=seeded(), dtype=dtype, requires_grad=True)
        for other in (audio.detach().clone(), audio.detach() * (1 + 1e-6)):
            (gradient,) = torch.autograd.grad(contrastive_loss(audio, other, torch.zeros(4)), audio)
            assert gradient.isfinite().all() and gradient.abs().max() < 10


@pytest.mark.parametrize("mapping", ["cosine", "affine"])
@given(seed=SEEDS)
def test_cosine_bce_against_the_reference(mapping: str, seed: int) -> None:
    motion, audio = (x.abs() + 0.01 for x in pair(6, 5, seed=seed))
    target = torch.rand(6, generator=seeded(seed), dtype=torch.float64).round()
    losses = cosine_bce(motion, audio, target, mapping=mapping, reduction="none")
    rows = zip(motion.numpy(), audio.numpy(), target.numpy(), strict=True)
    np.testing.assert_allclose(losses.numpy(), [reference.cosine_bce(*row, mapping) for row in rows], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("mapping", ["cosine", "affine"])
def test_cosine_bce_is_finite_at_both_ends_and_exact_near_one(mapping: str) -> None:
    audio = torch.randn(3, 8, generator=seeded(), requires_grad=True)
    for other in (audio.detach().clone(), -audio.detach()):
        for target in (torch.zeros(3), torch.ones(3)):
            loss = cosine_bce(audio, other, target, mapping=mapping)
            (gradient,) = torch.autograd.grad(loss, audio)
            assert loss.isfinite() and loss < 20 and gradient.isfinite().all()
    # 1 - cos = 5e-7 here: a cosine rounded to float32 would be wrong by a tenth of that
    a, m = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1e-3]])
    half = 0.5e-6 if mapping == "cosine" else 0.25e-6
    assert cosine_bce(m, a, torch.zeros(1), mapping=mapping).item() == pytest.approx(-math.log(half), rel=1e-5)


@given(seed=SEEDS, exclusion=st.integers(0, 2), masked=st.booleans())
def test_sigmoid_pairs_against_the_reference(seed: int, exclusion: int, masked: bool) -> None:
    motion, audio = pair(2, 4, 5, seed=seed)
    mask = some_mask(2, 4, seed) if masked else None
    valid = np.ones((2, 4), dtype=bool) if mask is None else mask.numpy()
    rows = sigmoid_pair_loss(motion, audio, scale=5.0, bias=-2.0, exclusion=exclusion, mask=mask, reduction="none")
    expected = reference.sigmoid_pair_loss(motion.numpy(), audio.numpy(), 5.0, -2.0, exclusion, valid)
    np.testing.assert_allclose(rows.numpy(), expected, rtol=1e-7, atol=1e-9)


def test_modules_of_sampled_pairs_equal_the_functions() -> None:
    motion, audio = (x.abs() for x in pair(3, 8, 6))
    wide = (x[:, :, None].expand(-1, -1, 4, -1) for x in (audio, audio))
    indices = sample_negatives(3, 8, 4, source="in_clip", generator=seeded(5))
    others, ones, zeros = gather_negatives(motion, indices), torch.ones(3, 8), torch.zeros(3, 8, 4)
    anchors = next(wide)
    settings: dict[str, Any] = {"num_negatives": 4, "source": "in_clip"}
    margin = ContrastiveLoss(margin=0.8, **settings)(motion, audio, generator=seeded(5))
    expected = contrastive_loss(motion, audio, ones, margin=0.8) + contrastive_loss(others, anchors, zeros, margin=0.8)
    torch.testing.assert_close(margin, 0.5 * expected)
    entropy = CosineBCE(**settings)(motion, audio, generator=seeded(5))
    torch.testing.assert_close(entropy, 0.5 * (cosine_bce(motion, audio, ones) + cosine_bce(others, anchors, zeros)))
    nce = InfoNCE(**settings)(motion, audio, generator=seeded(5))
    torch.testing.assert_close(nce, info_nce(motion, audio, others))


def test_modules_keep_the_roles_of_motion_and_audio() -> None:
    """Without the mean over both directions, or without a reduction, a swap of the two changes the numbers."""
    motion, audio = pair(3, 8, 6)
    settings: dict[str, Any] = {"temperature": 0.2, "symmetric": False}
    expected = all_pairs_info_nce(motion, audio, **settings)
    torch.testing.assert_close(AllPairsInfoNCE(**settings)(motion, audio), expected)
    assert not torch.isclose(all_pairs_info_nce(audio, motion, **settings), expected)
    module = SigmoidPairLoss(reduction="none")
    expected = sigmoid_pair_loss(motion, audio, scale=module.logit_scale(), bias=module.bias, reduction="none")
    torch.testing.assert_close(module(motion, audio), expected)


# --- every loss -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("make", BATCH_LOSSES)
def test_smoke_on_every_device(make: Callable[..., nn.Module], device: str) -> None:
    motion, audio = (x.to(device).requires_grad_() for x in pair(3, 9, 16, dtype=torch.float32))
    mask = torch.ones(3, 9, dtype=torch.bool, device=device)
    mask[1, 6:] = False
    loss = make().to(device)
    value = loss(motion, audio, mask=mask)
    value.backward()
    assert value.ndim == 0 and value.dtype == torch.float32 and value.device.type == device
    assert audio.grad is not None and audio.grad.isfinite().all() and (audio.grad[1, 6:] == 0).all()


@pytest.mark.parametrize("make", BATCH_LOSSES)
def test_training_on_the_embeddings_finds_the_pairs(make: Callable[..., nn.Module]) -> None:
    motion, audio = (x.abs().requires_grad_() for x in pair(3, 6, 16, dtype=torch.float32))
    loss = make()
    optimiser = torch.optim.Adam([audio, motion], lr=0.1)
    generator = seeded()
    sampled = {"generator": generator} if make in {InfoNCE, ContrastiveLoss, CosineBCE} else {}
    for _ in range(50):
        optimiser.zero_grad()
        loss(motion, audio, **sampled).backward()
        optimiser.step()
    scores = unit_norm(audio).flatten(0, 1) @ unit_norm(motion).flatten(0, 1).T
    assert (scores.argmax(dim=1) == torch.arange(18)).float().mean() > 0.85


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make", BATCH_LOSSES)
def test_autocast_and_half_embeddings(make: Callable[..., nn.Module], dtype: torch.dtype, device: str) -> None:
    layer = nn.Linear(16, 16).to(device)
    x = 30 * torch.randn(3, 9, 16, generator=seeded()).to(device)
    loss = make().to(device)
    with torch.autocast(device_type=device, dtype=dtype):
        embeddings = layer(x)
        assert embeddings.dtype == dtype
        value = loss(embeddings, embeddings.roll(1, dims=-1))
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


def scalar_losses() -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    indices = sample_negatives(2, 5, 3, generator=seeded())
    mask = some_mask(2, 5, 1)
    target = torch.tensor([[1.0, 0.0, 1.0, 0.0, 0.0]]).repeat(2, 1)
    return {
        "info_nce": lambda m, a: info_nce(m, a, gather_negatives(m, indices)),
        "sampled_info_nce": lambda m, a: sampled_info_nce(m, a, indices),
        "all_pairs": lambda m, a: all_pairs_info_nce(m, a, exclusion=1, mask=mask),
        "all_pairs_cold": lambda m, a: all_pairs_info_nce(m, a, temperature=0.01),
        "margin": lambda m, a: contrastive_loss(m, a, target, margin=1.3),
        "cosine_bce": lambda m, a: cosine_bce(m, a, target, mapping="affine"),
        "cosine_bce_published": lambda m, a: cosine_bce(m.abs(), a.abs(), target),
        "sigmoid_pair_loss": lambda m, a: sigmoid_pair_loss(m, a, scale=3.0, bias=-1.0, exclusion=1, mask=mask),
    }


@pytest.mark.parametrize("name", list(scalar_losses()))
def test_gradcheck(name: str) -> None:
    motion, audio = (x.requires_grad_() for x in pair(2, 5, 3))
    assert torch.autograd.gradcheck(scalar_losses()[name], (motion, audio))


@pytest.mark.parametrize("name", ["info_nce", "all_pairs_cold", "margin", "cosine_bce"])  # the modules below cover the others
def test_functions_compile_whole(name: str) -> None:
    motion, audio = pair(2, 5, 8, dtype=torch.float32)
    loss = scalar_losses()[name]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(motion, audio), loss(motion, audio))


@pytest.mark.parametrize("make", BATCH_LOSSES)
def test_modules_compile_whole(make: Callable[..., nn.Module]) -> None:
    motion, audio = (x.requires_grad_() for x in pair(3, 9, 8, dtype=torch.float32))
    mask = some_mask(3, 9, 0)
    value = torch.compile(make(), fullgraph=True, backend="aot_eager")(motion, audio, mask=mask)
    value.backward()
    assert value.isfinite() and audio.grad is not None and audio.grad.isfinite().all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own, as inductor is imported
def test_all_pairs_compiles_with_inductor() -> None:
    motion, audio = (x.requires_grad_() for x in pair(2, 5, 8, dtype=torch.float32))
    compiled = torch.compile(all_pairs_info_nce, fullgraph=True)
    (expected,) = torch.autograd.grad(all_pairs_info_nce(motion, audio, exclusion=1), audio)
    (gradient,) = torch.autograd.grad(compiled(motion, audio, exclusion=1), audio)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", BATCH_LOSSES)
def test_reductions(make: Callable[..., nn.Module]) -> None:
    motion, audio = pair(3, 9, 8)
    mask = some_mask(3, 9, 2)
    sampled = make in {InfoNCE, ContrastiveLoss, CosineBCE}
    values = {
        reduction: make(reduction=reduction)(motion, audio, mask=mask, **({"generator": seeded()} if sampled else {}))
        for reduction in ("none", "mean", "sum")
    }
    assert values["none"].shape == (3, 9) and (values["none"][~mask] == 0).all()
    torch.testing.assert_close(values["sum"], values["none"].sum())
    torch.testing.assert_close(values["mean"], values["none"][mask].mean())


@pytest.mark.parametrize("make", [InfoNCE, ContrastiveLoss, CosineBCE])
def test_negatives_drawn_beforehand(make: Callable[..., nn.Module]) -> None:
    motion, audio = pair(3, 9, 8)
    loss = make(num_negatives=5)
    indices = sample_negatives(3, 9, 5, generator=seeded(4))
    assert loss(motion, audio, indices=indices) == loss(motion, audio, generator=seeded(4))


def test_logit_scale() -> None:
    scale = LogitScale()
    assert scale().item() == pytest.approx(1 / 0.07)
    assert [name for name, _ in scale.named_parameters()] == ["log_scale"]
    with torch.no_grad():
        scale.log_scale.fill_(10.0)
    value = scale()
    value.backward()
    assert value.item() == pytest.approx(100.0) and scale.log_scale.grad == pytest.approx(100.0)
    assert LogitScale().half()().dtype == torch.float32


@pytest.mark.parametrize("make", [InfoNCE, AllPairsInfoNCE])
def test_learnable_temperature(make: Callable[..., nn.Module]) -> None:
    motion, audio = pair(3, 9, 8, dtype=torch.float32)
    loss = make(learnable=True)
    loss(motion, audio).backward()
    (parameter,) = loss.parameters()
    assert parameter.grad is not None and parameter.grad.isfinite()
    assert not list(make().parameters())


def test_bad_arguments() -> None:
    motion, audio = pair(2, 6, 4)
    with pytest.raises(
        ShapeError, match=r"`motion`, `audio`: expected the same shape \(..., embed\), got \(2, 6, 4\) and \(6, 4\)"
    ):
        cosine_similarity(motion, audio[0])
    with pytest.raises(ShapeError, match=r"expected \(clips, windows, embed\), got \(6, 4\)"):
        all_pairs_info_nce(audio[0], motion[0])
    with pytest.raises(ShapeError, match="floating-point"):
        cosine_similarity(motion.long(), audio.long())
    with pytest.raises(ShapeError, match="`negatives`"):
        info_nce(motion, audio, motion)
    with pytest.raises(ShapeError, match="at least one negative"):
        info_nce(motion, audio, motion[:, :, None][:, :, :0])
    with pytest.raises(ShapeError, match="`indices`"):
        gather_negatives(audio, torch.zeros(2, 5, 1, dtype=torch.int64))
    with pytest.raises(ShapeError, match="`mask`"):
        all_pairs_info_nce(motion, audio, mask=torch.ones(2, 6))
    with pytest.raises(ShapeError, match="`target`"):
        contrastive_loss(motion, audio, torch.ones(2))
    with pytest.raises(ArgumentError, match="`reduction`"):
        all_pairs_info_nce(motion, audio, reduction="avg")
    with pytest.raises(ArgumentError, match="`temperature`"):
        all_pairs_info_nce(motion, audio, temperature=0.0)
    with pytest.raises(ArgumentError, match=r"`motion`, .*`mask`: expected as many entries of each.*got \(2, 1, 2, 2\)"):
        all_pairs_info_nce([motion] * 2, [audio], temperature=[0.1] * 2)
    with pytest.raises(ArgumentError, match="at least one, got"):
        sampled_info_nce([], [], [], temperature=[])
    with pytest.raises(ArgumentError, match="`mapping`"):
        cosine_bce(motion, audio, torch.ones(2, 6), mapping="linear")
    with pytest.raises(ArgumentError, match="`source`"):
        InfoNCE(source="everywhere")
    with pytest.raises(ArgumentError, match="`exclusion`"):
        sigmoid_pair_loss(motion, audio, exclusion=-1)
    with pytest.raises(ArgumentError, match="`initial`"):
        LogitScale(initial=200.0)
    with pytest.raises(ArgumentError, match="`num_negatives`"):
        chance_level(0)
    with pytest.raises(ClipTooShortError, match="at least 4 windows"):
        sample_negatives(1, 3, source="in_clip")
    with pytest.raises(ShapeError, match="at least 2 clips"):
        sample_negatives(1, 9, source="cross_clip")
