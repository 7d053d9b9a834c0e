"""Hooks of the site: the inventory of the API reference, equations as MathML, and the reference of the command line.

Equations become MathML while the site is built. Browsers draw MathML themselves, so the pages need no script and no network.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import json
import re
import sys
from pathlib import Path
from typing import Any

import latex2mathml.converter
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import avsync
from avsync.cli import build_parser
from benchmarks import trained_examples

_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', flags=re.DOTALL)
_BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', flags=re.DOTALL)
_ROOT = Path(__file__).resolve().parents[1]
_DIAGRAM = re.compile(r"<!-- diagram (\w+) -->")
_RESULTS = _ROOT / "benchmarks" / "results"


@event_priority(100)
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Name the inventory by its absolute path, which mkdocs.yml cannot know; before mkdocstrings reads its options."""
    config.copyright = (
        f"avsync {avsync.__version__}, {(_ROOT / 'LICENSE').read_text(encoding='utf-8').partition(' ')[0]} licence"
    )
    inventory = _ROOT / "build" / "api" / "objects.inv"
    if not inventory.is_file():
        raise PluginError(f"{inventory} is missing; build the API reference first: python -m nox -s docs")
    # mkdocstrings keeps what it has read for a day, by its address; a fragment made of the contents has it read what is there
    # now.
    address = f"{inventory.as_uri()}#{hashlib.sha256(inventory.read_bytes()).hexdigest()}"
    handlers = config.plugins["mkdocstrings"].config.handlers
    handlers.setdefault("python", {})["inventories"] = [{"url": address, "base_url": "api"}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files of the repository that readers look for."""
    for page, file in {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}.items():
        files.append(File.generated(config, page, content=(_ROOT / file).read_text(encoding="utf-8")))
    terms = (_ROOT / "LICENSE").read_text(encoding="utf-8").strip()
    files.append(File.generated(config, "licence.md", content=f"# Licence\n\n``` {{ .text .wrap }}\n{terms}\n```\n"))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put generated text in the place of its markers: tables of measured values, and the reference of the command line."""
    markdown = _DIAGRAM.sub(_diagram, markdown)
    for marker, lines in {
        "<!-- commands -->": _commands,
        "<!-- expected landmarks68-25fps -->": _expected_values,
        "<!-- expected models -->": _expected_models,
        "<!-- trained layouts -->": lambda: trained_examples.rows(trained_examples.LAYOUT),
        "<!-- trained features -->": lambda: trained_examples.rows(trained_examples.FEATURES),
    }.items():
        if marker in markdown:
            markdown = markdown.replace(marker, "\n".join(lines()))
    return markdown


def _diagram(found: re.Match[str]) -> str:
    """Return a drawing as a part of the page, so that its lines have the colours of the reader's mode."""
    drawing = (_ROOT / "docs" / "images" / f"{found[1]}.svg").read_text(encoding="utf-8").replace("\n", "")
    return f'<div class="diagram">{drawing}</div>'


def on_page_content(content: str, **_: Any) -> str:
    """Turn the equations of a page into MathML."""
    content = _INLINE.sub(lambda found: latex2mathml.converter.convert(html.unescape(found[1])), content)
    return _BLOCK.sub(
        lambda found: (
            f'<div class="math-block">{latex2mathml.converter.convert(html.unescape(found[1]), display="block")}</div>'
        ),
        content,
    )


def _expected() -> dict[str, Any]:
    """Return the measured losses, by speakers, model and input."""
    return dict(json.loads((_RESULTS / "expected_values.json").read_text(encoding="utf-8"))["speakers"])


def _expected_values() -> list[str]:
    """Return the table of the pretrained default: one row per input, one column per level and kind of speaker."""
    lines = ["| speakers | input | level 0 | level 1 | level 2 | level 3 | total |", "|---|---|---|---|---|---|---|"]
    for speakers, measured in _expected().items():
        for case, values in measured["models"]["landmarks68-25fps"].items():
            cells = [f"{value:.2f}" for value in (*values["mean"], values["total"])]
            lines.append(f"| {speakers} | {case} | {' | '.join(cells)} |")
    return lines


def _expected_models() -> list[str]:
    """Return the table of all pretrained models: the loss of each input but late audio, levels 0 to 3."""
    inputs = (
        "true pair",
        "audio of another speaker",
        "face that stands still",
        "digital silence",
        "random points, white noise",
    )
    lines = [f"| model | {' | '.join(inputs)} |", "|---" * (1 + len(inputs)) + "|"]
    for model, cases in _expected()["unseen real speakers"]["models"].items():
        cells = [" ".join(f"{value:.2f}" for value in cases[case]["mean"]) for case in inputs]
        lines.append(f"| `{model}` | {' | '.join(cells)} |")
    return lines


def _commands() -> list[str]:
    """Return the reference of every command, from its parser: description, usage and all options."""
    lines: list[str] = []
    parser = build_parser()
    (subparsers,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for name, command in subparsers.choices.items():
        summary, _, rest = (command.description or "").strip().partition("\n")
        lines += [f"## avsync {name}", "", f"{summary.rstrip('.')}.", ""]
        usage = re.sub(r"\s+", " ", command.format_usage().removeprefix("usage:")).strip()
        lines += ["``` { .text .wrap }", usage if len(usage) < 90 else f"avsync {name} [OPTIONS] ...", "```", ""]
        if rest.strip():
            lines += ["``` { .text .wrap }", rest.strip("\n"), "```", ""]
        lines += ["| option | meaning |", "|---|---|", *_options(command), ""]
    return lines


def _options(command: argparse.ArgumentParser) -> list[str]:
    """Return one row of a table per argument of a command."""
    formatter = command._get_formatter()
    rows = []
    for action in command._actions:
        if action.help == argparse.SUPPRESS:
            continue
        # A space after a comma is a place where a narrow column can break.
        value = formatter._format_args(action, action.metavar or action.dest.upper()).replace(",", ", ")
        names = ", ".join(action.option_strings) or value
        shown = f"{names} {value}" if action.option_strings and action.nargs != 0 else names
        text = formatter._expand_help(action) if action.help else ""
        plain = isinstance(action.default, str | int | float) and not isinstance(action.default, bool)
        if plain and "default" not in text and action.default != argparse.SUPPRESS:
            text += f" (default: {action.default})"
        rows.append(f"| `{shown}` | {_cell(text)} |".replace("`` ", "`"))
    return rows


def _cell(text: str) -> str:
    """Escape what Markdown would take for a sign of its own in a cell of a table."""
    return re.sub(r"([|<>*_\[\]])", r"\\\1", re.sub(r"\s+", " ", text))
