"""Evaluate the output of any method: the paper's measures with intervals, and baselines that need no network

References are real clips: a corpus, or a folder of <id>.npz with <id>.flac. Predictions are files with the same ids and a
method's landmarks. A prediction without audio is evaluated with the audio of its reference. All rows are evaluated on the same
segments of 80 frames.

  avsync evaluate --refs corpus --split val                                   # the baselines alone
  avsync evaluate --refs corpus --split val --preds ours=out/a --preds theirs=out/b --out results
  avsync evaluate --refs real --preds out/a --inception pt_inception-2015-12-05-6726825d.pth --i3d i3d_torchscript.pt
  avsync evaluate --refs corpus --history ours=runs/a/logs/generator --figures figures

--out DIR writes table.txt, results.json, results.csv and figures/. What is left out is printed, and listed in the JSON; with
--strict it ends the command with status 1.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avsync._files import replacing, untrusted, write_json
from avsync.cli._arguments import AUDIO_CHOICES, add_overwrite_argument, add_quiet_argument, add_syncer_arguments
from avsync.cli._errors import naming
from avsync.cli._outputs import Output, declare, model_files
from avsync.errors import ArgumentError, ExtraError, MissingExtraError

if TYPE_CHECKING:
    from avsync.evaluation.methods import Evaluation, Networks
    from avsync.evaluation.sources import LeftOut, Track
    from avsync.evaluation.tables import Table


EVALUATION_MODEL = "landmarks68-25fps-judge-mfcc"
"""The evaluation model: syncers with other inputs than those that guide generators, and trained apart from them."""
PART_MODELS = {"mouth": "landmarks68-25fps-judge-mouth", "head": "landmarks68-25fps-pose"}
"""Evaluation models of single parts of the face."""
DETAILS = ("summary", "full", "clips")
SUMMARY = (
    "confidence",
    "confidence_mouth",
    "confidence_head",
    "abs_offset",
    "lmd",
    "speed",
    "height_drift",
    "mouth_opening",
    "mouth_opening_95",
    "seed_spread",
    "frechet_motion",
)
FIXED_FIGURES = ("offsets", "confidence", "training")
"""Names of the figures that do not depend on the clips."""
CLIP_COLUMNS = ("row", "id", "start", "speaker", "measure", "level", "value")
_SHOWN = 10
PARAMETERS = {"methods": "--preds"}
"""Parameters of functions that an option sets under another name."""

_messages = logging.getLogger("avsync.cli")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``avsync evaluate``."""
    parser.add_argument("--refs", required=True, metavar="DIR", help="real clips with audio")
    parser.add_argument(
        "--preds", action="append", default=[], metavar="[NAME=]DIR", help="landmarks of a method; can be repeated"
    )
    parser.add_argument(
        "--samples",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="a further sample of the method NAME, for the spread of samples; may be given several times",
    )
    parser.add_argument("--split", help="use this split of the corpus only")
    add_syncer_arguments(parser, default=EVALUATION_MODEL, calibrated=False)
    for part, model in PART_MODELS.items():
        parser.add_argument(
            f"--{part}-syncers", default=model, metavar="NAME", help=f"syncers of the {part} alone (default: %(default)s)"
        )
    parser.add_argument("--no-parts", action="store_true", help="leave out the confidences of mouth and head")
    parser.add_argument("--no-sync", action="store_true", help="leave out the syncers and the sync metrics, also of the parts")
    parser.add_argument("--device", default="cpu", help="where networks run: cpu, cuda, mps (default: cpu)")
    parser.add_argument("--frames", type=int, default=80, help="frames per segment (default: %(default)s)")
    parser.add_argument("--stride", type=int, help="frames from one segment to the next (default: no overlap)")
    parser.add_argument(
        "--min-speech",
        type=float,
        default=0.2,
        help="share of the frames of a segment that must hold speech (default: %(default)s)",
    )
    parser.add_argument("--shift", type=int, default=8, help="delay of the row 'shifted' in frames (default: %(default)s)")
    parser.add_argument("--cut", action="store_true", help="also compare predictions of other lengths, over the common frames")
    parser.add_argument(
        "--audio-from",
        choices=AUDIO_CHOICES,
        default="own",
        help="whose audio is used (default: own, if a prediction has audio)",
    )
    parser.add_argument(
        "--fps",
        type=float,
        help="frames per second of files that do not state their own; other rates than 25 are resampled to it (default: 25)",
    )
    parser.add_argument("--inception", metavar="FILE", help="Inception-v3 of torch-fidelity, for FID and t-FID")
    parser.add_argument("--i3d", metavar="FILE", help="i3d_torchscript.pt, for FVD")
    parser.add_argument("--motion-features", metavar="DIR", help="motion autoencoder (default: the pretrained one)")
    parser.add_argument("--resamples", type=int, default=2000, help="resamples of the bootstrap (default: %(default)s)")
    parser.add_argument(
        "--level-of-detail",
        choices=DETAILS,
        default="full",
        help=(
            "summary: few columns; full: all; clips: also the values of every segment, in the JSON and in clips.csv "
            "(default: full)"
        ),
    )
    parser.add_argument("--out", metavar="DIR", help="write table.txt, results.json, results.csv and figures/ here")
    parser.add_argument("--json", metavar="FILE", help="write results here; - for standard output, without a table")
    parser.add_argument("--csv", metavar="FILE", help="write results here, one line per row and measure")
    add_overwrite_argument(parser)
    add_quiet_argument(parser)
    parser.add_argument("--figures", metavar="DIR", help="write offsets.png, confidence.png, faces.png and training.png here")
    parser.add_argument(
        "--history",
        action="append",
        default=[],
        metavar="[NAME=]PATH",
        help="metrics.csv or history.json of a training run, for training.png",
    )
    parser.add_argument("--plain", action="store_true", help="print plain text, even on a terminal with rich")
    parser.add_argument("--strict", action="store_true", help="exit with status 1 if anything is left out")


