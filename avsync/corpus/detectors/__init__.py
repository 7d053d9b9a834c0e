"""Landmark detectors with a common protocol: face-alignment, mediapipe, or any callable.

=============================================== ======================================================================
:mod:`avsync.corpus.detectors.protocol`         protocol of detectors; :func:`as_detector` accepts a name or a callable
:mod:`avsync.corpus.detectors.fan`              :class:`FaceAlignmentDetector`, the detector of the paper
:mod:`avsync.corpus.detectors.mesh`             :class:`MediapipeDetector`, with models included in its wheel
=============================================== ======================================================================
"""

from __future__ import annotations

from avsync.corpus.detectors.protocol import DEFAULT_BATCH_SIZE, DETECTORS, CheckedDetector, Detections, Detector, as_detector

__all__ = ["DEFAULT_BATCH_SIZE", "DETECTORS", "CheckedDetector", "Detections", "Detector", "as_detector"]
