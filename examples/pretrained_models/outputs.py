"""Options `--out` and `--figure` of the scripts that measure pretrained models."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def add_outputs(parser: argparse.ArgumentParser, *, figure: bool = False) -> None:
    """Add `--out`, and `--figure` for scripts that draw."""
    parser.add_argument("--out", help="file of the numbers, JSON; replaced if it exists")
    if figure:
        parser.add_argument("--figure", help="file of the figure, PNG; replaced if it exists")


def write_outputs(args: argparse.Namespace, numbers: Any, draw: Callable[[Any, Path], None] | None = None) -> None:
    """Write the numbers and the figure to the files that the options name."""
    if args.out:
        Path(args.out).write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    if draw is not None and args.figure:
        draw(numbers, Path(args.figure))
