"""InfoNCE over offsets against an obvious version of it, and what it says of trained and of blind embeddings."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from avsync.errors import ArgumentError, ClipTooShortError
from avsync.losses.offsets import offset_info_nce
from avsync.training.objectives import offset_chance


def obvious(motion: np.ndarray, audio: np.ndarray, max_offset: int, span: int, temperature: float, window: int) -> float:
    """Loops over clips, stretches and offsets."""
    shares = [0.5 * (window if i == 0 else 1) + 0.5 * (window if i == span - 1 else 1) for i in range(span)]
    audio = audio / np.linalg.norm(audio, axis=-1, keepdims=True)
    motion = motion / np.linalg.norm(motion, axis=-1, keepdims=True)
    losses = []
    for v, a in zip(motion, audio, strict=True):
        for start in range(0, len(v) - span + 1, span):
            scores = {}
            for j in range(-max_offset, max_offset + 1):
                if start + j >= 0 and start + span + j <= len(a):
                    pairs = [v[i] @ a[i + j] for i in range(start, start + span)]
                    scores[j] = math.sqrt(span) * float(np.average(pairs, weights=shares)) / temperature
            largest = max(scores.values())
            losses.append(largest + math.log(sum(math.exp(s - largest) for s in scores.values())) - scores[0])
    return float(np.mean(losses))


@given(
    windows=st.integers(2, 14),
    span=st.integers(1, 13),
    max_offset=st.integers(1, 6),
    window=st.integers(1, 6),
    seed=st.integers(0, 1000),
)
def test_equals_the_obvious_version(windows: int, span: int, max_offset: int, window: int, seed: int) -> None:
    span = min(span, windows - 1)
    generator = torch.Generator().manual_seed(seed)
    motion, audio = torch.randn((2, 3, windows, 5), generator=generator, dtype=torch.float64)
    loss = offset_info_nce(motion, audio, max_offset=max_offset, span=span, window=window, temperature=0.3)
    expected = obvious(motion.numpy(), audio.numpy(), max_offset, span, 0.3, window)
    assert loss.item() == pytest.approx(expected, abs=1e-9)


def test_blind_embeddings_are_at_chance() -> None:
    blind = torch.ones(2, 40, 3)
    for span in (1, 6, 39):
        assert offset_info_nce(blind, blind, span=span).item() == pytest.approx(offset_chance(40, span), abs=1e-5)


def test_padding_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    motion, audio = torch.randn((2, 1, 12, 4), generator=generator)
    padding = torch.full((1, 6, 4), 7.0)
    mask = torch.arange(18)[None] < 12
    padded = offset_info_nce(torch.cat([motion, padding], 1), torch.cat([audio, padding], 1), span=3, max_offset=4, mask=mask)
    torch.testing.assert_close(padded, offset_info_nce(motion, audio, span=3, max_offset=4))


def test_gradients_pull_aligned_windows_together() -> None:
    generator = torch.Generator().manual_seed(0)
    audio = torch.randn((1, 20, 6), generator=generator)
    motion = torch.randn((1, 20, 6), generator=generator).requires_grad_()
    loss = offset_info_nce(motion, audio, span=5)
    loss.backward()
    with torch.no_grad():
        assert offset_info_nce(motion - 0.1 * motion.grad, audio, span=5) < loss


def test_bad_arguments_are_named() -> None:
    windows = torch.rand(1, 4, 3)
    with pytest.raises(ArgumentError, match="`span`: expected a whole number of at least 1"):
        offset_info_nce(windows, windows, span=0)
    with pytest.raises(ClipTooShortError, match="expected more windows than the 5 of a segment"):
        offset_info_nce(windows, windows, span=5)
    with pytest.raises(ArgumentError, match="`max_offset`"):
        offset_info_nce(windows, windows, max_offset=0)


def test_compiles_as_one_graph() -> None:
    windows = torch.rand(2, 9, 3)
    compiled = torch.compile(offset_info_nce, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(windows, windows, span=2), offset_info_nce(windows, windows, span=2))
