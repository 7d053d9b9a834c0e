"""Videos of the synthetic talker: what the detector reads is what was drawn, and the delay is the one asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")

from avsync.cli import demo, main
from avsync.corpus import Corpus, extract, write_talk
from avsync.corpus.media.files import read_audio
from avsync.corpus.synthetic import TalkDetector, synthetic_clip
from avsync.errors import ArgumentError


def test_a_talk_is_extracted_as_the_clip_that_it_was_made_of(tmp_path: Path) -> None:
    made = write_talk(tmp_path / "talk.mp4", speaker=100_003, clip=2, seconds=3.0)
    (clip,) = extract(tmp_path / "talk.mp4", detector="demo", crop="none")
    frames = min(clip.frames, made.frames)
    assert frames >= made.frames - 1
    np.testing.assert_allclose(clip.landmarks[:frames], made.landmarks[:frames], atol=0.01)


def test_delays_move_the_audio(tmp_path: Path) -> None:
    for delay in (-0.4, 0.0, 0.4):
        write_talk(tmp_path / "talk.mp4", seconds=2.0, audio_delay=delay)
        heard, _ = read_audio(tmp_path / "talk.mp4", sample_rate=16000)
        true = synthetic_clip(seconds=2.0).waveform
        lags = range(-8000, 8001, 160)
        padded = np.pad(true, 8000)
        best = max(lags, key=lambda lag: float(padded[8000 - lag :][: heard.size] @ heard[: padded[8000 - lag :].size]))
        assert best == pytest.approx(16000 * delay, abs=160)
    with pytest.raises(ArgumentError, match="`audio_delay`"):
        write_talk(tmp_path / "talk.mp4", audio_delay=2.0)
    with pytest.raises(ArgumentError, match="`speaker`"):
        write_talk(tmp_path / "talk.mp4", speaker=1 << 21, seconds=0.04)


def test_other_images_have_no_face() -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (480, 640, 3), dtype=np.uint8), np.full((480, 640, 3), 255, np.uint8)]
    assert TalkDetector()([*images, np.zeros((48, 64, 3), np.uint8)]) == [None, None, None]


def test_demo_to_corpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", str(tmp_path), "--seconds", "2.2"]) == 0
    assert "talk.mp4" in capsys.readouterr().err
    for folder, split in {"talks": "train", "unseen": "val"}.items():
        words = ["extract", str(tmp_path / folder), "--out", str(tmp_path / "corpus"), "--split", split]
        assert main([*words, "--detector", "demo", "--quiet"]) == 0
    speakers = [name.rpartition("-")[0] for name in Corpus(tmp_path / "corpus").speakers]
    assert tuple(speakers) == demo.TALKS + demo.UNSEEN
    assert main(["demo", str(tmp_path), "--seconds", "2.2"]) == 1  # nothing is replaced
