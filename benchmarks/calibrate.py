"""Fit the calibration of syncers on unseen speakers, and test the calibration on other unseen speakers.

    python -m benchmarks.calibrate --pyramid FOLDER --corpus FOLDER --out FOLDER

:func:`avsync.evaluation.calibrate.calibrate` does the work. Writes ``calibration.json`` (for
:func:`avsync.metrics.calibration.load_calibration`), the reliability diagram ``calibration.png`` and all numbers as
``calibration-report.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from avsync._files import write_json
from avsync.corpus.banks.bank import ClipBank
from avsync.corpus.clip import Corpus
from avsync.evaluation.calibrate import calibrate
from avsync.figures import save_figure
from avsync.figures.calibration import expected_calibration_error, reliability_diagram
from avsync.metrics.calibration import save_calibration
from avsync.models.syncer.interface import MultiScaleSyncer


def main() -> None:
    """Fit, test and write a calibration."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--pyramid", required=True, help="folder of saved syncers, or the name of a pretrained one")
    arguments.add_argument("--corpus", type=Path, required=True, help="corpus with a split of unseen speakers")
    arguments.add_argument("--split", default="val", help="that split (default: val)")
    arguments.add_argument("--frames", type=int, nargs="+", default=[40, 80, 160], help="lengths of crops (default: 40 80 160)")
    arguments.add_argument("--stride", type=int, default=20, help="frames from crop to crop (default: 20)")
    arguments.add_argument("--out", type=Path, required=True, help="folder for the three files")
    options = arguments.parse_args()
    syncers = MultiScaleSyncer.from_pretrained(options.pyramid)
    transform = syncers.speech_features()
    if transform is None:
        arguments.error(f"{options.pyramid} was trained on custom features, which cannot be made by name")
    bank = ClipBank(Corpus(options.corpus, split=options.split), features=transform.features)
    found = calibrate(syncers, bank, lengths=options.frames, stride=options.stride, progress=print)
    errors, panels = [], {}
    for level, (mixed, own) in enumerate(zip(found.mixed, found.own, strict=True)):
        panels[f"level {level}"] = {"half with another's audio, prior 1/2": mixed, "own audio, prior 1": own}
        error = {"mixed": expected_calibration_error(*mixed), "own": expected_calibration_error(*own)}
        errors.append({"level": level, "expected calibration error": error})
        print(f"level {level}: expected calibration error {error['mixed']:.3f} mixed, {error['own']:.3f} own audio")
    for row in found.rows:
        print(", ".join(f"{key} {value:.3f}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()))
    options.out.mkdir(parents=True, exist_ok=True)
    save_calibration(found.calibration, options.out / "calibration.json", syncers=syncers)
    save_figure(reliability_diagram(panels), options.out / "calibration.png")
    write_json(options.out / "calibration-report.json", {"errors": errors, "rows": list(found.rows)})
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
