from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from avsync.errors import ArgumentError, ShapeError
from avsync.models.generator.audio_pyramid import AudioPyramid, StridedConvNeXtBlock, upsample_maps
from avsync.models.generator.stream import AudioPyramidStream
from tests.reference import generator as reference


def make(levels: int = 4, **choices: object) -> AudioPyramid:
    return AudioPyramid(audio_features=3, channels=8, levels=levels, **choices).double()  # type: ignore[arg-type]


def sound(frames: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, 4 * frames, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(frames))


@given(frames=st.integers(1, 40), levels=st.integers(1, 5), hold=st.booleans())
def test_upsampling_equals_the_reference(frames: int, levels: int, hold: bool) -> None:
    source = torch.Generator().manual_seed(frames)
    lengths = reference.audio_map_lengths(frames, levels)
    maps = [torch.randn(1, length, 2, generator=source, dtype=torch.float64) for length in lengths]
    result = upsample_maps(maps, hold=hold)
    for level in range(levels):
        torch.testing.assert_close(result[level, 0], reference.upsample(maps[level][0], level, frames, hold=hold))


@given(frames=st.integers(1, 40), levels=st.integers(1, 5), causal=st.booleans())
def test_lengths(frames: int, levels: int, causal: bool) -> None:
    pyramid = make(levels, causal=causal)
    audio = sound(frames)
    assert [m.shape[1] for m in pyramid.maps(audio)] == reference.audio_map_lengths(frames, levels)
    assert pyramid(audio).shape == (levels, 1, frames, 8)


def dependence(pyramid: AudioPyramid, frames: int) -> Tensor:
    """(frames of output, frames of input): whether a perturbation of the input frame's sound changes the output frame."""
    audio = sound(frames)
    before = pyramid(audio)
    rows = []
    with torch.no_grad():
        for frame in range(frames):
            moved = audio.clone()
            moved[:, 4 * frame : 4 * frame + 4] += 10.0
            rows.append((pyramid(moved) != before).any(dim=-1).any(dim=1).any(dim=0))
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize(("levels", "stem", "kernel"), [(1, 5, 7), (1, 3, 7), (2, 5, 3), (3, 7, 7), (4, 5, 7), (3, 1, 1)])
def test_look_ahead_is_exact(levels: int, stem: int, kernel: int) -> None:
    pyramid = make(levels, stem_kernel=stem, kernel_size=kernel)
    frames = 2 * pyramid.look_ahead + 20
    depends = dependence(pyramid, frames)
    ahead = [max(s - t for s in range(frames) if depends[t, s]) for t in range(frames // 2)]
    assert max(ahead) == pyramid.look_ahead


def test_look_ahead_of_the_paper() -> None:
    assert make(4).look_ahead == 29
    assert make(1).look_ahead == 1


@pytest.mark.parametrize(("levels", "stem", "kernel"), [(1, 5, 7), (4, 5, 7), (4, 1, 3), (3, 3, 1)])
def test_causal_sees_its_own_sound_and_no_more(levels: int, stem: int, kernel: int) -> None:
    pyramid = make(levels, stem_kernel=stem, kernel_size=kernel, causal=True)
    assert pyramid.look_ahead == 0
    depends = dependence(pyramid, 24)
    assert not depends.triu(diagonal=1).any()
    assert depends.diagonal().all()


@pytest.mark.parametrize("causal", [False, True])
def test_own_sound_up_to_its_last_audio_frame(causal: bool) -> None:
    """Vector t may depend on audio frames 4t ... 4t + 3, and a causal one with the default stem does on every one of them."""
    pyramid = make(4, causal=causal)
    audio = sound(12).requires_grad_()
    gradient = torch.autograd.grad(pyramid(audio)[:, :, 7].square().sum(), audio)[0][0].abs().sum(-1)
    assert (gradient[28:32] > 0).all()
    if causal:
        assert not gradient[32:].any()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("levels", "frames"), list(itertools.product([1, 2, 4], [1, 2, 7, 33, 41])))
@pytest.mark.parametrize("chunk", [4, 12])
def test_stream_equals_whole(causal: bool, levels: int, frames: int, chunk: int) -> None:
    pyramid = make(levels, causal=causal)
    audio = sound(frames, batch=2)
    stream = AudioPyramidStream(pyramid=pyramid)
    vectors = [vector for piece in audio.split(chunk, dim=1) for vector in stream.push(piece)]
    vectors += stream.push(audio[:, :0], last=True)
    torch.testing.assert_close(torch.stack(vectors, dim=2), pyramid(audio))


def test_stream_keeps_a_constant_amount() -> None:
    stream = AudioPyramidStream(pyramid=make(4))
    sizes = []
    for _ in range(150):
        stream.push(sound(1))
        sizes.append(sum(held.shape[1] for held in stream._maps.held))
    assert set(sizes) == {sizes[0]} and sizes[0] < 80


def test_statistics_standardise(rng: torch.Generator) -> None:
    pyramid, plain = make(2), make(2)
    plain.load_state_dict(pyramid.state_dict())
    audio = sound(8)
    mean, std = torch.tensor([5.0, -40.0, 2.0]).double(), torch.tensor([2.0, 20.0, 0.5]).double()
    pyramid.set_audio_statistics(mean, std)
    torch.testing.assert_close(pyramid(audio * std + mean), plain(audio))
    assert {"audio_mean", "audio_std"} <= set(pyramid.state_dict())
    with pytest.raises(ArgumentError, match="above 0"):
        pyramid.set_audio_statistics(mean, 0 * std)
    with pytest.raises(ShapeError, match="`mean`"):
        pyramid.set_audio_statistics(mean[:2], std)


def test_gradients(rng: torch.Generator) -> None:
    pyramid = AudioPyramid(audio_features=2, channels=4, levels=2, stem_kernel=3, kernel_size=3).double()
    audio = torch.randn(1, 12, 2, generator=rng, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(pyramid, audio)
    pyramid(audio).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in pyramid.parameters())


def test_bad_input() -> None:
    pyramid = make(2)
    for audio in (torch.zeros(1, 8, 4), torch.zeros(8, 3), torch.zeros(1, 7, 3), torch.zeros(1, 0, 3)):
        with pytest.raises(ShapeError, match="`audio`"):
            pyramid(audio.double())
    with pytest.raises(ShapeError, match="floating"):
        pyramid(torch.zeros(1, 8, 3, dtype=torch.long))
    with pytest.raises(ArgumentError, match="`kernel_size`"):
        StridedConvNeXtBlock(in_channels=2, out_channels=2, kernel_size=4)
    with pytest.raises(ArgumentError, match="`levels`"):
        make(0)
    with pytest.raises(ShapeError, match=r"`maps\[1\]`: expected 2 frames"):
        upsample_maps([torch.zeros(1, 4, 1), torch.zeros(1, 3, 1)])
