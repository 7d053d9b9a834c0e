"""Resampling on one clock: instants, edges, padding, gradients; and the loss at any rate."""

from __future__ import annotations

import pytest
import torch

from avsync import MultiScaleSyncLoss
from avsync.corpus import synthetic_clip
from avsync.errors import ArgumentError, ClipTooShortError, ShapeError
from avsync.resampling import fit_frames, resample_frames, resampled_length, resampled_lengths

RATES = (12.5, 24, 25, 30000 / 1001, 30, 50, 60, 100, 120)


def smooth(seconds: torch.Tensor) -> torch.Tensor:
    """Return motion of at most 4 Hz at instants (frames,): (1, frames, 2, 1)."""
    waves = [torch.sin(2 * torch.pi * 1.5 * seconds), torch.cos(2 * torch.pi * 4 * seconds)]
    return torch.stack(waves, dim=-1)[None, :, :, None]


@pytest.mark.parametrize("fps", [24, 30000 / 1001, 30, 50, 60])
@pytest.mark.parametrize("to_fps", [25, 100])
def test_a_resampled_signal_has_the_values_of_its_instants(fps: float, to_fps: float) -> None:
    x = smooth(torch.arange(round(4 * fps), dtype=torch.float64) / fps)
    y = resample_frames(x, fps=fps, to_fps=to_fps)
    wanted = smooth(torch.arange(y.shape[1], dtype=torch.float64) / to_fps)
    inside = slice(round(0.2 * to_fps), -round(0.2 * to_fps))
    assert (y - wanted)[:, inside].abs().max() < 0.06  # a time shift of one millisecond alone would be 0.025


@pytest.mark.parametrize("fps", RATES)
@pytest.mark.parametrize("to_fps", RATES)
def test_no_pair_of_rates_shifts_time(fps: float, to_fps: float) -> None:
    seconds = torch.arange(round(4 * fps), dtype=torch.float64) / fps
    bump = torch.exp(-0.5 * ((seconds - 2.0) / 0.15) ** 2)[None]
    y = resample_frames(bump, fps=fps, to_fps=to_fps)[0]
    centre = (y * torch.arange(len(y), dtype=torch.float64)).sum() / y.sum() / to_fps
    assert centre.item() == pytest.approx(2.0, abs=1e-3)


def test_start_moves_the_clock() -> None:
    x = torch.arange(50, dtype=torch.float64)[None] / 50 + 0.3
    y = resample_frames(x, fps=50, to_fps=25, start=0.3, frames=35)[0]
    torch.testing.assert_close(y[12:30], torch.arange(12, 30, dtype=torch.float64) / 25, atol=1e-3, rtol=0)


def test_the_same_rate_returns_the_signal_itself_and_instants_on_frames_return_the_frames() -> None:
    x = torch.randn(2, 30, 3, 2)
    assert resample_frames(x, fps=25) is x
    torch.testing.assert_close(resample_frames(x, fps=25, to_fps=100)[:, ::4], x)
    constant = torch.ones(1, 11, 2)
    for fps in RATES:
        torch.testing.assert_close(resample_frames(constant, fps=fps), torch.ones(1, resampled_length(11, fps), 2))


def test_a_falling_rate_removes_what_the_new_rate_cannot_hold() -> None:
    seconds = torch.arange(240) / 60
    fast = torch.sin(2 * torch.pi * 27 * seconds)[None]  # 27 Hz would appear as 2 Hz at 25 frames per second
    assert resample_frames(fast, fps=60).std() < 0.1 * fast.std()


def test_padding_reaches_neither_value_nor_gradient() -> None:
    x = torch.randn(2, 60, 4)
    lengths = torch.tensor([60, 31])
    alone = resample_frames(x[1:, :31], fps=30)
    spoiled = x.clone()
    spoiled[1, 31:] = torch.nan
    spoiled.requires_grad_()
    both = resample_frames(spoiled, fps=30, lengths=lengths)
    true = resampled_lengths(lengths, 30)
    assert true.tolist() == [50, 26] and alone.shape[1] == 26
    torch.testing.assert_close(both[1, :26], alone[0])
    both[1, :26].sum().backward()
    assert spoiled.grad is not None and spoiled.grad[1, 31:].abs().max() == 0 and spoiled.grad.isfinite().all()


