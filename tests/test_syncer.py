"""Syncers: dense equals window by window, padding stays out, clips of any length, and the errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from avsync.errors import ArgumentError, ClipTooShortError, ConfigError, ShapeError
from avsync.models.syncer.pyramid import (
    AudioEncoder,
    MotionEncoder,
    Syncer,
    SyncerConfig,
    SyncerPyramid,
    SyncerPyramidConfig,
    fill_motion_frames,
)


def small(**options: int) -> SyncerConfig:
    return SyncerConfig(**{"audio_features": 5, "points": 7, "width": 8, "embed": 4, **options})


def pyramid(**options: Any) -> SyncerPyramid:
    return SyncerPyramid(config=SyncerPyramidConfig(syncer=small(), audio="custom", **options)).double().eval()


def clip(frames: int, batch: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    landmarks = torch.randn(batch, frames, 7, 2, generator=generator, dtype=torch.float64) * 10 + 50
    return landmarks, torch.randn(batch, 4 * frames, 5, generator=generator, dtype=torch.float64)


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 6), st.integers(0, 2), st.integers(0, 2), st.integers(1, 3))
def test_dense_equals_windowed(
    window: int, stride: int, more: int, frame_blocks: int, window_blocks: int, channels: int
) -> None:
    options = {"window": window, "audio_stride": stride, "frame_blocks": frame_blocks, "window_blocks": window_blocks}
    config = small(**options, motion_channels=channels)
    motion_encoder, audio_encoder = MotionEncoder(config=config).double(), AudioEncoder(config=config).double()
    audio_encoder.set_statistics(torch.arange(5.0), torch.arange(1.0, 6.0))
    frames = window + more
    motion = torch.randn(2, frames, 7, channels, dtype=torch.float64)
    audio = torch.randn(2, stride * frames, 5, dtype=torch.float64)
    dense_motion, dense_audio = motion_encoder(motion), audio_encoder(audio)
    assert dense_motion.shape == dense_audio.shape == (2, more + 1, 4)
    for t in range(more + 1):
        torch.testing.assert_close(motion_encoder(motion[:, t : t + window]), dense_motion[:, t : t + 1])
        alone = audio_encoder(audio[:, stride * t : stride * (t + window)])
        torch.testing.assert_close(alone, dense_audio[:, t : t + 1])


@given(st.integers(1, 3), st.integers(1, 4), st.integers(0, 6), st.integers(1, 4))
def test_context_is_the_sound_around_a_window(window: int, stride: int, more: int, context: int) -> None:
    config = small(window=window, audio_stride=stride, audio_context=context)
    encoder = AudioEncoder(config=config).double()
    frames = window + more + 2 * context
    audio = torch.randn(2, stride * frames, 5, dtype=torch.float64)
    dense = encoder(audio)
    assert dense.shape == (2, frames - window + 1, 4)
    held = torch.cat([audio[:, :1].expand(-1, stride * context, -1), audio, audio[:, -1:].expand(-1, stride * context, -1)], 1)
    for t in range(frames - window + 1):
        seen = held[:, stride * t : stride * (t + window + 2 * context)]
        torch.testing.assert_close(encoder(seen)[:, context : context + 1], dense[:, t : t + 1])


def test_each_level_has_its_own_context() -> None:
    model = pyramid(num_levels=2, audio_context=(3, 0))
    assert [syncer.audio_encoder.encoder.join.kernel_size for syncer in model.syncers] == [(11,), (5,)]
    assert [syncer.motion_encoder.encoder.join.kernel_size for syncer in model.syncers] == [(5,), (5,)]
    _, audio = clip(20)
    louder = audio.clone()
    louder[:, 4 * 8 : 4 * 9] += 1.0
    before, after = (model.embed_audio(x, levels=[0])[0] for x in (audio, louder))
    changed = (before - after).abs().amax(dim=(0, 2)) > 0
    # Windows 4 to 8 hold frame 8; those from 1 to 11 have it within three frames.
    assert changed.nonzero().flatten().tolist() == list(range(1, 12))


def test_each_level_has_its_own_width() -> None:
    model = pyramid(num_levels=2, width=(12, 6))
    for syncer, width in zip(model.syncers, (12, 6), strict=True):
        for encoder in (syncer.audio_encoder.encoder, syncer.motion_encoder.encoder):
            assert encoder.stem.out_features == encoder.join.out_channels == width
    for level in model(*clip(40)):
        assert level.motion.shape[-1] == level.audio.shape[-1] == 4


def test_a_pyramid_without_its_coarsest_levels() -> None:
    whole = pyramid(num_levels=3, audio_context=(2, 1, 0), width=(12, 6, 4))
    finest = SyncerPyramid(config=whole.config.finest(2)).double().eval()
    assert finest.config.audio_context == (2, 1) and finest.config.width == (12, 6) and finest.num_levels == 2
    for levels in (0, 4):
        with pytest.raises(ConfigError, match="`levels`: expected 1 to 3"):
            whole.config.finest(levels)
    finest.load_state_dict({name: value for name, value in whole.state_dict().items() if name in finest.state_dict()})
    for got, expected in zip(finest(*clip(40)), whole(*clip(40)), strict=False):
        torch.testing.assert_close(got.motion, expected.motion)
        torch.testing.assert_close(got.audio, expected.audio)


def test_mean_normalisation_takes_microphone_and_room_away() -> None:
    model, plain = pyramid(mean_normalisation=True), pyramid()
    _, audio = clip(40)
    for each in (model, plain):
        each.set_audio_statistics(torch.arange(5.0), torch.arange(1.0, 6.0))
    coloured = audio + torch.tensor([3.0, -2.0, 0.0, 1.0, 9.0], dtype=torch.float64)
    for got, expected, other in zip(
        model.embed_audio(coloured), model.embed_audio(audio), plain.embed_audio(coloured), strict=True
    ):
        torch.testing.assert_close(got, expected)
        assert not torch.allclose(other, expected)
    # What has no mean is standardised by the spread alone.
    centred = (audio - audio.mean(dim=1, keepdim=True)) / torch.arange(1.0, 6.0, dtype=torch.float64)
    model.syncers[0].audio_encoder.std.fill_(1.0)
    direct = model.syncers[0].audio_encoder(centred)
    model.syncers[0].audio_encoder.std.copy_(torch.arange(1.0, 6.0))
    torch.testing.assert_close(model.embed_audio(audio, levels=[0])[0], direct)


@given(st.integers(33, 90))
def test_both_modalities_have_the_same_windows_at_every_level(frames: int) -> None:
    levels = pyramid()(*clip(frames))
    for i, level in enumerate(levels):
        assert level.audio.shape == level.motion.shape == (2, -(-frames // 2**i) - 4, 4)
        assert level.mask is None


@given(
    st.lists(st.integers(33, 50), min_size=2, max_size=3),
    st.integers(0, 8),
    st.sampled_from(["first", "mean"]),
    st.sampled_from([(), (4, 0, 1, 2)]),
    st.booleans(),
)
def test_padding_changes_nothing(
    true: list[int], more: int, reference: str, audio_context: tuple[int, ...], mean_normalisation: bool
) -> None:
    model = pyramid(audio_context=audio_context, mean_normalisation=mean_normalisation)
    landmarks, audio = clip(max(true) + more, batch=len(true))
    for i, frames in enumerate(true):
        landmarks[i, frames:], audio[i, 4 * frames :] = torch.nan, torch.nan
    padded = model(landmarks, audio, reference=reference, lengths=torch.tensor(true))
    for i, frames in enumerate(true):
        alone = model(landmarks[i : i + 1, :frames], audio[i : i + 1, : 4 * frames], reference=reference)
        for got, expected in zip(padded, alone, strict=True):
            windows = expected.motion.shape[1]
            assert got.mask[i].tolist() == [True] * windows + [False] * (got.mask.shape[1] - windows)
            torch.testing.assert_close(got.motion[i, :windows], expected.motion[0])
            torch.testing.assert_close(got.audio[i, :windows], expected.audio[0])
            assert got.motion.isfinite().all() and got.audio.isfinite().all()


def test_identity_and_framing_drop_out() -> None:
    model = pyramid(num_levels=2)
    landmarks, _ = clip(20)
    for got, expected in zip(model.embed_motion(3 * landmarks + 100), model.embed_motion(landmarks), strict=True):
        torch.testing.assert_close(got, expected)


def test_levels_can_be_chosen() -> None:
    model = pyramid()
    landmarks, audio = clip(40)
    everything, some = model(landmarks, audio), model(landmarks, audio, levels=[2, 0])
    torch.testing.assert_close(some[0].motion, everything[2].motion)
    torch.testing.assert_close(some[1].audio, everything[0].audio)
    assert len(model(*clip(9), levels=[1])) == 1


def test_fill_motion_frames_repeats_the_last() -> None:
    audio = torch.arange(6.0).reshape(1, 6, 1)
    assert fill_motion_frames(audio, 8).flatten().tolist() == [0, 1, 2, 3, 4, 5, 5, 5]
    assert fill_motion_frames(audio, 8, lengths=torch.tensor([3])).flatten().tolist() == [0, 1, 2, 2, 2, 2, 2, 2]
    assert fill_motion_frames(audio, 6) is audio


def test_gradcheck() -> None:
    model = (
        SyncerPyramid(config=SyncerPyramidConfig(syncer=small(points=2, width=4), num_levels=2, audio="custom")).double().eval()
    )
    landmarks = torch.randn(1, 9, 2, 2, dtype=torch.float64, requires_grad=True)
    audio = torch.randn(1, 36, 5, dtype=torch.float64, requires_grad=True)

    def embed(landmarks: Tensor, audio: Tensor) -> tuple[Tensor, ...]:
        return tuple(x for level in model(landmarks, audio) for x in level[:2])

    assert torch.autograd.gradcheck(embed, (landmarks, audio))


@pytest.mark.parametrize("frames", [32, 8, 1])
def test_too_short_names_the_shortest(frames: int) -> None:
    with pytest.raises(ClipTooShortError, match="expected at least 33 frames for level 3, got"):
        pyramid()(*clip(frames))


@pytest.mark.parametrize(
    "call",
    [
        lambda model, x, a: model(x[..., 0], a),
        lambda model, x, a: model(x, a[:, :-4]),
        lambda model, x, a: model(x[:1], a),
        lambda model, x, a: model(x[:, :, :6], a),
        lambda model, x, a: model(x, a[..., :4]),
        lambda model, x, a: model(x.long(), a),
        lambda model, x, a: model(x, a.long()),
        lambda model, x, a: model(x, a, lengths=torch.tensor([40])),
        lambda model, x, a: model(x, a, reference=torch.zeros(2, 3, 2)),
        lambda model, x, a: model.embed_audio(a[:, :-1]),
        lambda model, x, a: model.set_audio_statistics(torch.zeros(4), torch.ones(4)),
        lambda model, x, a: model.syncers[0](x, a[:, 1:]),
        lambda model, x, a: model.syncers[0].audio_encoder(a[:, 1:]),
    ],
)
def test_bad_input(call) -> None:
    with pytest.raises(ShapeError, match=r"^`\w+`: expected .*got"):
        call(pyramid(), *clip(40))


def test_other_errors() -> None:
    with pytest.raises(ArgumentError, match="`levels`"):
        pyramid()(*clip(40), levels=[4])
    with pytest.raises(ArgumentError, match="`levels`"):
        pyramid()(*clip(40), levels=[])
    with pytest.raises(ArgumentError, match="`reference`"):
        pyramid()(*clip(40), reference="last")
    with pytest.raises(ArgumentError, match="`std`"):
        pyramid().set_audio_statistics(torch.zeros(5), torch.zeros(5))
    with pytest.raises(ClipTooShortError, match="`motion`: expected at least 5 frames"):
        Syncer(config=small())(torch.zeros(1, 4, 7, 2), torch.zeros(1, 16, 5))


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (SyncerConfig, {"width": 0}),
        (SyncerConfig, {"frame_blocks": -1}),
        (SyncerConfig, {"audio_context": -1}),
        (SyncerConfig, {"dropout": 1.0}),
        (SyncerPyramidConfig, {"num_levels": 0}),
        (SyncerPyramidConfig, {"reference": "last"}),
        (SyncerPyramidConfig, {"audio_context": (4, 0)}),
        (SyncerPyramidConfig, {"audio_context": (4, 0, 0, -1)}),
        (SyncerPyramidConfig, {"width": (64, 64)}),
        (SyncerPyramidConfig, {"width": (64, 64, 64, 0)}),
        (SyncerPyramidConfig, {"motion_scale": 0.0}),
        (SyncerPyramidConfig, {"motion_scale": float("nan")}),
    ],
)
def test_impossible_configs(config: type, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(options))}`: expected"):
        config(**options)
