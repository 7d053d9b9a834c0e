"""Right calls of the corpus; ``tests/test_corpus_arguments.py`` has those of its files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from avsync import corpus as room
from avsync.audio import LogMel
from avsync.corpus import detectors, media
from avsync.corpus.clip import write_clip, write_index
from tests.right_calls import Call, new_folder

AT = new_folder()
CLIP = room.Clip("a", "s", "train", np.ones((50, 6, 2), np.float32), np.full(32000, 0.1, np.float32))
VIDEO = AT / "v.mp4"
IMAGES = [np.zeros((8, 8, 3), np.uint8)] * 10
media.write_video(VIDEO, IMAGES, fps=25, waveform=np.zeros(6400, np.float32))
write_index(AT / "corpus", [write_clip(CLIP, AT / "corpus")])
BANK = room.ClipBank([CLIP], features=LogMel())
SHARDS = room.build_shards([CLIP], AT / "shards", features=LogMel())
BATCH = BANK.sample(2, 20)
SYNTHETIC = room.SyntheticCorpus(speakers=2, clips_per_speaker=1, seconds=1.0)


def nobody(images: Any) -> list[None]:
    return [None] * len(images)


def closing(kind: Callable[..., Any]) -> Callable[..., None]:
    """Open something and close it."""
    return lambda **given: kind(**given).close()


def audio(name: str) -> Callable[..., Any]:
    """Return a method of a new source of audio."""

    def call(**given: Any) -> Any:
        with media.AudioSource(VIDEO) as source:
            return getattr(source, name)(**given)

    return call


def loading(**given: Any) -> None:
    with room.BatchLoader(BANK, batch_size=2, frames=20) as loader:
        loader.load_state_dict(**given)


def state() -> dict[str, Any]:
    with room.BatchLoader(BANK, batch_size=2, frames=20) as loader:
        return loader.state_dict()


CALLS = {
    "write_corpus": Call(room.write_corpus, {"clips": [CLIP], "folder": AT / "written"}, slow=True),
    "write_talk": Call(room.write_talk, {"path": AT / "talk.mp4", "seconds": 1.0}, slow=True),
    "AugmentConfig": Call(room.AugmentConfig, {}),
    "Batch.to": Call(BATCH.to, {"device": "cpu"}),
    "Batch.select": Call(BATCH.select, {"which": slice(0, 1)}),
    "BatchLoader": Call(
        closing(room.BatchLoader), {"bank": BANK, "batch_size": 2, "frames": 20}, like=room.BatchLoader, slow=True
    ),
    "BatchLoader.load_state_dict": Call(loading, {"state_dict": state()}, like=room.BatchLoader.load_state_dict, slow=True),
    "resample_clip": Call(room.resample_clip, {"clip": CLIP}),
    "ClipBank": Call(room.ClipBank, {"clips": [CLIP], "features": LogMel()}),
    "ClipBank.to": Call(BANK.to, {"device": "cpu"}),
    "CropBank.sample": Call(BANK.sample, {"batch_size": 2, "frames": 20}),
    "CropBank.windows": Call(BANK.windows, {"frames": 20, "stride": 20}),
    "Corpus": Call(room.Corpus, {"folder": AT / "corpus"}),
    "Corpus.__getitem__": Call(room.Corpus(AT / "corpus").__getitem__, {"index": 0}),
    "ShardedBank": Call(room.ShardedBank, {"folder": AT / "shards", "features": LogMel()}),
    "ShardedBank.to": Call(SHARDS.to, {"device": "cpu"}),
    "SyntheticConfig": Call(room.SyntheticConfig, {}),
    "SyntheticCorpus": Call(room.SyntheticCorpus, {}),
    "SyntheticCorpus.__getitem__": Call(SYNTHETIC.__getitem__, {"index": 0}, slow=True),
    "build_shards": Call(room.build_shards, {"clips": [CLIP], "folder": AT / "again", "features": LogMel()}, slow=True),
    "extract": Call(room.extract, {"video": VIDEO, "detector": nobody}, slow=True),
    "extract_corpus": Call(room.extract_corpus, {"videos": [], "out": AT / "out", "detector": nobody}, slow=True),
    "iter_clips": Call(
        lambda **given: list(room.iter_clips(**given)), {"video": VIDEO, "detector": nobody}, like=room.iter_clips, slow=True
    ),
    "speaker_half": Call(room.speaker_half, {"speaker": "spk001"}),
    "speech_mask": Call(room.speech_mask, {"waveform": CLIP.waveform}),
    "synthetic_clip": Call(room.synthetic_clip, {"seconds": 1.0}, slow=True),
    "CheckedDetector": Call(detectors.CheckedDetector, {"detect": nobody, "name": "nobody"}),
    "as_detector": Call(detectors.as_detector, {"detector": nobody}),
    "AudioSource": Call(closing(media.AudioSource), {"path": VIDEO}, like=media.AudioSource),
    "AudioSource.read": Call(audio("read"), {"start": 0.0, "samples": 100}, like=media.AudioSource.read),
    "AudioSource.read_segment": Call(
        audio("read_segment"), {"start": 0.0, "samples": 100}, like=media.AudioSource.read_segment
    ),
    "VideoSource": Call(closing(media.VideoSource), {"path": VIDEO}, like=media.VideoSource),
    "read_audio": Call(media.read_audio, {"path": VIDEO}),
    "write_audio": Call(media.write_audio, {"path": AT / "a.flac", "waveform": CLIP.waveform}),
    "write_video": Call(media.write_video, {"path": AT / "w.mp4", "frames": IMAGES, "fps": 25.0}, slow=True),
}
