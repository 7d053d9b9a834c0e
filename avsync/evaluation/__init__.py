"""Evaluation of videos, recordings and predictions: offsets, their correction, result tables, and SyncNet's scores."""

from __future__ import annotations

from avsync.evaluation.answer import OffsetAnswer, find_offset
from avsync.evaluation.calibration import CalibrationTest, calibrate
from avsync.evaluation.clean import CleanReport, ClipOffset, clean_corpus, shift_clip
from avsync.evaluation.drift import Drift, find_drift
from avsync.evaluation.methods import Evaluation, Networks, evaluate
from avsync.evaluation.recording import Recording, read_recording, recording_report, with_delayed_audio
from avsync.evaluation.resync import Resynced, ffmpeg_command, shift_audio
from avsync.evaluation.sources import LeftOut, Track, match_tracks, read_tracks, tracks_of_clips
from avsync.evaluation.syncnet import SyncNet, SyncNetConfig, TrackScore, score_video
from avsync.evaluation.tables import Cell, Measure, Table, write_csv
from avsync.evaluation.track import OffsetPoint, SpeakingFace, offset_track, persons_of, speaking_face

__all__ = [
    "CalibrationTest",
    "Cell",
    "CleanReport",
    "ClipOffset",
    "Drift",
    "Evaluation",
    "LeftOut",
    "Measure",
    "Networks",
    "OffsetAnswer",
    "OffsetPoint",
    "Recording",
    "Resynced",
    "SpeakingFace",
    "SyncNet",
    "SyncNetConfig",
    "Table",
    "Track",
    "TrackScore",
    "calibrate",
    "clean_corpus",
    "evaluate",
    "ffmpeg_command",
    "find_drift",
    "find_offset",
    "match_tracks",
    "offset_track",
    "persons_of",
    "read_recording",
    "read_tracks",
    "recording_report",
    "score_video",
    "shift_audio",
    "shift_clip",
    "speaking_face",
    "tracks_of_clips",
    "with_delayed_audio",
    "write_csv",
]