def run(args: argparse.Namespace) -> int:
    """Read, evaluate, print, write."""
    from avsync.evaluation.methods import evaluate
    from avsync.evaluation.sources import read_tracks

    if args.fps is not None and not 0 < args.fps < math.inf:
        raise ArgumentError(f"`--fps`: expected a number above 0, got {args.fps:g}")
    if args.history and not (args.figures or args.out):
        raise ArgumentError("`--history`: expected it together with --figures or --out, got neither")
    methods, histories = _named("--preds", args.preds), _named("--history", args.history)
    folders = _sample_folders(args.samples, methods)
    sampled = [folder for each in folders.values() for folder in each]
    syncers = [] if args.no_sync else [args.syncers, *_part_models(args).values()]
    models = (args.inception, args.i3d, args.motion_features, *map(model_files, syncers))
    logs = [path for folder in histories.values() for path in _history_files(folder)]
    declare(args, _outputs(args), inputs=[args.refs, *methods.values(), *sampled, *models, *logs])
    _check_histories(histories)
    networks = _networks(args)
    refs, left_out = read_tracks(args.refs, split=args.split, fps=args.fps)
    preds = {}
    for name, folder in methods.items():
        preds[name], unread = read_tracks(folder, row=name, fps=args.fps)
        left_out += unread
    samples: dict[str, list[dict[str, Track]]] = {}
    for name, each in folders.items():
        for number, folder in enumerate(each, start=2):
            tracks, unread = read_tracks(folder, row=f"{name}, sample {number}")
            samples.setdefault(name, []).append(tracks)
            left_out += unread
    if not refs:
        raise ArgumentError(f"`--refs`: expected at least one good clip in {args.refs}, got none: {left_out[0].reason}")
    found = evaluate(
        refs,
        preds,
        networks=networks,
        samples=samples,
        frames=args.frames,
        stride=args.stride,
        min_speech=args.min_speech,
        shift=args.shift,
        cut=args.cut,
        audio_from=args.audio_from,
        resamples=args.resamples,
        progress=lambda row: _messages.info("evaluating %s", row),
    )
    left_out += found.left_out
    _report(left_out)
    result = found.to_json(clips=args.level_of_detail == "clips")
    result["settings"] |= {"refs": args.refs, "preds": methods, "syncers": None if args.no_sync else args.syncers}
    result["settings"]["parts"] = _part_models(args)
    result["left_out"] = [entry._asdict() for entry in left_out]
    _write(args, found, result)
    _figures(args, found, histories)
    if args.json == "-":
        print(json.dumps(result, indent=2))
    else:
        _print(args, found)
    if args.strict and left_out:
        _messages.error("avsync evaluate: error: %d left out, and --strict was given", len(left_out))
        return 1
    return 0


