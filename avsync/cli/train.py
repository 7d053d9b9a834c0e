"""Train syncers on a corpus of your own: a model for the loss and for every command that takes --syncers

Trains on the split "train" and evaluates on the split "val", if there is one: the share of clips of 80 frames of unseen
speakers whose offset is found within one frame of the level. The recipe is that of the pretrained models. An interrupted run
continues with --resume.

  avsync train corpus --out runs/mine
  avsync train corpus --out runs/mine --resume                # after an interruption
  avsync train corpus --out runs/mouth --region mouth --steps 400 --device cuda
  avsync calibrate runs/mine corpus                           # then: probabilities for avsync offset and avsync clean

RUN receives the model (config.json, model.safetensors), training.json with the settings and the accuracy, logs/ for TensorBoard
and avsync doctor --log RUN/logs/fine, and checkpoints/. In Python: MultiScaleSyncLoss.from_pretrained("RUN").
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avsync._files import read_json, untrusted, write_json
from avsync.cli._arguments import EVALUATED_MARGIN, FEATURE_CHOICES, REGION_CHOICES, add_overwrite_argument, add_quiet_argument
from avsync.cli._outputs import declare
from avsync.errors import ArgumentError, CorpusError

if TYPE_CHECKING:
    from avsync.corpus.banks.bank import Batch, ClipBank

RECORD = "training.json"
"""Settings and results of a run; the file by which a folder is recognised as that of a run."""
MODEL_FILES = ("config.json", "model.safetensors")
RUN_FILES = ("checkpoints/*/*.ckpt", "logs/*/metrics.csv", "logs/*/events.out.*")
"""Further files that a run writes and that a later one would continue."""
RUN_SETTINGS = ("split", "steps", "batch_size", "levels", "features", "region", "layout", "width", "seed")
"""Options that a resumed run must share with the run that it continues."""
EVALUATED_FRAMES, EVALUATED_SPEECH = 80, 0.4
"""Frames of an evaluated crop, and the share of them that must hold speech."""

PARAMETERS = {"num_levels": "--levels"}
"""Parameters of functions that an option sets under another name."""

_messages = logging.getLogger("avsync.cli")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``avsync train``."""
    parser.add_argument("corpus", metavar="CORPUS", help="a folder with index.json, from avsync extract")
    parser.add_argument("--out", required=True, metavar="RUN", help="folder of the run")
    parser.add_argument("--split", default="train", help="train on this split (default: %(default)s)")
    parser.add_argument("--val-split", default="val", help="evaluate on this split, if it exists (default: %(default)s)")
    parser.add_argument(
        "--steps",
        type=int,
        default=1000,
        help="steps of levels 0 and 1; each coarser level takes a quarter of them in addition (default: %(default)s)",
    )
    parser.add_argument("--batch-size", type=int, default=32, help="clips per batch (default: %(default)s)")
    parser.add_argument(
        "--levels", type=int, default=4, help="levels of the pyramid: windows of 200, 400, 800, 1600 ms (default: %(default)s)"
    )
    parser.add_argument("--features", choices=FEATURE_CHOICES, default="log-mel", help="audio features (default: %(default)s)")
    parser.add_argument(
        "--region", choices=REGION_CHOICES, default="face", help="points that the syncers see (default: %(default)s)"
    )
    parser.add_argument(
        "--layout",
        metavar="NAME",
        help="layout of motion other than 68 points, such as mediapipe478 or arkit52 (avsync.landmarks)",
    )
    parser.add_argument("--width", type=int, default=96, help="channels of the encoders (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, crops and augmentation (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="continue the run in RUN, if there is one")
    add_overwrite_argument(parser)
    add_quiet_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Train, evaluate, save."""
    from avsync.corpus.banks.bank import ClipBank
    from avsync.corpus.clip import Corpus
    from avsync.training.interrupts import TrainingInterrupted

    for name in ("steps", "batch_size", "levels", "width"):
        if getattr(args, name) < 1:
            raise ArgumentError(f"`{name}`: expected at least 1, got {getattr(args, name)}")
    out, earlier = Path(args.out), _earlier(args)
    _declare(args, resumed=earlier is not None)
    if earlier is not None and earlier.get("accuracy") is not None:
        if earlier.get("corpus") != str(args.corpus):
            raise ArgumentError(
                f"`resume`: expected the corpus of the finished run in {out}, {earlier.get('corpus')}, got {args.corpus}"
            )
        with untrusted(ArgumentError, f"`resume`: expected the record of a run in {out / RECORD}, got"):
            table = _table(earlier)
        _messages.info("%s: the run is finished", out)
        print(table)
        return 0
    corpus = Corpus(args.corpus, fps=None)
    splits = {entry["split"] for entry in corpus.entries}
    features = _features(args)
    bank = ClipBank(Corpus(args.corpus, split=args.split, fps=None), features=features)
    record: dict[str, Any] = {"command": "avsync train", "settings": _settings(args), "corpus": str(args.corpus)}
    record |= {"clips": len(bank), "speakers": len(bank.speakers), "minutes": round(bank.minutes, 1)}
    differing = [name for name in ("clips", "speakers", "minutes") if earlier and earlier.get(name) != record[name]]
    if differing:
        pairs = ", ".join(f"{record[name]} {name} instead of {earlier.get(name)}" for name in differing if earlier)
        raise ArgumentError(f"`resume`: expected the corpus of the run in {out}, got {args.corpus} with {pairs}")
    val = ClipBank(Corpus(args.corpus, split=args.val_split, fps=None), features=features) if args.val_split in splits else None
    _messages.info("%s: %d clips of %d speakers, %.1f minutes", args.corpus, len(bank), len(bank.speakers), record["minutes"])
    if val is None:
        _messages.warning("no split %r in %s: the syncers are not evaluated on unseen speakers", args.val_split, args.corpus)
    write_json(out / RECORD, record | {"accuracy": None})
    try:
        record["accuracy"] = _train(args, bank, None if val is None else _crops(val))
    except TrainingInterrupted as stop:
        _messages.warning("%s", stop)
        return stop.exit_status
    except (ArgumentError, CorpusError):
        if not any(out.glob("checkpoints/*")):  # without a step there is nothing to resume: the folder stays free
            (out / RECORD).unlink()
        raise
    write_json(out / RECORD, record)
    print(_table(record))
    return 0


def _train(args: argparse.Namespace, bank: ClipBank, crops: Batch | None) -> list[dict[str, float]]:
    """Train the levels and save the model; return the accuracy of each level on the crops."""
    import torch

    from avsync.cli._progress import shows_progress
    from avsync.models.syncer.pyramid import SyncerPyramid
    from avsync.pretrained import save_pretrained
    from avsync.training.processes import make_fabric
    from avsync.training.recipe import syncer_recipe
    from avsync.training.syncer_evaluation import evaluate_syncers
    from avsync.training.warm_start import train_finest_first

    out = Path(args.out)
    recipe = syncer_recipe(
        bank,
        steps=args.steps,
        batch_size=args.batch_size,
        num_levels=args.levels,
        audio=args.features,
        region=args.region,
        layout=args.layout,
        width=args.width,
        seed=args.seed,
    )
    fabric = make_fabric(**_place(args.device))
    torch.manual_seed(args.seed)
    pyramid = SyncerPyramid(recipe.pyramid)

    def accuracy() -> list[dict[str, float]]:
        if crops is None:
            return []
        found = evaluate_syncers(pyramid, crops.to(fabric.device), margin=EVALUATED_MARGIN)
        return [{"crops": len(crops), "within_one": level.within_one, "confidence": level.confidence} for level in found]

    train_finest_first(
        pyramid,
        bank,
        recipe.training,
        recipe.warm_start,
        fabric=fabric,
        augment=recipe.augment,
        checkpoint=out / "checkpoints",
        resume=args.resume,
        logs=out / "logs",
        evaluate=lambda _: {f"acc{level}": row["within_one"] for level, row in enumerate(accuracy())},
        evaluate_every=max(1, args.steps // 4),
        progress=shows_progress(),
        name="train",
    )
    save_pretrained(pyramid, out)
    return accuracy()


def _crops(bank: ClipBank) -> Batch | None:
    """Return the crops with speech of unseen speakers; None if no clip is long enough."""
    if int(bank.lengths.max()) < EVALUATED_FRAMES + 2 * EVALUATED_MARGIN:
        _messages.warning(
            "no clip of the evaluated split has %d frames: the syncers are not evaluated",
            EVALUATED_FRAMES + 2 * EVALUATED_MARGIN,
        )
        return None
    crops = bank.windows(EVALUATED_FRAMES, stride=EVALUATED_FRAMES // 4, margin=EVALUATED_MARGIN)
    crops = crops.select(crops.speech_fraction >= EVALUATED_SPEECH)
    return crops if len(crops) else None


def _features(args: argparse.Namespace) -> Any:
    from avsync.audio.features import SpeechFeatures

    return SpeechFeatures(kind=args.features).features  # banks normalise by themselves


def _place(device: str) -> dict[str, Any]:
    """Return the arguments of :func:`avsync.training.processes.make_fabric` for a device."""
    from avsync.cli._syncers import device_of

    if device == "auto":
        return {"accelerator": "auto"}
    found = device_of(device)
    return {"accelerator": found.type, "devices": 1 if found.index is None else f"{found.index},"}


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in RUN_SETTINGS}


def _earlier(args: argparse.Namespace) -> dict[str, Any] | None:
    """Return the record of the run that is resumed; None for a new run."""
    if not args.resume:
        return None
    try:
        found = read_json(Path(args.out, RECORD), error=ArgumentError)
        settings = found["settings"] if found["command"] == "avsync train" else None
    except (ArgumentError, KeyError, TypeError):
        return None
    if not isinstance(settings, dict):
        return None
    now = _settings(args)
    differing = [name for name in RUN_SETTINGS if settings.get(name) != now[name]]
    if differing:
        pairs = ", ".join(f"--{name.replace('_', '-')} was {settings.get(name)} and is {now[name]}" for name in differing)
        raise ArgumentError(f"`resume`: expected the settings of the run in {args.out}, but {pairs}")
    return dict(found)


def _declare(args: argparse.Namespace, *, resumed: bool) -> None:
    """Check all files of the run; those of a run that is resumed may exist."""
    out = Path(args.out)
    if resumed:
        return
    files = [out / name for name in (RECORD, *MODEL_FILES)]
    files += [file for pattern in RUN_FILES for file in sorted(out.glob(pattern))]
    declare(args, [("--out", file) for file in files], inputs=[args.corpus])
    for file in files[1 + len(MODEL_FILES) :]:  # only with --overwrite: no checkpoint of another run may be left
        file.unlink()


def _table(record: dict[str, Any]) -> str:
    """Return the accuracy by level as text."""
    from avsync.pyramid import window_seconds

    if not record["accuracy"]:
        return "not evaluated"
    lines = ["level  window  offset within one frame  confidence"]
    for level, row in enumerate(record["accuracy"]):
        lines.append(
            f"{level:<5}  {window_seconds(level):.1f} s   {100 * row['within_one']:>22.1f} %  {row['confidence']:>10.3f}"
        )
    return "\n".join([*lines, f"on {record['accuracy'][0]['crops']} crops of unseen speakers"])
