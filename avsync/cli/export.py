"""Write a model as ONNX programs, for use without Python or torch

Syncers become the encoders of motion and audio and their audio features; the generator becomes its audio part, its start and
one step. Batch and length are free. export.json in the folder names inputs and outputs.

  avsync export landmarks68-25fps --out onnx
  avsync export generator-landmarks68-25fps --out onnx-generator
"""

from __future__ import annotations

import argparse
from pathlib import Path

from avsync.cli._arguments import add_overwrite_argument, add_quiet_argument
from avsync.cli._outputs import declare, model_files
from avsync.errors import ArgumentError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``avsync export``."""
    parser.add_argument("model", metavar="MODEL", help="a folder with a model, or the name of a pretrained model")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder of the ONNX files")
    parser.add_argument(
        "--warm-up",
        type=int,
        default=3,
        metavar="N",
        help="repetitions of the first face before the generator begins (default: 3)",
    )
    add_overwrite_argument(parser)
    add_quiet_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Export and list the files."""
    from avsync.cli._errors import naming
    from avsync.models.export import EXPORT_NAME, export_onnx
    from avsync.pretrained import from_pretrained

    if args.warm_up < 1:
        raise ArgumentError(f"`--warm-up`: expected at least 1, got {args.warm_up}")
    out = Path(args.out)
    names = ("motion.onnx", "audio.onnx", "features.onnx", "start.onnx", "step.onnx", EXPORT_NAME)
    declare(args, [("--out", out / name) for name in names], inputs=[model_files(args.model)])
    with naming(folder="MODEL", model="MODEL"):
        model = from_pretrained(args.model)
        for path in export_onnx(model, out, warm_up=args.warm_up):
            print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    return 0
