"""Losses under bad input: NaN behind masks, weights that must stay frozen, missing negatives, wrong values, very large batches."""

from __future__ import annotations

import copy
import io
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from avsync import MultiScaleSyncLoss, SyncerConfig, SyncerPyramid, SyncerPyramidConfig
from avsync.errors import ArgumentError, AvsyncError, ClipTooShortError, ShapeError
from avsync.losses import (
    AllPairsInfoNCE,
    ContrastiveLoss,
    CosineBCE,
    HingeDiscriminatorLoss,
    InfoNCE,
    SigmoidPairLoss,
    all_pairs,
    all_pairs_info_nce,
    info_nce,
    level_sync_loss,
    multi_scale_sync_loss,
    offset_info_nce,
    sample_negatives,
    sampled_info_nce,
    sigmoid_pair_loss,
    within_clips_info_nce,
)

CLIPS, WINDOWS = 3, 12


def embeddings(clips: int = CLIPS, windows: int = WINDOWS, seed: int = 0) -> tuple[Tensor, Tensor]:
    motion, audio = torch.randn(2, clips, windows, 8, generator=torch.Generator().manual_seed(seed))
    return motion, audio


def half_masked() -> Tensor:
    mask = torch.ones(CLIPS, WINDOWS, dtype=torch.bool)
    mask[0, 9:], mask[2, 7:] = False, False
    return mask


MASKED: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "all_pairs": lambda m, a, mask: all_pairs_info_nce(m, a, mask=mask),
    "all_pairs cold": lambda m, a, mask: all_pairs_info_nce(m, a, mask=mask, temperature=0.01, exclusion=1),
    "all_pairs one way": lambda m, a, mask: all_pairs_info_nce(m, a, mask=mask, symmetric=False),
    "all_pairs levels": lambda m, a, mask: sum(all_pairs_info_nce([m, m[:, 1:]], [a, a[:, 1:]], mask=[mask, mask[:, 1:]])),
    "within clips": lambda m, a, mask: within_clips_info_nce(m, a, mask=mask),
    "sampled": lambda m, a, mask: sampled_info_nce(
        m, a, sample_negatives(CLIPS, WINDOWS, 5, mask=mask, generator=torch.Generator().manual_seed(0)), mask=mask
    ),
    "offset": lambda m, a, mask: offset_info_nce(m, a, mask=mask, span=3, max_offset=4),
    "sigmoid": lambda m, a, mask: sigmoid_pair_loss(m, a, mask=mask),
    "level": lambda m, a, mask: level_sync_loss(m, a, mask=mask),
    "multi-scale": lambda m, a, mask: multi_scale_sync_loss([m, m], [a, a], masks=[mask, mask]).total,
    "InfoNCE": lambda m, a, mask: InfoNCE(num_negatives=4)(m, a, mask=mask, generator=torch.Generator().manual_seed(0)),
    "AllPairsInfoNCE": lambda m, a, mask: AllPairsInfoNCE(learnable=True)(m, a, mask=mask),
    "ContrastiveLoss": lambda m, a, mask: ContrastiveLoss()(m, a, mask=mask, generator=torch.Generator().manual_seed(0)),
    "CosineBCE": lambda m, a, mask: CosineBCE()(m, a, mask=mask, generator=torch.Generator().manual_seed(0)),
    "SigmoidPairLoss": lambda m, a, mask: SigmoidPairLoss()(m, a, mask=mask),
}