def _outputs(args: argparse.Namespace) -> list[Output]:
    """Return all files that the options name."""
    files: list[Output] = []
    if args.out is not None:
        files += [("--out", Path(args.out, name)) for name in ("table.txt", "results.json", "results.csv")]
    files += [("--json", args.json)] if args.json not in (None, "-") else []
    files += [("--csv", args.csv)] if args.csv is not None else []
    if args.level_of_detail == "clips":
        files += [(option, Path(path).with_name("clips.csv")) for option, path in files if str(path) == str(_csv(args, option))]
    for option, folder in _figure_folders(args):
        names = {f"{name}.png" for name in FIXED_FIGURES} | {path.name for path in folder.glob("faces-*.png")}
        files += [(option, folder / name) for name in sorted(names)]
    return files


def _csv(args: argparse.Namespace, option: str) -> Path | None:
    """Return the table that an option names."""
    found = {"--out": args.out and Path(args.out, "results.csv"), "--csv": args.csv and Path(args.csv)}
    return found.get(option) or None


def _figure_folders(args: argparse.Namespace) -> list[tuple[str, Path]]:
    """Return the options that name folders of figures, and the folders, each once."""
    named = [("--figures", args.figures and Path(args.figures)), ("--out", args.out and Path(args.out, "figures"))]
    folders = {os.path.realpath(folder): (option, folder) for option, folder in reversed(named) if folder}
    return list(reversed(folders.values()))


def _history_files(path: str) -> list[Path]:
    return [Path(path), Path(path, "metrics.csv"), Path(path, "history.json")]


def _check_histories(histories: Mapping[str, str]) -> None:
    """Read the histories before hours of work; a missing matplotlib is reported with the figures."""
    if not histories:
        return
    with suppress(MissingExtraError):
        from avsync.figures.sync import curves_by_level, read_history

        for path in histories.values():
            with naming(history="--history"), untrusted(ArgumentError, f"`--history`: {path} cannot be read"):
                curves_by_level(read_history(path))


def _named(option: str, words: list[str]) -> dict[str, str]:
    """Map names to paths from NAME=PATH; a path without a name is named by its last part."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals:
            name, path = Path(os.path.realpath(word)).name, word
        if not name or not path or name in found:
            raise ArgumentError(f"`{option}`: expected NAME=PATH with every name once, got {word!r}")
        found[name] = path
    return found


def _part_models(args: argparse.Namespace) -> dict[str, str]:
    """Return the syncers of the parts of the face that are evaluated apart."""
    return {} if args.no_sync or args.no_parts else {part: getattr(args, f"{part}_syncers") for part in PART_MODELS}


def _sample_folders(words: list[str], methods: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the folders of further samples by method, from NAME=DIR."""
    found: dict[str, list[str]] = {}
    for word in words:
        name, _, folder = word.partition("=")
        if name not in methods or not folder:
            raise ArgumentError(f"`--samples`: expected NAME=DIR with a name of --preds ({sorted(methods)}), got {word!r}")
        found.setdefault(name, []).append(folder)
    return found


