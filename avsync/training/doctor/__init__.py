"""Convergence doctor: checks a corpus before training, measures vital signs during it, and diagnoses the history afterwards.

* :func:`~avsync.training.doctor.examination.examine` looks at a corpus (``avsync doctor CORPUS`` on the command line);
* :func:`~avsync.training.doctor.overfit.overfit_batch` trains until one batch is memorised;
* :func:`~avsync.training.doctor.vitals.vital_signs` measures embeddings at every step;
* :func:`~avsync.training.doctor.diagnosis.diagnose` interprets a history.
"""

from __future__ import annotations

from avsync.training.doctor.diagnosis import diagnose
from avsync.training.doctor.examination import Examination, examine
from avsync.training.doctor.findings import Finding
from avsync.training.doctor.overfit import Overfit, overfit_batch
from avsync.training.doctor.vitals import vital_signs

__all__ = ["Examination", "Finding", "Overfit", "diagnose", "examine", "overfit_batch", "vital_signs"]
