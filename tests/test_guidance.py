"""examples/guidance end to end, at a size that takes seconds, and the parts whose numbers can be told beforehand."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from avsync.landmarks import pause_speed
from avsync.losses.sync import MultiScaleSyncLoss
from avsync.models.syncer.pyramid import SyncerConfig, SyncerPyramid, SyncerPyramidConfig
from avsync.pretrained import save_pretrained

EXAMPLE = Path(__file__).parent.parent / "examples" / "guidance"
TINY = SyncerPyramidConfig(syncer=SyncerConfig(width=8, embed=8, frame_blocks=1), audio="log-mel")


@pytest.fixture
def guide(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The example's main module."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield importlib.import_module("guide")
    for name in ("guide", "regressor", "measure", "draw"):
        sys.modules.pop(name, None)


@pytest.fixture
def weights(tmp_path: Path) -> list[str]:
    """Options that name two tiny pyramids."""
    for name in ("guide", "judge"):
        save_pretrained(SyncerPyramid(config=TINY), tmp_path / name)
    return ["--weights", str(tmp_path / "guide"), "--judge", str(tmp_path / "judge")]


def test_a_run_prints_and_writes_what_it_promises(
    guide: ModuleType,
    weights: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guide, "BASIS_CLIPS", 32)
    small = ["--steps", "3", "--seeds", "2", "--batch-size", "2", "--speakers", "2", "--out", str(tmp_path / "run")]
    assert guide.main([*weights, *small, "--arms", "plain", "guided", "basis"]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    rows = {row["name"]: row for row in metrics["rows"]}
    assert list(rows) == ["truth", "still", "plain", "guided", "basis"]
    assert rows["truth"]["geometry"]["error"] == [0.0, 0.0, 0.0] and rows["still"]["geometry"]["speed"][0] == 0.0
    assert rows["guided"]["seeds"] == 2 and rows["truth"]["seeds"] == 1
    assert rows["basis"]["geometry"]["off_basis"][0] < 1e-3 < rows["plain"]["geometry"]["off_basis"][0]
    for row in rows.values():
        for role in ("guide", "judge"):
            assert np.isfinite(row["confidence"][role]).all() and np.shape(row["confidence"][role]) == (4, 3)
    assert [line["name"] for line in metrics["differences"]] == ["guided minus plain", "basis minus plain"]
    plain, guided = (np.array(rows[name]["confidence"]["judge"])[:, 0] for name in ("plain", "guided"))
    assert np.array(metrics["differences"][0]["confidence"])[:, 0] == pytest.approx(guided - plain, abs=1e-6)
    for name in ("guidance.png", "faces.png", "sample.mp4"):
        assert (tmp_path / "run" / name).stat().st_size > 5000
    speeds = metrics["pause_speed"]
    assert {name: len(runs) for name, runs in speeds.items()} == {"truth": 1, "plain": 2, "guided": 2, "basis": 2}
    printed = capsys.readouterr().out
    assert "guided minus plain" in printed
    assert f"{speeds['plain'][1]:.3f} ({speeds['plain'][1] / speeds['truth'][0]:.2f})" in printed

    monkeypatch.setattr(guide, "save_figure", lambda *args, **options: None)  # drawn already, and drawing takes seconds
    models = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run" / "models").iterdir()}
    assert len(models) == 6
    assert guide.main([*weights, *small, "--arms", "plain", "--no-video", "--loss-weight", "0.3"]) == 0
    again = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert again["rows"][2] == metrics["rows"][2], "runs that are there are evaluated again, not trained again"
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run" / "models").iterdir()} == models
    assert guide.main([*weights, *small, "--arms", "plain", "--no-video", "--seeds", "1", "--batch-size", "1"]) == 0
    other = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert other["rows"][2] != metrics["rows"][2], "those of other settings are"


def test_arms_that_stop_and_a_judge_with_other_ears(guide: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real motion and the share of its agreement change the training; the judge hears MFCCs; one half is evaluated."""
    monkeypatch.setattr(guide, "BASIS_CLIPS", 32)
    monkeypatch.setattr(guide, "save_figure", lambda *args, **options: None)
    monkeypatch.setattr(guide, "speaker_half", lambda speaker: "AB"[int(speaker[-1]) % 2])
    heard = SyncerPyramidConfig(syncer=SyncerConfig(width=8, embed=8, frame_blocks=1), audio="mfcc")
    for name, config in (("guide", TINY), ("judge", heard)):
        save_pretrained(SyncerPyramid(config=config), tmp_path / name)
    options = ["--weights", str(tmp_path / "guide"), "--judge", str(tmp_path / "judge"), "--no-video", "--steps", "3"]
    options += ["--seeds", "1", "--batch-size", "2", "--speakers", "2", "--half", "A", "--out", str(tmp_path / "run")]

    def rows(*arms: str) -> tuple[dict[str, list[float]], int]:
        assert guide.main([*options, "--arms", *arms]) == 0
        metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
        return {row["name"]: row["geometry"]["velocity_error"] for row in metrics["rows"]}, metrics["validation_clips"]

    found, clips = rows("guided", "target", "capped")
    assert found["guided"] != found["target"] and found["capped"] not in (found["guided"], found["target"])
    options += ["--share", "1e-6"]
    assert rows("capped")[0]["capped"] != found["capped"], "another share is another run"
    options.remove("--half")
    options.remove("A")
    assert rows("guided")[1] == 2 * clips


