"""Vital signs against loops, on embeddings whose state is known; and what a history of them is taken to mean."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from avsync.errors import ArgumentError
from avsync.models.syncer.interface import Embeddings
from avsync.training.doctor import diagnose, vital_signs


def draw(seed: int, clips: int, windows: int, embed: int = 16) -> tuple[Tensor, Tensor]:
    motion, audio = torch.randn(2, clips, windows, embed, generator=torch.Generator().manual_seed(seed))
    return motion, audio


def by_loops(motion: Tensor, audio: Tensor, mask: Tensor) -> dict[str, float]:
    """Slow and obvious."""
    m, a = (x.double().numpy() / np.linalg.norm(x.double().numpy(), axis=-1, keepdims=True) for x in (motion, audio))
    clips, windows = mask.shape
    aligned, other = [], []
    for i in range(clips):
        for t in range(windows):
            if mask[i, t]:
                aligned.append(float(a[i, t] @ m[i, t]))
            partner = (i, (t - windows // 2) % windows) if windows > 1 else ((i - 1) % clips, t)
            if mask[i, t] and mask[partner]:
                other.append(float(a[i, t] @ m[partner]))
    middle = (np.mean(aligned) + np.mean(other)) / 2
    mean = [x[mask.numpy()].mean(0) for x in (m, a)]
    return {
        "gap0": np.mean(aligned) - np.mean(other),
        "in_sync0": np.mean(np.array(aligned) > middle),
        "off_sync0": np.mean(np.array(other) < middle),
        "spread0": 1 - max(float(x @ x) for x in mean),
    }


@given(seed=st.integers(0, 1000), clips=st.integers(2, 5), windows=st.integers(1, 9))
def test_signs_are_those_of_loops_and_padding_does_not_count(seed: int, clips: int, windows: int) -> None:
    motion, audio = draw(seed, clips, windows)
    mask = torch.rand(clips, windows, generator=torch.Generator().manual_seed(seed)) < 0.8
    mask[:2] = True
    expected = by_loops(motion, audio, mask)
    found = vital_signs([Embeddings(motion, audio, mask)])
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, abs=1e-5), name
    spoilt = torch.where(mask[..., None], motion, 1e3)
    assert vital_signs([Embeddings(spoilt, audio, mask)])["gap0"].item() == pytest.approx(expected["gap0"], abs=1e-5)


def test_chance_learnt_and_collapsed() -> None:
    motion, audio = draw(0, 8, 60, 64)
    chance = vital_signs([Embeddings(motion, audio)])
    assert abs(chance["gap0"]) < 0.03 and abs(chance["in_sync0"] - 0.5) < 0.1 and chance["spread0"] > 0.9
    learnt = vital_signs([Embeddings(motion, motion + 0.1 * audio)])
    assert learnt["gap0"] > 0.9 and learnt["in_sync0"] == learnt["off_sync0"] == 1.0
    collapsed = vital_signs([Embeddings(motion, audio * 1e-4 + 1.0)])  # one dead modality is enough
    assert collapsed["spread0"] < 1e-3 and abs(collapsed["gap0"]) < 0.03


def test_levels_temperatures_and_gradients() -> None:
    levels = [Embeddings(*draw(level, 3, 6)) for level in range(2)]
    scale = torch.tensor(10.0, requires_grad=True)
    found = vital_signs(levels, temperatures=[0.07, 1 / scale], gradient_norms=[torch.tensor(2.0), torch.tensor(3.0)])
    assert found["temperature0"].item() == pytest.approx(0.07) and found["temperature1"].item() == pytest.approx(0.1)
    assert found["grad1"] == 3.0 and len(found) == 12
    assert not any(value.requires_grad or value.ndim for value in found.values())
    assert torch.equal(
        vital_signs(levels, max_clips=2)["gap0"], vital_signs([Embeddings(*(x[:2] for x in levels[0][:2]))])["gap0"]
    )
    with pytest.raises(ArgumentError, match="`temperatures`: expected 2 values, one per level, got 1"):
        vital_signs(levels, temperatures=[0.07])
    with pytest.raises(ArgumentError, match="max_clips"):
        vital_signs(levels, max_clips=0)


def curve(*values: float, steps: int = 600) -> list[tuple[int, float]]:
    return [(round(steps * (i + 1) / len(values)), value) for i, value in enumerate(values)]


HEALTHY = {"loss0": curve(1.0, 0.6, 0.4, 0.3, 0.25), "in_sync0": curve(0.5, 0.8, 0.9), "off_sync0": curve(0.5, 0.8, 0.9)}
STUCK = curve(1.01, 1.0, 1.0, 0.999, 1.0)


@pytest.mark.parametrize(
    ("history", "severity", "code", "words"),
    [
        (HEALTHY, "note", "learns", "90 % of its pairs are classified correctly"),
        ({"loss0": STUCK, "spread0": curve(0.5, 0.001), "grad0": curve(1.0)}, "error", "collapse", "same embedding"),
        ({"loss0": STUCK, "spread0": curve(0.9), "grad0": curve(1.0)}, "error", "stuck", "misaligned"),
        ({"loss0": STUCK}, "error", "stuck", "avsync doctor"),
        ({"loss0": STUCK, "spread0": curve(0.0), "grad0": curve(0.0)}, "error", "no_gradient", "frozen"),
        ({"loss0": STUCK, "spread0": curve(0.9), "grad0": curve(1e5)}, "error", "huge_gradient", "clip gradients"),
        ({"loss0": curve(1.0, 1.0, steps=50), "spread0": curve(0.9)}, "note", "early", "normal before step 100"),
        ({"loss0": curve(1.0, 0.95, 0.93, 0.92, 0.92)}, "warning", "slow", "learned little"),
        ({"loss0": curve(1.0, 0.5, 0.3, 0.9, 1.0, 1.01, 1.02, 1.0, 1.0, 1.0)}, "error", "lost", "rose again to 1.00"),
        ({"loss0": curve(1.0, 0.5, math.nan, math.nan)}, "error", "not_finite", "from step 450 on"),
        ({"loss0": curve(1.0, 0.5, 0.4), "temperature0": curve(0.07, 0.9)}, "warning", "hot", "0.90"),
        ({"loss": curve(0.70, 0.693, 0.6931)}, "error", "stuck", "0.693 = ln 2"),
        ({"loss": curve(0.70, 0.3, 0.2)}, "note", "no_chance", "pass its value at chance level"),
        ({"loss": curve(math.inf, 0.3)}, "error", "not_finite", "step 300"),
        ({}, "warning", "no_history", "no loss"),
    ],
)
def test_histories_are_read(history: dict[str, list[tuple[int, float]]], severity: str, code: str, words: str) -> None:
    findings = diagnose(history)
    first = next(finding for finding in findings if finding.code == code)
    assert first.severity == severity and words in str(first)
    assert severity == "note" or findings[0].severity == severity


def test_a_chance_level_can_be_given() -> None:
    stuck = {"loss": curve(3.9, 3.89, 3.89)}
    (finding,) = diagnose(stuck, chance=math.log(49))
    assert finding.code == "stuck" and "ln 49" in finding.message
    assert [one.code for one in diagnose({"loss": curve(3.9, 1.0, 0.5)}, chance=math.log(49))] == ["learns"]
    assert [one.code for one in diagnose({"loss": curve(3.9, 3.9, steps=40)}, chance=math.log(49))] == ["early"]


def test_every_level_is_judged_by_itself_and_errors_come_first() -> None:
    history = HEALTHY | {"loss1": STUCK, "spread1": curve(0.9), "loss2": curve(1.0, 0.9, 0.9)}
    assert [(one.severity, one.code) for one in diagnose(history)] == [
        ("error", "stuck"),
        ("warning", "slow"),
        ("note", "learns"),
    ]
