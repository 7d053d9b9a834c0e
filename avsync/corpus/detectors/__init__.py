"""Landmark detectors with a common protocol: face-alignment, MediaPipe on three engines, or any callable.

=============================================== ======================================================================
:mod:`avsync.corpus.detectors.protocol`         protocol of detectors; :func:`as_detector` accepts a name or a callable
:mod:`avsync.corpus.detectors.fan`              :class:`FaceAlignmentDetector`, the detector of the paper
:mod:`avsync.corpus.detectors.following`        :class:`FollowingDetector`, faces followed from image to image
:mod:`avsync.corpus.detectors.mesh`             :class:`MediapipeDetector`, MediaPipe 0.10.14 with the models of its wheel
:mod:`avsync.corpus.detectors.litert`           :class:`LitertDetector`, MediaPipe's models on LiteRT, on every Python
:mod:`avsync.corpus.detectors.landmarker`       :class:`FaceLandmarkerDetector`, MediaPipe Tasks with the user's model
=============================================== ======================================================================
"""

from __future__ import annotations

from avsync.corpus.detectors.protocol import DEFAULT_BATCH_SIZE, DETECTORS, CheckedDetector, Detections, Detector, as_detector

__all__ = ["DEFAULT_BATCH_SIZE", "DETECTORS", "CheckedDetector", "Detections", "Detector", "as_detector"]