@pytest.mark.parametrize("filling", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("name", list(MASKED))
def test_what_a_mask_hides_reaches_neither_value_nor_gradient(name: str, filling: float) -> None:
    mask = half_masked()
    results = []
    for behind in (None, filling):
        motion, audio = embeddings()
        if behind is not None:
            motion[~mask], audio[~mask] = behind, behind
        motion.requires_grad_(), audio.requires_grad_()
        value = MASKED[name](motion, audio, mask)
        value.backward()
        results.append((value.detach(), motion.grad, audio.grad))
    for clean, spoilt in zip(*results, strict=True):
        torch.testing.assert_close(spoilt, clean)
    assert results[0][1][mask].any() and not results[0][1][~mask].any()


# --- frozen -----------------------------------------------------------------------------------------------------------------------


def pyramid(points: int = 7) -> SyncerPyramid:
    torch.manual_seed(0)
    return SyncerPyramid(
        SyncerPyramidConfig(syncer=SyncerConfig(audio_features=5, points=points, width=8, embed=4), audio="custom")
    )


def clip(frames: int = 40, points: int = 7) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(1)
    return torch.rand(2, frames, points, 2, generator=source), torch.randn(2, 4 * frames, 5, generator=source)


class Encoder(nn.Module):
    """Windows of three frames; the weight norm keeps a computed tensor next to its parameters."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.linear = nn.utils.parametrizations.weight_norm(nn.Linear(features, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2)
        x = x.reshape(x.shape[0], -1, self.linear.in_features // 3)
        return self.linear(x.unfold(1, 3, 1).flatten(2))


def of_pairs() -> MultiScaleSyncLoss:
    torch.manual_seed(0)
    return MultiScaleSyncLoss(syncers=[(Encoder(3 * 14), Encoder(3 * 20)) for _ in range(2)])


MAKERS = {"pyramid": lambda: MultiScaleSyncLoss(syncers=pyramid()), "pairs": of_pairs}


@pytest.mark.parametrize("maker", list(MAKERS))
def test_nothing_of_the_loss_can_be_trained(maker: str) -> None:
    loss = MAKERS[maker]()
    model = nn.ModuleDict({"generator": nn.Linear(2, 2), "loss": loss})
    assert not list(loss.parameters()) and not loss.state_dict() and not list(loss.children())
    assert set(model.state_dict()) == {"generator.weight", "generator.bias"}
    for parameter in model.parameters():
        parameter.requires_grad = True
    model.train().requires_grad_(True)
    assert not any(module.training for module in loss.syncers.modules())
    assert not any(parameter.requires_grad for parameter in loss.syncers.parameters())
    landmarks, audio = clip()
    before = loss(landmarks, audio).total
    optimiser = torch.optim.AdamW(model.parameters(), lr=1.0)
    loss(model["generator"](landmarks), audio).total.backward()
    optimiser.step()
    assert torch.equal(loss(landmarks, audio).total, before)
    assert model["generator"].weight.grad.any()


def test_training_the_original_syncers_does_not_change_the_loss() -> None:
    own = pyramid()
    loss = MultiScaleSyncLoss(syncers=own)
    assert all(parameter.requires_grad for parameter in own.parameters()) and own.training
    landmarks, audio = clip()
    before = loss(landmarks, audio).total
    with torch.no_grad():
        for parameter in own.parameters():
            parameter.mul_(2)
    assert torch.equal(loss(landmarks, audio).total, before)


@pytest.mark.parametrize("maker", list(MAKERS))
def test_copies_pickles_and_dtypes_take_the_syncers_along(maker: str) -> None:
    loss = MAKERS[maker]()
    landmarks, audio = clip()
    expected = loss(landmarks, audio).total
    if maker == "pyramid":  # a weight norm of torch cannot be pickled
        file = io.BytesIO()
        torch.save(loss, file)
        file.seek(0)
        assert torch.equal(torch.load(file, weights_only=False)(landmarks, audio).total, expected)
    twin = copy.deepcopy(loss)
    assert torch.equal(twin(landmarks, audio).total, expected)
    model = nn.Sequential(twin).double()
    assert all(x.dtype == torch.float64 for x in twin.syncers.parameters()) and twin.level_weights.dtype == torch.float32
    torch.testing.assert_close(model[0](landmarks.double(), audio.double()).total.float(), expected)
    assert all(x.dtype == torch.float32 for x in loss.syncers.parameters())
    assert all(x.device.type == "meta" for x in twin.to("meta").syncers.parameters())


def test_frozen_pairs_compile_whole() -> None:
    """Pyramids compile in tests/test_sync_loss.py."""
    loss = of_pairs()
    torch.compiler.reset()
    landmarks, audio = clip()
    got = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=False)(landmarks.requires_grad_(), audio)
    (gradient,) = torch.autograd.grad(got.total, landmarks)
    expected = loss(landmarks, audio)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.total, landmarks)[0])


# --- negatives --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "shape"),
    [
        (AllPairsInfoNCE(), (1, 1, 8)),
        (AllPairsInfoNCE(exclusion=9), (1, 6, 8)),
        (AllPairsInfoNCE(exclusion=2, symmetric=False), (1, 5, 8)),
        (SigmoidPairLoss(), (1, 1, 8)),
        (SigmoidPairLoss(exclusion=3), (1, 7, 8)),
        (InfoNCE(), (1, 3, 8)),
        (ContrastiveLoss(), (1, 1, 8)),
        (CosineBCE(source="in_clip"), (4, 3, 8)),
        (within_clips_info_nce, (4, 1, 8)),
        (offset_info_nce, (4, 1, 8)),
        (lambda m, a: offset_info_nce(m, a, span=6), (2, 6, 8)),
    ],
)
def test_a_window_without_negatives_is_an_error(loss: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...]) -> None:
    with pytest.raises(ClipTooShortError, match="expected"):
        loss(torch.randn(shape), torch.randn(shape))


@pytest.mark.parametrize("shape", [(2, 1, 8), (1, 2, 8)])
def test_one_negative_is_enough(shape: tuple[int, ...]) -> None:
    assert AllPairsInfoNCE()(torch.randn(shape), torch.randn(shape)) > 0


def test_negatives_behind_a_mask_leave_a_loss_of_zero() -> None:
    motion, audio = embeddings()
    mask = torch.zeros(CLIPS, WINDOWS, dtype=torch.bool)
    mask[0, 0] = True
    for loss in (AllPairsInfoNCE(), within_clips_info_nce):
        assert loss(motion, audio, mask=mask).item() == pytest.approx(0, abs=1e-6)


# --- wrong values -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "temperature", [0, -0.1, math.nan, math.inf, "0.1", None, torch.tensor(-0.1), torch.tensor(math.nan), torch.ones(2)]
)
def test_temperatures_are_positive_numbers(temperature: object) -> None:
    motion, audio = embeddings()
    indices = sample_negatives(CLIPS, WINDOWS, 4)
    calls: list[Callable[[], object]] = [
        lambda: info_nce(motion, audio, motion[:, :, None], temperature=temperature),
        lambda: sampled_info_nce(motion, audio, indices, temperature=temperature),
        lambda: all_pairs_info_nce(motion, audio, temperature=temperature),
        lambda: within_clips_info_nce(motion, audio, temperature=temperature),
        lambda: offset_info_nce(motion, audio, temperature=temperature),
    ]
    if not isinstance(temperature, Tensor):
        calls += [lambda: InfoNCE(temperature=temperature), lambda: AllPairsInfoNCE(temperature=temperature)]
    for call in calls:
        with pytest.raises(ArgumentError, match="`temperature`"):
            call()


@pytest.mark.parametrize(
    "make", [InfoNCE, AllPairsInfoNCE, ContrastiveLoss, CosineBCE, SigmoidPairLoss, HingeDiscriminatorLoss]
)
def test_a_typo_in_the_reduction_is_found_at_construction(make: Callable[..., nn.Module]) -> None:
    for reduction in ("avg", None, 3):
        with pytest.raises(ArgumentError, match=r"`reduction`: expected (one of 'none', 'mean', 'sum'|str)"):
            make(reduction=reduction)


PRETRAINED = MultiScaleSyncLoss.from_pretrained()
LANDMARKS = torch.rand(2, 80, 68, 2, generator=torch.Generator().manual_seed(0))
WAVEFORM = 0.1 * torch.randn(2, 80 * 640, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((LANDMARKS.numpy(), WAVEFORM), {}, r"`landmarks`.*ndarray \(convert it with torch.from_numpy\)"),
        ((LANDMARKS, WAVEFORM.numpy()), {}, r"`audio`.*ndarray \(convert it with torch.from_numpy\)"),
        ((LANDMARKS.tolist(), WAVEFORM), {}, "`landmarks`.*got list"),
        (
            (torch.rand(2, 80, 68, 3), WAVEFORM),
            {},
            r"`landmarks`: expected 2 dims, got \(2, 80, 68, 3\).*`landmarks\[\.\.\., :2\]`",
        ),
        ((torch.rand(2, 80, 51, 2), WAVEFORM), {}, "`landmarks`.*points=68"),
        ((LANDMARKS[0], WAVEFORM), {}, r"`landmarks`.*got \(80, 68, 2\)"),
        ((LANDMARKS[:0], WAVEFORM[:0]), {}, "at least 1 clip"),
        ((LANDMARKS.long(), WAVEFORM), {}, "`landmarks`.*floating-point"),
        ((LANDMARKS, (WAVEFORM * 3e4).to(torch.int16)), {}, "`audio`.*divide by 32767"),
        ((LANDMARKS, WAVEFORM * 3e4), {}, r"`audio`.*in \[-1, 1\].*32768"),
        ((LANDMARKS, torch.randn(2, 80 * 1920)), {}, "16 kHz.*48 kHz"),
        ((LANDMARKS, torch.randn(2, 80 * 1280)), {}, "32 kHz.*landmarks at 12.5"),
        ((LANDMARKS, torch.randn(2, 80 * 320)), {}, "8 kHz audio or of landmarks at 50"),
        ((LANDMARKS, torch.randn(2, 80 * 16000 // 30)), {}, "landmarks at 30"),
        (
            (LANDMARKS, torch.randn(2, 80 * 700)),
            {},
            r"`audio`: expected 640 samples per frame .*, that is 51200 for 80 frames, got 56000$",
        ),
        ((LANDMARKS, WAVEFORM[:1]), {}, "`audio`.*batch=2"),
        ((LANDMARKS, WAVEFORM), {"lengths": [80, 70]}, "`lengths`.*got list"),
        ((LANDMARKS, WAVEFORM), {"lengths": np.array([80, 70])}, "`lengths`.*ndarray"),
        ((LANDMARKS, WAVEFORM), {"lengths": torch.tensor([80.0, 70.0])}, "`lengths`.*int64"),
        ((LANDMARKS, WAVEFORM), {"lengths": torch.tensor([80, 81])}, "`lengths`: expected 1 to 80, .*got 80 to 81"),
        ((LANDMARKS, WAVEFORM), {"lengths": torch.tensor([0, 80])}, "`lengths`: expected 1 to 80"),
        ((LANDMARKS, WAVEFORM), {"lengths": torch.tensor([80])}, "`lengths`.*batch=2"),
        ((LANDMARKS, WAVEFORM), {"reference": LANDMARKS}, "`reference`"),
        ((LANDMARKS, WAVEFORM), {"reference": LANDMARKS[:1].expand(3, -1, -1, -1)[:, 0]}, "`reference`"),
        ((LANDMARKS, WAVEFORM), {"reference": "median"}, "`reference`"),
        ((LANDMARKS, WAVEFORM), {"reference": 3}, "`reference`"),
        ((LANDMARKS, WAVEFORM.to("meta")), {}, "`audio`.*device of `landmarks`, cpu, got meta"),
        ((LANDMARKS.to("meta"), WAVEFORM.to("meta")), {}, "meta"),
    ],
)
def test_frequent_mistakes_are_named(arguments: tuple[object, object], options: dict[str, object], words: str) -> None:
    with pytest.raises(AvsyncError, match=words):
        PRETRAINED(*arguments, **options)


def test_padding_of_a_waveform_reaches_neither_value_nor_gradient() -> None:
    lengths = torch.tensor([80, 64])
    results = []
    for behind in (0.0, math.nan, 0.9):
        landmarks, waveform = LANDMARKS.clone(), WAVEFORM.clone()
        landmarks[1, 64:], waveform[1, 64 * 640 :] = behind, behind
        landmarks.requires_grad_()
        total = PRETRAINED(landmarks, waveform, lengths=lengths).total
        results.append((total.detach(), *torch.autograd.grad(total, landmarks)))
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


def test_level_weights_are_weights() -> None:
    motion, audio = embeddings()
    for weights in ([1, -1], [0, 0], [math.nan, 1], "ab", 3, [1]):
        with pytest.raises(ArgumentError, match="`level_weights`"):
            multi_scale_sync_loss([motion] * 2, [audio] * 2, level_weights=weights)
    with pytest.raises(ShapeError, match="`level_weights`"):
        multi_scale_sync_loss([motion] * 2, [audio] * 2, level_weights=torch.ones(3))


# --- very large batches -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("chunk", [1, 150, 10**6])
def test_chunks_give_the_values_and_gradients_of_the_whole_matrix(
    monkeypatch: pytest.MonkeyPatch, chunk: int, dtype: torch.dtype
) -> None:
    def result(symmetric: bool, exclusion: int, mask: Tensor | None, temperature: float, reduction: str) -> list[Tensor]:
        motion, audio = (x.to(dtype).requires_grad_() for x in embeddings())
        tau = torch.tensor(temperature, dtype=dtype, requires_grad=True)
        values = all_pairs_info_nce(
            motion,
            audio,
            temperature=tau,
            min_temperature=None if temperature < 0.02 else 1 / 60,
            exclusion=exclusion,
            mask=mask,
            symmetric=symmetric,
            reduction=reduction,
        )
        weights = torch.linspace(0.5, 2, values.numel(), dtype=dtype).reshape(values.shape)
        return [values.detach(), *torch.autograd.grad((values * weights).sum(), (motion, audio, tau))]

    cases = list(itertools.product((True, False), (0, 2), (None, half_masked()), (0.07, 0.01), ("mean", "none")))
    expected = [result(*case) for case in cases]
    monkeypatch.setattr(all_pairs, "LARGEST_MATRIX", 1)
    monkeypatch.setattr(all_pairs, "CHUNK", chunk)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    for case, wanted in zip(cases, expected, strict=True):
        for got, value in zip(result(*case), wanted, strict=True):
            assert (got - value).abs().max() <= tolerance * max(1.0, float(value.abs().max())), case


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # Dynamo's own, of autograd functions
def test_chunks_can_be_differentiated_twice_and_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(all_pairs, "LARGEST_MATRIX", 1)
    monkeypatch.setattr(all_pairs, "CHUNK", 40)
    motion, audio = (x[:2, :3, :3].double().requires_grad_() for x in embeddings())
    for temperature in (0.5, 0.01):
        loss = lambda m, a, t=temperature: all_pairs_info_nce(m, a, temperature=t)
        assert torch.autograd.gradcheck(loss, (motion, audio)) and torch.autograd.gradgradcheck(loss, (motion, audio))
    compiled = torch.compile(all_pairs_info_nce, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(motion, audio, exclusion=0), all_pairs_info_nce(motion, audio))
