"""examples/baselines/lifelike.py on the synthetic talker, and its spectrum against a known one."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

EXAMPLES = Path(__file__).parent.parent / "examples"
MODULES = ("listeners", "lifelike", "judging", "shared", "evaluation", "pipeline", "presets")


@pytest.fixture
def lifelike(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.setattr(sys, "path", [str(EXAMPLES / "baselines"), str(EXAMPLES / "msync"), *sys.path])
    for name in MODULES:
        sys.modules.pop(name, None)
    import lifelike

    yield lifelike
    for name in MODULES:
        sys.modules.pop(name, None)


def test_power_is_in_the_band_of_the_motion(lifelike: ModuleType) -> None:
    face = torch.rand(68, 2, generator=torch.Generator().manual_seed(0))
    time = torch.arange(80) / 25
    made = face.expand(3, 80, -1, -1).clone()
    made[:, :, 60, 1] += 0.1 * torch.sin(2 * math.pi * 2.5 * time)
    power = lifelike.power(made, [60])
    assert int(power.argmax()) == 3  # 2 to 3 Hz
    assert float(power[3] / power.sum()) > 0.8
    torch.testing.assert_close(lifelike.power(2 * made, [60]), power)


@pytest.mark.filterwarnings("ignore:.*with no more vectors than features:UserWarning")
def test_the_command_compares_generators_with_people(
    lifelike: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import dataclasses

    import judging

    few = dataclasses.replace(lifelike.LIFELIKE, synthetic_speakers=4, synthetic_seconds=14.0)
    models = {"face": judging.MultiScaleSyncer.from_pretrained("landmarks68-25fps-judge")}
    monkeypatch.setattr(lifelike, "LIFELIKE", few)
    monkeypatch.setattr(lifelike, "load_models", lambda: models)
    assert lifelike.main(["generator-landmarks68-25fps", "--figure", str(tmp_path / "figure.png")]) == 0
    rows = dict(line.strip("| ").split(" | ", 1) for line in capsys.readouterr().out.splitlines() if line.startswith("| "))
    people, made = rows["motion distance"].split(" | ")
    assert float(people) == 0 < float(made)
    assert float(rows["spread of two seeds"].strip("| ")) > 0.3
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert lifelike.main([str(tmp_path / "missing")]) == 1
    assert "error: " in capsys.readouterr().err


def test_listeners_hear_people_and_a_generator(
    lifelike: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import dataclasses

    import listeners

    few = dataclasses.replace(lifelike.LIFELIKE, synthetic_speakers=4, synthetic_seconds=14.0)
    monkeypatch.setattr(listeners, "LIFELIKE", few)
    names = ["landmarks68-25fps-mouth", "landmarks68-25fps-mfcc"]  # of two kinds of audio features
    assert listeners.main(["generator-landmarks68-25fps", "--listeners", *names]) == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| landmarks")]
    assert [row[0] for row in rows] == names
    for _, people, made, ratio in rows:
        for heard, other, share in zip(*(map(float, cell.split()) for cell in (people, made, ratio)), strict=True):
            assert share == pytest.approx(other / heard, abs=0.05)
    assert rows[0][1] != rows[1][1], "each hears its own features"
    assert listeners.main(["missing"]) == 1
    assert "error: " in capsys.readouterr().err
