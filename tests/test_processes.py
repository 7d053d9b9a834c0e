"""Open files and threads do not outlive a fork: a forked or spawned worker gets an error in words, never wrong data or a hang."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from avsync.audio.features import LogMel
from avsync.corpus.banks.bank import ClipBank
from avsync.corpus.banks.loader import BatchLoader
from avsync.corpus.banks.shards import ShardedBank, build_shards
from avsync.corpus.clip import Clip, Corpus, write_clip, write_index
from avsync.corpus.extraction.from_video import iter_clips
from avsync.corpus.media import AudioSource, VideoSource, write_video
from avsync.corpus.synthetic.talker import synthetic_clip
from avsync.errors import ArgumentError

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked on POSIX only"),
    # Python 3.12 and newer warn of every fork of a process with threads: this is what is tested.
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]
FACE = np.array([[20, 20], [40, 20], [30, 44]], np.float32)


def find_face(images: list[Any]) -> list[Any]:
    return [FACE] * len(images)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("forks") / "talk.mp4"
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 6 * 16000).astype(np.float32)
    write_video(path, (np.full((48, 64, 3), 90, np.uint8) for _ in range(150)), fps=25, waveform=noise)
    return path


def clips() -> list[Clip]:
    return [synthetic_clip(speaker=number, seconds=2.0) for number in (0, 1)]


@contextmanager
def audio_source(video: Path) -> Iterator[Callable[[], Any]]:
    with AudioSource(video) as source:
        source.read(0.0, 16000)
        yield lambda: source.read(1.0, 16000)


@contextmanager
def video_source(video: Path) -> Iterator[Callable[[], Any]]:
    with VideoSource(video) as source:
        next(source.frames())
        yield lambda: next(source.frames())


@contextmanager
def frames_of_a_video(video: Path) -> Iterator[Callable[[], Any]]:
    with VideoSource(video) as source:
        frames = source.frames()
        next(frames)
        yield lambda: next(frames)


@contextmanager
def clips_of_a_video(video: Path) -> Iterator[Callable[[], Any]]:
    made = iter_clips(video, detector=find_face, min_seconds=1.0, max_seconds=1.0)
    next(made)
    yield lambda: list(made)
    made.close()  # type: ignore[attr-defined]


@contextmanager
def loader(video: Path) -> Iterator[Callable[[], Any]]:
    with BatchLoader(ClipBank(clips(), features=LogMel()), batch_size=2, frames=20, workers=1) as batches:
        next(batches)
        yield lambda: next(batches)


def answer_of_a_fork(ask: Callable[[], Any]) -> Any:
    """What ``ask`` returns or raises in a forked process; a process that hangs fails."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()

    def work() -> None:
        try:
            there.send(ask())
        except Exception as error:  # noqa: BLE001 - the parent looks at it
            there.send(error)

    process = context.Process(target=work)
    process.start()
    try:
        assert here.poll(60), "the forked process hangs"
        answer = here.recv()
        process.join(60)
        assert process.exitcode == 0
        return answer
    finally:
        process.kill()


@pytest.mark.parametrize(
    "resource",
    [audio_source, video_source, frames_of_a_video, clips_of_a_video, loader],
    ids=lambda resource: resource.__name__,
)
def test_a_fork_is_refused_in_words_and_the_parent_goes_on(resource: Any, video: Path) -> None:
    with resource(video) as ask:
        for _ in range(2):
            error = answer_of_a_fork(ask)
            assert isinstance(error, ArgumentError) and "fork" in str(error)
        ask()


@pytest.mark.parametrize("source", [AudioSource, VideoSource])
def test_a_fork_may_close_and_drop_what_it_inherited(source: Any, video: Path) -> None:
    with ExitStack() as stack:
        held = [stack.enter_context(source(video))]

        def drop() -> str:
            held.pop().close()
            return "dropped"

        assert answer_of_a_fork(drop) == "dropped"
        assert held[0].path == str(video)


@pytest.mark.parametrize("source", [AudioSource, VideoSource])
def test_open_files_are_not_pickled_or_copied(source: Any, video: Path) -> None:
    with source(video) as opened:
        for attempt in (pickle.dumps, copy.copy):
            with pytest.raises(ArgumentError, match=f"{source.__name__}.*pickle"):
                attempt(opened)


def test_a_loader_is_not_pickled() -> None:
    with (
        BatchLoader(ClipBank(clips(), features=LogMel()), batch_size=2, frames=20) as batches,
        pytest.raises(ArgumentError, match="BatchLoader"),
    ):
        pickle.dumps(batches)


def test_files_that_are_opened_anew_work_in_forks(tmp_path: Path) -> None:
    """Corpora and banks of shards hold no file position: forks read what the parent reads."""
    write_index(tmp_path, [write_clip(clip, tmp_path) for clip in clips()])
    corpus = Corpus(tmp_path)
    bank: ShardedBank = build_shards(corpus, tmp_path / "shards", features=LogMel())
    expected = bank.windows(20, stride=20)  # the maps are open now
    batch = answer_of_a_fork(lambda: [bank.windows(20, stride=20).landmarks.numpy(), corpus[1].waveform])
    assert np.array_equal(batch[0], expected.landmarks.numpy())
    assert np.array_equal(batch[1], corpus[1].waveform)
    again = pickle.loads(pickle.dumps(bank)).windows(20, stride=20)  # noqa: S301 - our own
    assert torch.equal(again.audio, expected.audio)
