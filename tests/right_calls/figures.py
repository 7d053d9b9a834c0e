"""Right calls of the figures."""

from __future__ import annotations

import numpy as np
import torch

from avsync import figures as room
from avsync.corpus.inspect import CorpusStatistics
from tests.right_calls import Call, new_folder

OUT = new_folder()
FACES = np.random.default_rng(0).random((6, 68, 2))
TWO = {"a": FACES, "b": torch.rand(6, 68, 2)}
ONE = np.ones(3)
STATISTICS = CorpusStatistics(
    folder="a",
    fps=25.0,
    points={(68, 2): 3},
    splits={},
    native_rates={},
    seconds=ONE,
    audio_seconds=ONE,
    face_heights=ONE,
    speech=ONE,
    rms_db=ONE,
)
IMAGES = [np.zeros((8, 8, 3), np.uint8)] * 3
FIGURE = room.new_figure(1, 1)

CALLS = {
    "confidence_by_level": Call(room.confidence_by_level, {"rows": {"a": [(1.0, 0.5, 1.5)]}, "bounds": ["a"]}),
    "corpus_figure": Call(room.corpus_figure, {"statistics": STATISTICS}, slow=True),
    "draw_face": Call(room.draw_face, {"landmarks": FACES[0], "size": 32, "reference": FACES[0]}),
    "expected_calibration_error": Call(room.expected_calibration_error, {"probabilities": [0.5, 0.9], "right": [True, False]}),
    "face_images": Call(lambda **given: list(room.face_images(**given)), {"sequences": TWO, "size": 32}, like=room.face_images),
    "face_strip": Call(room.face_strip, {"sequences": TWO, "columns": 2}, slow=True),
    "landmark_video": Call(room.landmark_video, {"path": OUT / "a.mp4", "sequences": TWO, "size": 32}, slow=True),
    "mask_figure": Call(room.mask_figure, {"masks": torch.rand(4, 68), "landmarks": FACES[0]}, slow=True),
    "new_figure": Call(room.new_figure, {"width": 1.0, "height": 1.0}),
    "offset_histogram": Call(room.offset_histogram, {"offsets": [np.array([0, 1, -1])], "search": [15]}, slow=True),
    "offset_over_time": Call(room.offset_over_time, {"times": [1.0, 2.0], "offsets": [0.1, None]}, slow=True),
    "plain_axes": Call(room.plain_axes, {"axes": FIGURE.add_subplot()}),
    "reliability_diagram": Call(
        room.reliability_diagram, {"panels": {"a": {"b": (np.array([0.5, 0.9]), np.array([True, False]))}}}, slow=True
    ),
    "save_figure": Call(room.save_figure, {"figure": room.new_figure(1, 1), "path": OUT / "a.png"}, slow=True),
    "confidence_along_training": Call(
        room.confidence_along_training, {"histories": {"ours": [[(1, 0.1), (2, 0.2)]]}, "truth": [0.2]}, slow=True
    ),
    "training_curves": Call(room.training_curves, {"history": {"loss0": [(1, 2.0), (2, 1.0)]}, "chance": 2.0}, slow=True),
    "write_gif": Call(room.write_gif, {"path": OUT / "a.gif", "frames": IMAGES, "fps": 25.0}),
}