def _networks(args: argparse.Namespace) -> Networks:
    from avsync.cli._syncers import device_of, load_pyramid
    from avsync.evaluation.methods import Networks
    from avsync.metrics import load_i3d, load_inception, load_motion_autoencoder
    from avsync.models import MultiScaleSyncer

    device = device_of(args.device)
    pyramid, transform = (None, None) if args.no_sync else load_pyramid(args)
    parts = {
        part: _loaded(f"--{part}-syncers", MultiScaleSyncer.from_pretrained, model, device)
        for part, model in _part_models(args).items()
    }
    return Networks(
        syncers=pyramid,
        transform=transform,
        mouth=parts.get("mouth"),
        head=parts.get("head"),
        motion=_loaded("--motion-features", load_motion_autoencoder, args.motion_features, device),
        inception=_loaded("--inception", load_inception, args.inception, device),
        i3d=_loaded("--i3d", load_i3d, args.i3d, device),
    )


def _loaded(option: str, load: Callable[[str], Any], path: str | None, device: Any) -> Any:
    if path is None:
        return None
    with naming(path=option, folder=option, name=option):
        return load(path).to(device)


def _report(left_out: list[LeftOut]) -> None:
    for entry in left_out[:_SHOWN]:
        _messages.warning("left out: %s, %s: %s", entry.row, entry.id, entry.reason)
    if len(left_out) > _SHOWN:
        _messages.warning("left out: %d more, listed in the JSON", len(left_out) - _SHOWN)


def _chosen(args: argparse.Namespace, table: Table) -> Table:
    from avsync.evaluation.tables import Table

    if args.level_of_detail != "summary":
        return table
    kept = [number for number, measure in enumerate(table.measures) if measure.key in SUMMARY]
    measures = tuple(table.measures[number] for number in kept)
    return Table(measures, {row: tuple(cells[number] for number in kept) for row, cells in table.cells.items()})


def _text(args: argparse.Namespace, found: Evaluation) -> str:
    lines = [_head(found), "", _chosen(args, found.table).text()]
    return "\n".join(lines + [f"\nnote: {note}" for note in found.notes]) + "\n"


def _head(found: Evaluation) -> str:
    clips, speakers = len({segment.id for segment in found.segments}), len({segment.group for segment in found.segments})
    return (
        f"{len(found.segments)} segments of {found.settings['frames']} frames from {clips} clips of {speakers} speakers;"
        " mean [95 % interval over speakers]"
    )


def _print(args: argparse.Namespace, found: Evaluation) -> None:
    from avsync.evaluation.tables import print_rich

    if not args.plain and sys.stdout.isatty() and find_spec("rich") is not None:
        print(_head(found))
        print_rich(_chosen(args, found.table), bounds=found.bounds)
        print("".join(f"note: {note}\n" for note in found.notes), end="")
        return
    print(_text(args, found), end="")


def _write(args: argparse.Namespace, found: Evaluation, result: dict[str, object]) -> None:
    from avsync.evaluation.tables import CSV_COLUMNS, write_csv

    out = None if args.out is None else Path(args.out)
    if out is not None:
        with replacing(out / "table.txt") as part:
            part.write_text(_text(args, found), encoding="utf-8", errors="backslashreplace")
    for path in filter(None, (out and out / "results.json", args.json if args.json != "-" else None)):
        write_json(path, result)
    for path in filter(None, (_csv(args, "--out"), _csv(args, "--csv"))):
        write_csv(path, found.table.rows(), CSV_COLUMNS)
        if args.level_of_detail == "clips":
            write_csv(path.with_name("clips.csv"), found.clip_rows(), CLIP_COLUMNS)


def _figures(args: argparse.Namespace, found: Evaluation, histories: dict[str, str]) -> None:
    folders = _figure_folders(args)
    if not folders:
        return
    try:
        from avsync.figures import save_figure
        from avsync.figures.sync import evaluation_figures

        figures = evaluation_figures(found, histories=histories)
    except ExtraError as error:
        if args.figures:
            raise
        _messages.warning("no figures: %s", error)
        return
    for _, folder in folders:
        for name, figure in figures.items():
            save_figure(figure, folder / f"{name}.png")
