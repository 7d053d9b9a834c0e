"""Equation (4): values, weights, lengths, frozen judges, gradients, compilation, precision and errors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from avsync.audio.features import LogMel
from avsync.errors import ArgumentError, ClipTooShortError, ShapeError
from avsync.losses.sync import MultiScaleSyncLoss, SyncLossOutput, level_sync_loss, multi_scale_sync_loss
from avsync.models.syncer.pyramid import SyncerConfig, SyncerPyramid, SyncerPyramidConfig
from tests.reference import sync_loss as reference

seeds = st.integers(0, 2**31)
weights = st.lists(st.floats(0.01, 10), min_size=4, max_size=4)
SYNCER = SyncerConfig(audio_features=5, points=7, width=8, embed=4)


def pyramid(**options: object) -> SyncerPyramid:
    return SyncerPyramid(config=SyncerPyramidConfig(syncer=SYNCER, audio="custom", **options)).double()


def clip(frames: int, batch: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    landmarks = torch.randn(batch, frames, 7, 2, generator=generator, dtype=torch.float64) * 10 + 50
    return landmarks, torch.randn(batch, 4 * frames, 5, generator=generator, dtype=torch.float64)


def embeddings(seed: int) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    both = [torch.randn(2, 2, windows, 3, generator=generator, dtype=torch.float64) for windows in (6, 4, 2, 1)]
    return [x[0] for x in both], [x[1] for x in both]


class Pair(nn.Module):
    """A stranger's encoder: windows of 3 frames, any features."""

    def __init__(self, features: int, frames: int) -> None:
        super().__init__()
        self.frames = frames
        self.linear = nn.Linear(features * frames, 4)

    def forward(self, x: Tensor) -> Tensor:
        stride = self.frames // 3
        return self.linear(x.flatten(2).unfold(1, self.frames, stride).flatten(2))


def pairs(levels: int = 3) -> list[tuple[nn.Module, nn.Module]]:
    return [(Pair(14, 3).double(), Pair(5, 12).double()) for _ in range(levels)]


@given(seeds, weights)
def test_matches_the_equation(seed: int, level_weights: list[float]) -> None:
    motion, audio = embeddings(seed)
    got = multi_scale_sync_loss(motion, audio, level_weights=level_weights)
    arrays = [x.numpy() for x in motion], [x.numpy() for x in audio]
    assert got.total.item() == pytest.approx(reference.multi_scale_sync_loss(*arrays, level_weights))
    for part, x, a in zip(got.per_level, *arrays, strict=True):
        assert part.item() == pytest.approx(reference.level_sync_loss(x, a))


@given(seeds, st.integers(0, 2**12 - 1))
def test_masked_windows_do_not_count(seed: int, bits: int) -> None:
    motion, audio = (x[0] for x in embeddings(seed))
    mask = torch.tensor([bool(bits >> i & 1) for i in range(12)]).reshape(2, 6)
    audio[~mask], motion[~mask] = torch.nan, torch.nan
    got = level_sync_loss(motion, audio, mask=mask)
    assert got.item() == pytest.approx(reference.level_sync_loss(motion.numpy(), audio.numpy(), mask.numpy()))


@given(seeds, weights, weights, st.floats(0.1, 9))
def test_linear_in_the_level_weights(seed: int, one: list[float], other: list[float], factor: float) -> None:
    motion, audio = embeddings(seed)

    def total(level_weights: list[float]) -> Tensor:
        return multi_scale_sync_loss(motion, audio, level_weights=level_weights).total

    both = [a + b for a, b in zip(one, other, strict=True)]
    mixed = (sum(one) * total(one) + sum(other) * total(other)) / sum(both)
    torch.testing.assert_close(total(both), mixed)
    torch.testing.assert_close(total([factor * weight for weight in one]), total(one))
    torch.testing.assert_close(total([1.0] * 4), multi_scale_sync_loss(motion, audio).total)


@given(seeds, st.floats(0.01, 100))
def test_perfect_agreement_is_minus_one_and_opposition_plus_one(seed: int, scale: float) -> None:
    audio, _ = embeddings(seed)
    same = multi_scale_sync_loss(audio, [scale * x for x in audio])
    torch.testing.assert_close(same.per_level, -torch.ones(4, dtype=torch.float64))
    assert multi_scale_sync_loss(audio, [-x for x in audio]).total.item() == pytest.approx(1)