def test_weights_that_are_not_there_are_one_line(guide: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert guide.main(["--weights", "no-such-model"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error:") and "Traceback" not in error


def test_the_loop_lowers_what_it_is_told_to(guide: ModuleType) -> None:
    """On one batch that comes again and again, each loss falls far when it is asked for, and the syncers stay as they were."""
    syncers = SyncerPyramid(config=TINY)
    before = [parameter.clone() for parameter in syncers.parameters()]
    sync_loss = MultiScaleSyncLoss(syncers=syncers)
    chance = torch.Generator().manual_seed(3)
    audio = torch.randn(2, 160, 26, generator=chance)
    face = torch.rand(2, 1, 68, 2, generator=chance) * 100
    target = face + torch.randn(2, 40, 68, 2, generator=chance).cumsum(1)
    speech = torch.ones(2, 40, dtype=torch.bool)

    def losses(mse_weight: float, sync_weight: float, steps: int) -> tuple[float, float]:
        torch.manual_seed(0)
        model = guide.Regressor(coeffs=26, points=68, dims=2, width=16)
        options = {"mse_weight": mse_weight, "sync_weight": sync_weight, "warm_up": 5, "learning_rate": 1e-2}
        guide.train(model, lambda: (audio, target, speech), steps=steps, sync_loss=sync_loss, **options)
        with torch.no_grad():
            made = model.eval()(audio, target[:, 0])
        return float((made - target).square().mean()), float(sync_loss(made, audio, reference=target[:, 0]).total)

    untouched, regressed, guided = losses(1.0, 0.0, 1), losses(1.0, 0.0, 40), losses(0.0, 1.0, 40)
    assert regressed[0] < 0.7 * untouched[0]
    assert guided[1] < untouched[1] - 0.2 and guided[1] < regressed[1] - 0.2
    assert all(torch.equal(old, new) for old, new in zip(before, syncers.parameters(), strict=True))


def test_the_silence_loss_stills_the_mouth_in_pauses(guide: ModuleType) -> None:
    """With the silence loss the mouth of the same batch moves less in its pauses than without."""
    chance = torch.Generator().manual_seed(3)
    audio, face = torch.randn(2, 160, 26, generator=chance), torch.rand(2, 1, 68, 2, generator=chance) * 100
    target = face + torch.randn(2, 40, 68, 2, generator=chance).cumsum(1)
    speech = torch.zeros(2, 40, dtype=torch.bool)

    def speed(silence: float) -> float:
        torch.manual_seed(0)
        model = guide.Regressor(coeffs=26, points=68, dims=2, width=16)
        sync_loss = MultiScaleSyncLoss(syncers=SyncerPyramid(config=TINY), silence_weight=silence)
        options = {"mse_weight": 1.0, "sync_weight": 1.0, "warm_up": 1, "learning_rate": 1e-2}
        guide.train(model, lambda: (audio, target, speech), steps=40, sync_loss=sync_loss, **options)
        with torch.no_grad():
            return float(pause_speed(model.eval()(audio, target[:, 0]), speech, reference=target[:, 0]).mean())

    assert guide.ARMS["silent"].silence > guide.ARMS["guided"].silence == 0
    assert speed(1.0) < 0.8 * speed(0.0)


def test_warm_up_spares_the_first_steps(guide: ModuleType) -> None:
    """With an endless warm-up the sync loss has no say; with none it has at once."""
    sync_loss = MultiScaleSyncLoss(syncers=SyncerPyramid(config=TINY))
    audio, target, speech = torch.randn(1, 160, 26), torch.rand(1, 40, 68, 2), torch.ones(1, 40, dtype=torch.bool)

    def after_two_steps(sync_weight: float, warm_up: int) -> torch.Tensor:
        torch.manual_seed(0)
        model = guide.Regressor(coeffs=26, points=68, dims=2, width=8)
        options = {"mse_weight": 1.0, "sync_weight": sync_weight, "warm_up": warm_up}
        guide.train(model, lambda: (audio, target, speech), steps=2, sync_loss=sync_loss, **options)
        return model.move.weight.detach()

    plain, patient, abrupt = after_two_steps(0.0, 0), after_two_steps(5.0, 10**9), after_two_steps(5.0, 0)
    torch.testing.assert_close(patient, plain, atol=1e-5, rtol=0)
    assert float((abrupt - plain).abs().max()) > 1e-3


def test_geometry_tells_faces_from_nonsense(guide: ModuleType) -> None:
    measure = sys.modules["measure"]
    chance = torch.Generator().manual_seed(0)
    basis = torch.randn(3, 68, 2, generator=chance)
    face = 100 * torch.rand(2, 1, 68, 2, generator=chance)
    height = (face[..., 1].amax(-1) - face[..., 1].amin(-1))[..., None, None]
    weights = torch.randn(2, 20, 3, generator=chance).cumsum(1)
    weights = weights - weights[:, :1]
    truth = face + height * 0.01 * torch.einsum("btc,cpd->btpd", weights, basis)
    inside = measure.geometry(truth, truth, basis)
    assert float(inside["off_basis"].max()) < 1e-3 and float(inside["error"].max()) == 0
    noisy = measure.geometry(truth + height * 0.02 * torch.randn(truth.shape, generator=chance), truth, basis)
    # Two dims of 2 % of a height each, less the 3 of 136 directions that the basis spans.
    expected = 2 * 2**0.5 * (133 / 136) ** 0.5
    assert noisy["off_basis"] == pytest.approx([expected] * 2, rel=0.03)
    assert bool((noisy["jitter"] > 2 * inside["jitter"]).all() and (noisy["velocity_error"] > 1).all())
