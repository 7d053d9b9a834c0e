"""examples/baselines on the synthetic talker: intervals against known values, and every method from the command line."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

EXAMPLES = Path(__file__).parent.parent / "examples"
MODULES = (
    "audio2head",
    "claims",
    "figures",
    "judging",
    "makeittalk",
    "ms_sync",
    "run",
    "shared",
    "suhmo",
    "wav2lip",
    "pipeline",
    "presets",
)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The command, with a preset "tiny" and no evaluation models, which take most of the time."""
    monkeypatch.setattr(sys, "path", [str(EXAMPLES / "baselines"), str(EXAMPLES / "msync"), *sys.path])
    for name in (*MODULES, "evaluation"):
        sys.modules.pop(name, None)
    import presets
    import run

    base = presets.BASELINES
    sizes = {"hidden": 8, "position_embed": 8, "audio_channels": 8, "branch_width": 8, "motion_components": 6}
    tiny = dataclasses.replace(
        base,
        synthetic_speakers=4,
        synthetic_seconds=8.0,
        generator=dataclasses.replace(base.generator, **sizes),
        frame_discriminator=dataclasses.replace(base.frame_discriminator, embed=8, depth=1),
        window_discriminator=dataclasses.replace(base.window_discriminator, embed=8, hidden=8),
        gan=dataclasses.replace(base.gan, steps=1, batch_size=4),
    )
    monkeypatch.setitem(presets.PRESETS, "tiny", tiny)
    monkeypatch.setattr(run, "load_models", lambda: {"face": run.trained_pyramid("guide", run.GUIDE, tiny, Fabric())})
    yield run
    for name in (*MODULES, "evaluation"):
        sys.modules.pop(name, None)


class Fabric:
    """What loading a model needs of a Fabric."""

    device = "cpu"


def test_intervals_draw_seeds_and_speakers(run: ModuleType) -> None:
    judging = sys.modules["judging"]
    speakers = [f"s{number // 4}" for number in range(40)]
    rng = torch.Generator().manual_seed(0)
    of_speaker = torch.randn(10, generator=rng).repeat_interleave(4)
    seeds = [(of_speaker + shift).tolist() for shift in (0.0, 2.0)]
    found = judging.estimate(seeds, speakers)
    assert found.mean == pytest.approx(float(of_speaker.mean()) + 1)
    assert found.high - found.low > 2, "both seeds may be drawn twice"
    alone = judging.estimate(seeds[:1], speakers)
    assert 0.8 < alone.high - alone.low < 1.9, "four clips of a speaker count as one"
    same = judging.estimate(judging.differences(seeds, seeds), speakers)
    assert (same.mean, same.low, same.high) == (0, 0, 0)


def test_options_replace_settings_of_the_preset(run: ModuleType, tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    run.add_arguments(parser)
    given = ["--out", str(tmp_path), "--generator-lr", "1.6e-3", "--steps", "7", "--batch-size", "12"]
    found, base = (run.preset_of(parser.parse_args(options)).gan for options in (given, given[:2]))
    assert base == run.PRESETS["baselines"].gan
    assert found == dataclasses.replace(base, generator_lr=1.6e-3, steps=7, batch_size=12) != base


def test_one_branch_has_the_size_of_four(run: ModuleType) -> None:
    ms_sync = sys.modules["ms_sync"]
    config = sys.modules["presets"].BASELINES.generator
    matched = dataclasses.replace(config, num_branches=1, branch_width=ms_sync.matched_width(config))
    models = [ms_sync.MultiScaleGenerator(each) for each in (config, matched)]
    sizes = [sum(parameter.numel() for parameter in model.parameters()) for model in models]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)


def test_head_pose_undoes_a_rigid_motion(run: ModuleType) -> None:
    audio2head = sys.modules["audio2head"]
    face = torch.rand(2, 68, 2, generator=torch.Generator().manual_seed(0))
    turned = torch.stack([face[..., 0] * 0.8 - face[..., 1] * 0.6, face[..., 0] * 0.6 + face[..., 1] * 0.8], dim=-1) * 1.1 + 0.3
    pose = audio2head.head_pose(torch.stack([face, turned], dim=1))
    torch.testing.assert_close(face[:, None] + audio2head.posed(face, pose), torch.stack([face, turned], dim=1))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*biased upwards")  # of 16 clips