@given(st.lists(st.integers(33, 48), min_size=1, max_size=3), st.integers(0, 8))
def test_padding_changes_neither_loss_nor_gradient(true: list[int], more: int) -> None:
    loss = MultiScaleSyncLoss(syncers=pyramid())
    landmarks, audio = clip(max(true) + more, batch=len(true))
    for i, frames in enumerate(true):
        landmarks[i, frames:], audio[i, 4 * frames :] = torch.nan, torch.nan
    landmarks.requires_grad_()
    got = loss(landmarks, audio, lengths=torch.tensor(true))
    got.total.backward()
    # A batch's level is the mean over all windows of all clips, so each clip counts by its windows.
    windows = torch.tensor([[-(-frames // 2**i) - 4 for frames in true] for i in range(4)], dtype=torch.float64)
    alone = [landmarks.detach()[i : i + 1, :frames].requires_grad_() for i, frames in enumerate(true)]
    parts = torch.stack([loss(x, audio[i : i + 1, : 4 * x.shape[1]]).per_level for i, x in enumerate(alone)], dim=1)
    expected = (parts * windows).sum(1) / windows.sum(1)
    torch.testing.assert_close(got.per_level, expected)
    expected.mean().backward()
    for i, x in enumerate(alone):
        torch.testing.assert_close(landmarks.grad[i, : x.shape[1]], x.grad[0])
        assert not landmarks.grad[i, x.shape[1] :].any()


def test_a_level_that_no_clip_fills_is_left_out() -> None:
    loss = MultiScaleSyncLoss(syncers=pyramid())
    landmarks, audio = clip(40)
    got = loss(landmarks, audio, lengths=torch.tensor([20, 18]))
    assert got.per_level[3] == 0
    torch.testing.assert_close(got.total, got.per_level[:3].mean())
    nothing = loss(landmarks, audio, lengths=torch.tensor([4, 2]))
    assert nothing.total == 0


def test_frozen_stays_frozen_and_gradients_reach_landmarks_only() -> None:
    judge = pyramid()
    holder = nn.ModuleDict({"loss": MultiScaleSyncLoss(syncers=judge), "own": nn.Linear(2, 2)})
    before = {name: value.clone() for name, value in judge.state_dict().items()}
    holder.train()
    assert holder["own"].training
    assert not any(module.training for module in holder["loss"].syncers.modules())
    landmarks, audio = clip(40)
    landmarks.requires_grad_()
    face = landmarks.detach()[:, 0].clone()
    holder["loss"](landmarks, audio, reference=face).total.backward()
    assert all(not p.requires_grad and p.grad is None for p in holder["loss"].syncers.parameters())
    assert landmarks.grad.isfinite().all() and landmarks.grad.flatten(2).any(dim=-1).all()
    assert audio.grad is None and face.grad is None
    assert all(torch.equal(value, before[name]) for name, value in judge.state_dict().items())


def test_a_step_against_the_gradient_lowers_the_loss() -> None:
    loss = MultiScaleSyncLoss(syncers=pyramid())
    landmarks, audio = clip(40)
    landmarks.requires_grad_()
    first = loss(landmarks, audio).total
    (grad,) = torch.autograd.grad(first, landmarks)
    assert loss(landmarks - 0.1 * grad / grad.norm(), audio).total < first


def test_encoder_pairs_of_ones_own() -> None:
    own = pairs()
    loss = MultiScaleSyncLoss(syncers=own, level_weights=[1, 2, 3])
    landmarks, audio = clip(30)
    landmarks.requires_grad_()
    total, per_level, _, _ = loss(landmarks, audio)
    total.backward()
    assert per_level.shape == (3,) and landmarks.grad.any()
    torch.testing.assert_close(total, per_level @ torch.tensor([1.0, 2, 3], dtype=torch.float64) / 6)
    assert all(p.requires_grad and p.grad is None for pair in own for encoder in pair for p in encoder.parameters())
    true = torch.tensor([30, 21])
    padded = landmarks.detach().clone()
    padded[1, 21:] = torch.nan
    cut = loss(padded, audio, lengths=true).per_level
    whole = loss(landmarks[:1], audio[:1]).per_level, loss(landmarks[1:, :21], audio[1:, :84]).per_level
    windows = torch.tensor([[28.0, 13, 6], [19, 9, 4]], dtype=torch.float64)
    torch.testing.assert_close(cut, (torch.stack(whole) * windows).sum(0) / windows.sum(0))


def test_a_waveform_is_its_features() -> None:
    config = SyncerPyramidConfig(syncer=SyncerConfig(points=7, width=8, embed=4))
    loss = MultiScaleSyncLoss(syncers=SyncerPyramid(config=config), audio_transform=LogMel())
    landmarks, _ = clip(33)
    waveform = torch.rand(2, 33 * 640) - 0.5
    got = loss(landmarks.float(), waveform)
    torch.testing.assert_close(got, loss(landmarks.float(), LogMel()(waveform)))
    with pytest.raises(ShapeError, match="expected 640 samples per frame"):
        loss(landmarks.float(), waveform[:, :-640])
    with pytest.raises(ShapeError, match="32 kHz audio"):
        loss(landmarks.float(), waveform.repeat(1, 2))


def test_too_short_names_the_shortest_or_skips() -> None:
    judge = pyramid()
    with pytest.raises(ClipTooShortError, match=r"at least 33 frames to fill level 3.*got 32"):
        MultiScaleSyncLoss(syncers=judge)(*clip(32))
    skipping = MultiScaleSyncLoss(syncers=judge, skip_short=True)
    for frames, levels in ((33, 4), (32, 3), (17, 3), (16, 2), (9, 2), (8, 1), (5, 1)):
        total, per_level, _, _ = skipping(*clip(frames))
        assert per_level.shape == (4,) and not per_level[levels:].any()
        torch.testing.assert_close(total, per_level[:levels].mean())
    with pytest.raises(ClipTooShortError, match="at least 5 frames"):
        skipping(*clip(4))
    coarse = MultiScaleSyncLoss(syncers=judge, skip_short=True, level_weights=[0, 0, 1, 1])
    with pytest.raises(ClipTooShortError, match="at least 17 frames to fill level 2"):
        coarse(*clip(16))
    assert coarse(*clip(17)).total.isfinite()


def test_gradcheck() -> None:
    config = SyncerPyramidConfig(
        syncer=SyncerConfig(audio_features=2, points=2, width=4, embed=3), num_levels=2, audio="custom"
    )
    loss = MultiScaleSyncLoss(syncers=SyncerPyramid(config=config).double(), level_weights=[1, 2])
    landmarks = torch.randn(2, 10, 2, 2, dtype=torch.float64, requires_grad=True)
    audio = torch.randn(2, 40, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: loss(x, audio).total, landmarks)
    assert torch.autograd.gradcheck(lambda x: loss(x, audio, lengths=torch.tensor([10, 9])).total, landmarks)


def tiny_loss(num_levels: int = 2) -> MultiScaleSyncLoss:
    config = SyncerConfig(audio_features=5, points=7, width=4, embed=2, frame_blocks=1, window_blocks=0)
    return MultiScaleSyncLoss(
        syncers=SyncerPyramid(config=SyncerPyramidConfig(syncer=config, num_levels=num_levels, audio="custom")).double()
    )


@pytest.mark.parametrize("lengths", [None, torch.tensor([11, 10])])
def test_compiles_in_one_graph(lengths: Tensor | None) -> None:
    loss = tiny_loss()
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=False)
    landmarks, audio = clip(11)
    x, y = landmarks.clone().requires_grad_(), landmarks.clone().requires_grad_()
    got, expected = compiled(x, audio, lengths=lengths), loss(y, audio, lengths=lengths)
    torch.testing.assert_close(got, expected)
    got.total.backward()
    expected.total.backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_compiles_for_any_length() -> None:
    loss = tiny_loss()
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="eager", dynamic=True)
    for frames in (11, 14):
        landmarks, audio = clip(frames)
        torch.testing.assert_close(compiled(landmarks, audio), loss(landmarks, audio))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it loads inductor
def test_compiles_with_inductor() -> None:
    loss = tiny_loss(1).float()
    landmarks, audio = (x.float() for x in clip(6))
    torch.compiler.reset()
    got = torch.compile(loss, fullgraph=True)(landmarks, audio)
    torch.testing.assert_close(got, loss(landmarks, audio), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    loss = MultiScaleSyncLoss(syncers=pyramid().float())
    landmarks, audio = (x.float() for x in clip(40))
    landmarks.requires_grad_()
    exact = loss(landmarks, audio)
    with torch.autocast("cpu", dtype=dtype):
        got = loss(landmarks, audio, lengths=torch.tensor([40, 40]))
    got.total.backward()
    assert got.total.dtype == torch.float32
    assert landmarks.grad.isfinite().all()
    torch.testing.assert_close(got.total, exact.total, rtol=0.1, atol=0.03)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda() -> None:
    judge = pyramid()
    landmarks, audio = clip(40)
    true = torch.tensor([40, 37])
    expected = MultiScaleSyncLoss(syncers=judge)(landmarks, audio, lengths=true)
    loss = MultiScaleSyncLoss(syncers=judge).cuda()
    for lengths in (true, true.cuda()):
        torch.testing.assert_close(loss(landmarks.cuda(), audio.cuda(), lengths=lengths).total.cpu(), expected.total)


def test_bad_input() -> None:
    loss = MultiScaleSyncLoss(syncers=pyramid())
    landmarks, audio = clip(40)
    for x, a in ((landmarks[0], audio), (landmarks, audio[:, :-1]), (landmarks, audio[None]), (landmarks[:, :0], audio[:, :0])):
        with pytest.raises(ShapeError, match="expected"):
            loss(x, a)
    with pytest.raises(ArgumentError, match="`audio_transform`"):
        loss(landmarks, audio[..., 0])
    with pytest.raises(ArgumentError, match="`reference`"):
        MultiScaleSyncLoss(syncers=pairs())(landmarks, audio, reference="first")
    with pytest.raises(ShapeError, match="level 0"):
        MultiScaleSyncLoss(syncers=[(Pair(14, 6).double(), Pair(5, 12).double())])(landmarks, audio)


@pytest.mark.parametrize(
    "options",
    [
        {"syncers": []},
        {"syncers": nn.Linear(2, 2)},
        {"syncers": [(nn.Linear(2, 2),)]},
        {"level_weights": [1, 1]},
        {"level_weights": [1, 1, 1, -1]},
        {"level_weights": [0, 0, 0, 0]},
        {"level_weights": [1, 1, 1, float("nan")]},
        {"syncers": pairs(), "skip_short": True},
    ],
)
def test_impossible_constructions(options: dict[str, object]) -> None:
    with pytest.raises(ArgumentError, match="expected"):
        MultiScaleSyncLoss(**{"syncers": pyramid(), **options})


def test_bad_embeddings() -> None:
    motion, audio = embeddings(0)
    with pytest.raises(ArgumentError, match="as many levels"):
        multi_scale_sync_loss(audio[:-1], motion)
    with pytest.raises(ArgumentError, match="at least one"):
        multi_scale_sync_loss([], [])
    with pytest.raises(ArgumentError, match="`masks`"):
        multi_scale_sync_loss(motion, audio, masks=[None])
    with pytest.raises(ArgumentError, match="`level_weights`"):
        multi_scale_sync_loss(motion, audio, level_weights=[1, 1])
    with pytest.raises(ShapeError, match="`motion`"):
        level_sync_loss(motion[0], audio[1])
    with pytest.raises(ShapeError, match="`mask`"):
        level_sync_loss(motion[0], audio[0], mask=torch.ones(2, 6))
    with pytest.raises(ClipTooShortError, match="at least 1 window"):
        level_sync_loss(motion[0][:, :0], audio[0][:, :0])


def test_result_is_a_named_tuple() -> None:
    got = MultiScaleSyncLoss(syncers=pyramid())(*clip(33))
    assert isinstance(got, SyncLossOutput) and got._fields == ("total", "per_level", "per_region", "silence")
