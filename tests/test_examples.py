"""examples/msync from the command line, at a size that takes seconds."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest
import torch

from avsync.corpus.clip import write_clip, write_index
from avsync.corpus.synthetic.talker import SyntheticCorpus
from avsync.figures.sync import read_history

pytestmark = pytest.mark.filterwarnings("ignore:.*biased upwards")  # of 16 clips

EXAMPLE = Path(__file__).parent.parent / "examples" / "msync"


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The example's main module, with a preset "tiny"."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    import presets
    import train

    quick = presets.QUICK
    tiny = dataclasses.replace(
        quick,
        synthetic_speakers=4,
        synthetic_seconds=8.0,
        syncer_training=dataclasses.replace(quick.syncer_training, steps=3, batch_size=4),
        metric_training=dataclasses.replace(quick.metric_training, steps=3, batch_size=4),
        gan=dataclasses.replace(quick.gan, steps=3, batch_size=4),
    )
    monkeypatch.setitem(presets.PRESETS, "tiny", tiny)
    yield train
    for name in ("presets", "pipeline", "evaluation", "report", "train", "ablation"):
        sys.modules.pop(name, None)


def tiny(folder: Path, *more: str) -> list[str]:
    return ["--preset", "tiny", "--out", str(folder), "--name", "run", "--accelerator", "cpu", "--quiet", *more]


@pytest.mark.slow
def test_a_run_leaves_everything_it_promises(train: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(tiny(tmp_path)) == 0
    run = tmp_path / "run"
    metrics = json.loads((run / "metrics.json").read_text())
    assert [row["name"] for row in metrics["rows"]] == ["ground truth", "generated", "static", "shuffled"]
    assert all(np.isfinite(row["confidence"]).all() and len(row["confidence"]) == 4 for row in metrics["rows"])
    assert metrics["rows"][2]["speed"] == 0
    truth, made = metrics["dynamics"]
    assert (truth["name"], truth["distance"]) == ("ground truth", pytest.approx(0, abs=1e-3)) and made["distance"] > 1
    assert 0.9 < truth["height"] < 1.1 and 0 < truth["opening"] < truth["opening95"] and 0 < metrics["spread"] < 10
    for name in (
        "offsets",
        "confidence",
        "faces",
        "masks",
        "syncers-loss",
        "judge-accuracy",
        "generator-loss",
        "generator-confidence",
    ):
        assert (run / "figures" / f"{name}.png").stat().st_size > 5000
    curves = read_history(run / "logs" / "generator")  # what avsync evaluate --history draws as the paper's Figure 5
    assert {f"confidence{level}" for level in range(4)} <= set(curves)
    with av.open(str(run / "sample.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 80
        assert video.streams.audio
    table = capsys.readouterr().out
    assert "ground truth" in table and "conf. level 3" in table

    assert train.main(tiny(tmp_path)) == 1, "a finished run is not overwritten unasked"
    assert "--resume" in capsys.readouterr().err
    assert train.main(tiny(tmp_path, "--resume", "--levels", "1")) == 1, "nor resumed under other settings"
    (run / "generator" / "config.json").unlink()
    assert train.main(tiny(tmp_path, "--resume")) == 0
    again = json.loads((run / "metrics.json").read_text())
    assert again["rows"] == metrics["rows"]


@pytest.mark.slow
def test_a_corpus_of_ones_own_with_a_damaged_clip(
    train: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus"
    clips = list(SyntheticCorpus(speakers=2, clips_per_speaker=2, seconds=8.0))
    write_index(corpus, [write_clip(clip, corpus) for clip in clips])
    damaged = corpus / f"{clips[0].id}.npz"
    damaged.write_bytes(damaged.read_bytes()[:1000])

    assert train.main(tiny(tmp_path, "--corpus", str(corpus))) == 1
    error = capsys.readouterr().err
    assert clips[0].id in error and "Traceback" not in error
    assert not (tmp_path / "run").exists(), "a run that could not begin leaves its name free"
    assert train.main(tiny(tmp_path, "--corpus", str(corpus), "--skip-bad", "--branches", "1")) == 0
    assert f"skipped clip {clips[0].id}" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["syncer_training", "gan"])
def test_a_rate_that_is_far_too_high_is_told(
    train: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    presets = sys.modules["presets"]
    preset = presets.PRESETS["tiny"]
    rates = {"generator_lr": 1e5} if stage == "gan" else {"learning_rate": 1e30}
    wild = dataclasses.replace(preset, **{stage: dataclasses.replace(getattr(preset, stage), steps=12, **rates)})
    monkeypatch.setitem(presets.PRESETS, "tiny", wild)
    assert train.main(tiny(tmp_path)) == 1
    error = capsys.readouterr().err
    assert "at step" in error or "hold NaN" in error
    assert "Lower the learning rate" in error and "Traceback" not in error


@pytest.mark.slow
def test_a_run_is_stopped_by_a_signal_and_continued(
    train: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = sys.modules["pipeline"]
    whole = pipeline.evaluate_syncers

    def interrupted(*arguments: object, **options: object) -> object:
        signal.raise_signal(signal.SIGTERM)
        return whole(*arguments, **options)

    monkeypatch.setattr(pipeline, "evaluate_syncers", interrupted)
    assert train.main(tiny(tmp_path)) == 128 + signal.SIGTERM
    assert "syncers: stopped by SIGTERM after step 1 of 3" in (error := capsys.readouterr().err) and "--resume" in error
    monkeypatch.setattr(pipeline, "evaluate_syncers", whole)
    assert train.main(tiny(tmp_path, "--resume")) == 0
    # A command that ran in this process before has directed avsync's messages to the standard error.
    assert "syncers: continues after step 1 of 3, from" in "".join(capsys.readouterr())
    (tmp_path / "run" / "config.json").write_text('{"preset": ')
    assert train.main(tiny(tmp_path, "--resume")) == 1
    assert "`--resume`" in (error := capsys.readouterr().err) and "config.json is damaged" in error


def test_a_corpus_that_is_not_there(train: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(tiny(tmp_path, "--corpus", str(tmp_path / "nowhere"))) == 1
    assert "nowhere" in capsys.readouterr().err


def test_one_clip_and_a_still_generator_have_a_table(train: ModuleType) -> None:
    evaluation = sys.modules["evaluation"]
    clip = next(iter(SyntheticCorpus(split="val", speakers=1, clips_per_speaker=1, seconds=4.0)))
    real = torch.from_numpy(clip.landmarks)[None, :80]
    still = real[:, :1].expand_as(real)
    row = evaluation.dynamics("generated", still, real)
    assert row.distance is None and row.height == pytest.approx(1)
    table = evaluation.dynamics_table([row], evaluation.spread(still, still))
    assert table.splitlines()[1].endswith(" -") and "are 0.00 of its displacement apart" in table