def test_gradients() -> None:
    x = torch.randn(1, 7, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda value: resample_frames(value, fps=30), x)
    assert torch.autograd.gradcheck(lambda value: resample_frames(value, fps=24, to_fps=60), x)


def test_errors() -> None:
    x = torch.zeros(1, 5, 2)
    with pytest.raises(ArgumentError, match="`fps`: expected frames per second"):
        resample_frames(x, fps="30")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="`to_fps`"):
        resample_frames(x, fps=30, to_fps=0)
    with pytest.raises(ShapeError, match="`x`"):
        resample_frames(torch.zeros(5), fps=30)
    with pytest.raises(ClipTooShortError):
        resample_frames(x[:, :0], fps=30)
    with pytest.raises(ArgumentError, match="`start`"):
        resample_frames(x, fps=30, start=float("nan"))
    assert fit_frames(torch.zeros(1, 5, 2), 3).shape == (1, 3, 2)


@pytest.mark.parametrize("fps", [24, 30, 50, 60])
def test_the_loss_at_another_rate_has_the_value_at_25(fps: float) -> None:
    clip = synthetic_clip(seconds=6.0)
    landmarks, waveform = torch.from_numpy(clip.landmarks)[None], torch.from_numpy(clip.waveform)[None]
    own = MultiScaleSyncLoss.from_pretrained("landmarks68-25fps")(landmarks, waveform)
    other = resample_frames(landmarks, fps=25, to_fps=fps).requires_grad_()
    loss = MultiScaleSyncLoss.from_pretrained("landmarks68-25fps", fps=fps)
    found = loss(other, waveform)
    torch.testing.assert_close(found.per_level, own.per_level, atol=0.03, rtol=0)
    found.total.backward()
    assert other.grad is not None and (other.grad.abs().sum(dim=(2, 3)) > 0).all()
    late = loss(other.detach().roll(round(0.4 * fps), dims=1), waveform)
    assert late.total > found.total + 0.1
    padded = torch.cat([other.detach(), torch.full_like(other[:, :9], torch.nan).detach()], dim=1)
    audio = torch.nn.functional.pad(waveform, (0, round(9 * 16000 / fps)), value=0.5)
    again = loss(padded, audio, lengths=torch.tensor([other.shape[1]]))
    torch.testing.assert_close(again.per_level, found.per_level, atol=2e-3, rtol=0)
    target = loss(other.detach(), waveform, target=other.detach())
    assert target.total.item() == pytest.approx(-1, abs=1e-4)


def test_a_wrong_duration_at_another_rate_is_an_error_and_the_hint_names_the_rate() -> None:
    loss = MultiScaleSyncLoss.from_pretrained("landmarks68-25fps", fps=30)
    with pytest.raises(ShapeError, match="about 32000 samples for 60 motion frames at 30 per second, got 38400"):
        loss(torch.rand(1, 60, 68, 2), torch.rand(1, 60 * 640))
    with pytest.raises(ShapeError, match="about 200 audio frames"):
        loss(torch.rand(1, 60, 68, 2), torch.rand(1, 240, 26))
    assert loss(torch.rand(1, 60, 68, 2), torch.rand(1, 200, 26)).total.isfinite()
    plain = MultiScaleSyncLoss.from_pretrained("landmarks68-25fps")
    with pytest.raises(ShapeError, match="landmarks at 30 frames per second: pass fps=30 to the loss"):
        plain(torch.rand(1, 60, 68, 2), torch.rand(1, 32000))
    with pytest.raises(ArgumentError, match="`fps`: expected None with encoder pairs"):
        MultiScaleSyncLoss(syncers=[(torch.nn.Identity(), torch.nn.Identity())], fps=30)
