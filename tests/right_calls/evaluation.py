"""Right calls of the evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from avsync import evaluation as room
from avsync.corpus import Clip, synthetic_clip
from avsync.corpus.clip import write_clip, write_index
from avsync.corpus.media import write_video
from avsync.evaluation import syncnet
from avsync.metrics import Calibration, LevelCalibration, sync_report
from avsync.models import SyncerConfig, SyncerPyramid, SyncerPyramidConfig
from tests.right_calls import Call, new_folder

AT = new_folder()
CLIP = synthetic_clip(seconds=2.0)
write_index(AT / "corpus", [write_clip(CLIP, AT / "corpus")])
VIDEO = AT / "a.mp4"
write_video(
    VIDEO,
    [np.full((48, 64, 3), 40 + 3 * k, np.uint8) for k in range(50)],
    fps=25,
    waveform=0.1 * np.random.default_rng(0).standard_normal(32000).astype(np.float32),
)
PYRAMID = SyncerPyramid(SyncerPyramidConfig(syncer=SyncerConfig(width=4, embed=2), num_levels=2, audio="log-mel"))
TRANSFORM = PYRAMID.speech_features()
BY: dict[str, Any] = {"pyramid": PYRAMID, "audio_transform": TRANSFORM}
RECORDING = room.Recording("a", (CLIP,))
CALIBRATION = Calibration(
    tuple(LevelCalibration(scale=1.0, power=1.0, match_bias=0.0, match_weights=(1.0, 1.0, 1.0)) for _ in range(2))
)
TRACKS = room.tracks_of_clips([CLIP])[0]
MEASURE = room.Measure("lmd", "LMD", "lower", "px", "landmarks")
CELL = room.Cell(1.0, 0.5, 1.5, 3)
TABLE = room.Table((MEASURE,), {"a": (CELL,)})
REPORT = room.CleanReport((room.ClipOffset("a", "a", "in sync", 0.01),))
NETWORKS = room.Networks()
SYNCNET = room.SyncNet(room.SyncNetConfig(embed=4)).eval()
FRAMES = torch.zeros(1, 3, 5, 111, 111)
POINTS = np.random.default_rng(0).random((20, 68, 2)).astype(np.float32)


def corners(images: Sequence[npt.NDArray[np.uint8]]) -> list[npt.NDArray[np.float32]]:
    """The same face everywhere."""
    return [np.array([[10, 10], [30, 10], [20, 40]], np.float32)] * len(images)


def measure(recording: Any) -> Any:
    clip: Clip = recording.clips[0]
    assert TRANSFORM is not None
    return sync_report(PYRAMID, torch.from_numpy(clip.landmarks)[None], TRANSFORM(torch.from_numpy(clip.waveform)[None]))


def calibrated(recording: Any) -> Any:
    return room.recording_report(recording, PYRAMID, audio_transform=TRANSFORM, calibration=CALIBRATION)


CALLS = {
    "offset_track": Call(room.offset_track, {"recording": RECORDING, "measure": measure}),
    "persons_of": Call(room.persons_of, {"recording": RECORDING}),
    "speaking_face": Call(room.speaking_face, {"persons": {"a": RECORDING}, "measure": calibrated}),
    "Table.text": Call(TABLE.text, {}),
    "Cell.text": Call(CELL.text, {}),
    "CleanReport.histogram": Call(REPORT.histogram, {}),
    "Evaluation.values": Call(
        lambda **given: _evaluation().values(**given), {"row": "static", "key": "lmd"}, like=room.Evaluation.values
    ),
    "Evaluation.to_json": Call(lambda **given: _evaluation().to_json(**given), {}, like=room.Evaluation.to_json),
    "Measure": Call(room.Measure, vars(MEASURE)),
    "Networks": Call(room.Networks, {"syncers": PYRAMID, "transform": TRANSFORM}),
    "SyncNetConfig": Call(room.SyncNetConfig, {}),
    "SyncNet": Call(room.SyncNet, {"config": room.SyncNetConfig(embed=4)}),
    "SyncNet.embed_video": Call(SYNCNET.embed_video, {"video": torch.rand(1, 3, 6, 224, 224)}, slow=True),
    "SyncNet.embed_audio": Call(SYNCNET.embed_audio, {"features": torch.rand(1, 24, 13)}),
    "SyncNet.forward": Call(
        SYNCNET.forward, {"video": torch.rand(1, 3, 6, 224, 224), "features": torch.rand(1, 24, 13)}, slow=True
    ),
    "Track": Call(room.Track, {"id": "a", "landmarks": CLIP.landmarks, "waveform": CLIP.waveform}),
    "clean_corpus": Call(room.clean_corpus, {"folder": AT / "corpus", **BY, "uncalibrated": True}, slow=True),
    "evaluate": Call(room.evaluate, {"refs": TRACKS, "networks": NETWORKS, "frames": 20, "resamples": 50}, slow=True),
    "ffmpeg_command": Call(room.ffmpeg_command, {"path": VIDEO, "out": AT / "b.mp4", "seconds": 0.1}),
    "find_drift": Call(room.find_drift, {"recording": RECORDING, **BY}, slow=True),
    "find_offset": Call(room.find_offset, {"recording": RECORDING, "measure": measure}),
    "match_tracks": Call(room.match_tracks, {"refs": TRACKS, "preds": TRACKS, "row": "a"}),
    "read_recording": Call(
        room.read_recording, {"target": VIDEO, "detector": corners, "min_seconds": 1.0, "audio_track": 1}, slow=True
    ),
    "read_tracks": Call(room.read_tracks, {"folder": AT / "corpus"}),
    "recording_report": Call(room.recording_report, {"recording": RECORDING, **BY}, slow=True),
    "score_video": Call(
        room.score_video, {"path": VIDEO, "syncnet": SYNCNET, "detector": corners, "min_seconds": 1.0}, slow=True
    ),
    "shift_audio": Call(room.shift_audio, {"path": VIDEO, "out": AT / "c.mkv", "seconds": 0.1, "overwrite": True}, slow=True),
    "shift_clip": Call(room.shift_clip, {"clip": CLIP, "samples": 640}),
    "tracks_of_clips": Call(room.tracks_of_clips, {"clips": [CLIP]}),
    "with_delayed_audio": Call(room.with_delayed_audio, {"recording": RECORDING, "seconds": 0.04}),
    "write_csv": Call(room.write_csv, {"path": AT / "a.csv", "rows": [{"a": 1}], "columns": ["a"]}),
    "crop_face": Call(syncnet.crop_face, {"image": np.zeros((48, 64, 3), np.uint8), "x": 20.0, "y": 20.0, "half": 10.0}),
    "crop_path": Call(syncnet.crop_path, {"boxes": syncnet.face_boxes(POINTS)}),
    "face_boxes": Call(syncnet.face_boxes, {"points": POINTS}),
    "num_mfcc_frames": Call(syncnet.num_mfcc_frames, {"samples": 16000}),
    "syncnet_mfcc": Call(syncnet.syncnet_mfcc, {"waveform": torch.randn(1, 16000)}),
}


def _evaluation() -> room.Evaluation:
    return room.Evaluation(TABLE, (), {"static": _Scores()}, {})  # type: ignore[dict-item]


class _Scores:
    """Scores of a row."""

    measures = (MEASURE,)
    values = torch.zeros(1, 0)
