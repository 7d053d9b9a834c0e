"""Landmark detectors behind one small protocol: face-alignment, mediapipe, or any callable.

=============================================== ======================================================================
:mod:`avsync.corpus.detectors.protocol`         what a detector is; :func:`as_detector` makes one of a name or a callable
:mod:`avsync.corpus.detectors.fan`              :class:`FaceAlignmentDetector`, the paper's
:mod:`avsync.corpus.detectors.mesh`             :class:`MediapipeDetector`, whose wheel carries its models
=============================================== ======================================================================
"""

from __future__ import annotations

from avsync.corpus.detectors.protocol import DEFAULT_BATCH_SIZE, DETECTORS, CheckedDetector, Detections, Detector, as_detector

__all__ = ["DEFAULT_BATCH_SIZE", "DETECTORS", "CheckedDetector", "Detections", "Detector", "as_detector"]
