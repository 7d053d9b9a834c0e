"""The two real videos beside the corpus, and the landmarks of the clips that they are cut from, for tests of detectors."""

from __future__ import annotations

import json
import os
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from avsync.corpus.detectors import CheckedDetector

Image = npt.NDArray[np.uint8]
CORPUS = Path(os.environ.get("AVSYNC_CORPUS", Path(__file__).parents[2] / "shared" / "corpus"))
NAMES = ("sample_a", "sample_b")


def video(name: str) -> Path:
    return CORPUS / "video" / f"{name}.mp4"


def images_of(name: str, count: int | None = None) -> tuple[npt.NDArray[np.float64], list[Image]]:
    """Times and images of the first ``count`` frames of a video."""
    times, images = [], []
    with av.open(str(video(name))) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number == count:
                break
            times.append(float(frame.time))
            images.append(frame.to_ndarray(format="rgb24"))
    return np.array(times), images


def detect(detector: CheckedDetector, images: list[Image]) -> list[npt.NDArray[np.float32]]:
    detector.reset()
    size = detector.batch_size
    return [faces for k in range(0, len(images), size) for faces in detector(images[k : k + size])]


def reference(name: str, width: int) -> tuple[npt.NDArray[np.float64], float]:
    """Landmarks of the clip that a video is cut from, in the video's pixels, and the video's start in the clip in seconds."""
    index = json.loads((CORPUS / "index.json").read_text())
    (entry,) = (entry for entry in index["videos"] if entry["file"] == f"video/{name}.mp4")
    (clip,) = (
        other
        for other in index["clips"]
        if (other["source_repo"], other["source_path"]) == (entry["source_repo"], entry["source_path"])
        and other["source_start_sec"] <= entry["source_start_sec"] < other["source_start_sec"] + other["seconds"]
    )
    with np.load(CORPUS / f"{clip['id']}.npz", allow_pickle=False) as arrays:
        # The videos may be smaller than their sources.
        landmarks = arrays["landmarks"].astype(np.float64) * (width / int(arrays["frame_size"][0]))
    return landmarks, float(entry["source_start_sec"] - clip["source_start_sec"])


def errors(ours: npt.NDArray[np.float32], theirs: npt.NDArray[np.float64], first: float) -> npt.NDArray[np.float64]:
    """Distances (frames, 68) in heights of the face, of our frames from a clip read ``first`` frames in, between frames if need be."""
    at = first + np.arange(len(ours))
    inside = (at >= 0) & (at <= len(theirs) - 1)
    before = np.minimum(at[inside].astype(int), len(theirs) - 2)
    weight = (at[inside] - before)[:, None, None]
    clip = theirs[before] * (1 - weight) + theirs[before + 1] * weight
    height = np.median(np.ptp(theirs[..., 1], axis=1))
    return np.linalg.norm(ours[inside] - clip, axis=-1) / height