def test_every_method_gives_a_row(run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("makeittalk", "audio2head", "wav2lip"):
        module = sys.modules[name]
        monkeypatch.setitem(run.METHODS, name, lambda task, module=module: module.train(task, steps=2))
    chosen = ["makeittalk", "audio2head", "wav2lip", "SUHMo-style", "level 0 only", "MS-Sync-long", "with D_j"]
    bench = run.Bench(run_arguments(run, tmp_path))
    for name in chosen:
        [found] = bench.results(name)
        assert found["80"]["speed"] and all(value >= 0 for value in found["80"]["speed"])
        assert json.loads((tmp_path / name.replace(" ", "-") / "seed0" / "metrics.json").read_text()) == found
    bounds = bench.bounds()
    assert set(bounds["static"]["speed"]) == {0.0}
    assert bounds["ground truth"]["distance"] == pytest.approx(0, abs=1e-3)


def test_finished_regressions_are_kept(run: ModuleType, tmp_path: Path) -> None:
    bench = run.Bench(run_arguments(run, tmp_path))
    crops = bench.crops(80)
    for name in ("makeittalk", "audio2head", "wav2lip"):
        preset, module, folder = bench.preset, sys.modules[name], tmp_path / name
        first = module.train(run.Task(bench.material, preset, bench.guide, folder, bench.fabric), steps=2)
        # Other settings have no effect, because the model is loaded.
        other = dataclasses.replace(preset, gan=dataclasses.replace(preset.gan, seed=1))
        second = module.train(run.Task(bench.material, other, bench.guide, folder, bench.fabric), steps=2)
        assert torch.equal(bench.motion(first, crops, 0), bench.motion(second, crops, 0)), name
    kept = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.safetensors"))
    assert kept == [
        "audio2head/heads.safetensors",
        "audio2head/lips.safetensors",
        "makeittalk/model.safetensors",
        "wav2lip/expert.safetensors",
        "wav2lip/model.safetensors",
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*biased upwards")  # of 16 clips
def test_figures_of_finished_runs(run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import figures

    for name, method in {"Audio2Head": "audio2head", "Wav2Lip": "wav2lip"}.items():
        module = sys.modules[method]
        monkeypatch.setitem(run.METHODS, f"{name}-style", lambda task, module=module: module.train(task, steps=2))
    arguments = ["--preset", "tiny", "--out", str(tmp_path), "--clips", "1"]
    assert figures.main(arguments) == 0
    [clip] = [path.stem.removeprefix("faces-") for path in (tmp_path / "figures").glob("*.mp4")]
    names = ["figure3.png", f"figure4-{clip}.png", f"motion-{clip}.png", "figure5.png", f"faces-{clip}.mp4"]
    assert all((tmp_path / "figures" / name).stat().st_size > 5000 for name in names)
    assert "| ground truth | " in (tmp_path / "figures" / "figure3.md").read_text()
    assert "| Wav2Lip-style | " in (tmp_path / "figures" / "figure4.md").read_text()
    # A finished run without a history is trained again in a folder of its own, to the same curves.
    folder = tmp_path / "MS-Sync-short" / "seed0"
    history = (folder / "history.json").read_text()
    weights = folder / "generator" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    (folder / "history.json").unlink()
    assert figures.main([*arguments, "--figures", "5"]) == 0
    assert (folder / "again" / "history.json").read_text() == history
    assert weights.stat().st_mtime_ns == before
    assert figures.main([*arguments, "--figures", "4", "--speakers", "nobody"]) == 1


def tables(text: str) -> dict[str, dict[str, list[str]]]:
    """Return the cells of Markdown tables by the first cell of the table and of the row."""
    found: dict[str, dict[str, list[str]]] = {}
    for part in text.split("\n\n"):
        if part.startswith("|"):
            title, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in part.splitlines())
            found[title[0]] = {name: cells for name, *cells in rows}
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*biased upwards")  # of 16 clips
def test_tables_of_claims(run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import claims

    longer = dataclasses.replace(sys.modules["presets"].PRESETS["tiny"], synthetic_seconds=14.0)
    monkeypatch.setitem(sys.modules["presets"].PRESETS, "tiny", longer)
    small = run.trained_pyramid("face", "landmarks68-25fps-head", longer, Fabric())
    monkeypatch.setattr(run, "load_models", lambda: dict.fromkeys(("face", "mouth", "head"), small))
    arguments = ["--preset", "tiny", "--out", str(tmp_path)]
    assert claims.main(["2", *arguments]) == 0 and claims.main(["3", *arguments]) == 0
    second, third = (tables((tmp_path / f"claim{number}.md").read_text()) for number in (2, 3))

    def measured(name: str) -> Any:
        return json.loads((run.method_folder(tmp_path, name, 0) / "metrics.json").read_text())

    full, single = (measured(name)["80"] for name in ("MS-Sync-short", "level 0 only"))
    assert second[""]["MS-Sync-short"][3] == f"{sum(full['speed']) / len(full['speed']):.3f}"
    gained = [a - b for a, b in zip(full["head3"], single["head3"], strict=True)]
    differences = second["MS-Sync-short minus, head"]["level 0 only"]
    assert len(differences) == 4 and differences[3].startswith(f"{sum(gained) / len(gained):+.3f} [")
    rows = third["motion distance, frames"]
    last = float(rows["MS-Sync-long"][-1])
    assert len(rows["MS-Sync-long"]) == 5
    assert last == pytest.approx(measured("MS-Sync-long")["200"]["distance"], abs=0.06), "the same frames of the same clips"
    assert all((tmp_path / f"claim{number}.png").stat().st_size > 5000 for number in (2, 3))


def run_arguments(run: ModuleType, folder: Path) -> object:
    import argparse

    parser = argparse.ArgumentParser()
    run.add_arguments(parser)
    return parser.parse_args(["--preset", "tiny", "--out", str(folder)])


def test_systems_trained_side_by_side_are_those_of_run(run: ModuleType, tmp_path: Path) -> None:
    sys.modules.pop("side_by_side", None)
    import side_by_side

    options = ["--preset", "tiny", "--steps", "3", "--out", str(tmp_path), "--accelerator", "cpu"]
    names = ["SUHMo-style", "MS-Sync-short"]
    assert side_by_side.main([*options, "--seeds", "2", "--only", *names]) == 0
    folders = {name: [run.method_folder(tmp_path, name, seed) for seed in range(2)] for name in names}
    preset = dataclasses.replace(run.PRESETS["tiny"], gan=dataclasses.replace(run.PRESETS["tiny"].gan, steps=3))
    fabric = run.make_fabric(accelerator="cpu")
    material, guide = run.load_material("synthetic", preset), run.trained_pyramid("guide", run.GUIDE, preset, fabric)
    evaluation = run.trained_pyramid("watching", run.WATCHING, preset, fabric)
    for name in names:
        for seed, folder in enumerate(folders[name]):
            seeded = dataclasses.replace(preset, gan=dataclasses.replace(preset.gan, seed=seed))
            alone = tmp_path / "alone" / name / str(seed)
            run.METHODS[name](run.Task(material, seeded, guide, alone, fabric, evaluation))
            first, second = (load_file(each / "generator" / "model.safetensors") for each in (folder, alone))
            assert all(torch.equal(first[key], second[key]) for key in first | second), (name, seed)
            curves = [each / "history.json" for each in (folder, alone)]
            assert [path.is_file() for path in curves] == [name != "SUHMo-style"] * 2
            if name != "SUHMo-style":
                assert curves[0].read_text() == curves[1].read_text()
                assert [step for step, _ in json.loads(curves[0].read_text())["confidence3"]] == [1, 2, 3]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/generator/*")}
    assert side_by_side.main([*options, "--seeds", "2", "--only", *names]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before, "finished systems are kept"


def test_a_system_that_diverged_does_not_take_the_others_with_it(run: ModuleType, tmp_path: Path) -> None:
    sys.modules.pop("side_by_side", None)
    import side_by_side

    saved: list[int] = []

    def system(number: int) -> SimpleNamespace:
        def save() -> None:
            if number == 0:
                raise side_by_side.DivergedError("system 0")
            saved.append(number)

        steps = SimpleNamespace(config=SimpleNamespace(steps=1), step=lambda now: None)
        return SimpleNamespace(steps=steps, record=lambda now: None, save=save)

    with pytest.raises(side_by_side.DivergedError, match="system 0"):
        side_by_side.train_together([system(0), system(1)], torch.device("cpu"))
    assert saved == [1]
    options = ["--preset", "tiny", "--out", str(tmp_path), "--accelerator", "cpu"]
    with pytest.raises(SystemExit):
        side_by_side.main([*options, "--processes", "0"])
    for wrong in (["--steps", "0"], ["--batch-size", "0"]):
        assert side_by_side.main([*options, *wrong]) == 1
