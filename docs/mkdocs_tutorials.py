"""Hook of the site: the notebooks below tutorials/ are executed, and become pages with output, figures and a download.

A notebook is a Python file in jupytext's percent format. Its result is kept in build/tutorials until the file or the package
changes.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import time
from pathlib import Path
from typing import Any

import jupytext
import nbclient
import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "tutorials"
KEPT = ROOT / "build" / "tutorials"
SECONDS = 1800
"""Longest time for one cell."""
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
_log = get_plugin_logger(__name__)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put a page, its figures and a notebook to download in the place of each Python file."""
    for path in sorted(FOLDER.glob("*.py")):
        source = files.get_file_from_path(f"tutorials/{path.name}")
        if source is not None:
            files.remove(source)
        notebook = executed(path)
        text, figures = as_markdown(notebook, path.stem)
        page = File.generated(config, f"tutorials/{path.stem}.md", content=text)
        page.edit_uri = f"tutorials/{path.name}"
        files.append(page)
        files.append(File.generated(config, f"tutorials/{path.stem}.ipynb", content=nbformat.writes(notebook)))
        for name, content in figures.items():
            files.append(File.generated(config, f"tutorials/{name}", content=content))
    return files


def executed(path: Path) -> Any:
    """Return a notebook with its output.

    Raises:
        PluginError: A cell fails.
    """
    digest = hashlib.sha256()
    for file in (path, *sorted((ROOT / "avsync").rglob("*.py"))):
        digest.update(file.read_bytes())
    kept = KEPT / f"{path.stem}-{digest.hexdigest()[:16]}.ipynb"
    if kept.is_file():
        return nbformat.read(kept, as_version=4)
    notebook = jupytext.read(path)
    began = time.monotonic()
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    try:
        nbclient.NotebookClient(notebook, timeout=SECONDS, kernel_name="python3").execute()
    except nbclient.exceptions.CellExecutionError as error:
        raise PluginError(f"{path.relative_to(ROOT)}: {_ESCAPES.sub('', str(error))}") from error
    _log.info("%s executed in %.0f s", path.name, time.monotonic() - began)
    KEPT.mkdir(parents=True, exist_ok=True)
    for old in KEPT.glob(f"{path.stem}-*.ipynb"):
        old.unlink()
    nbformat.write(notebook, kept)
    return notebook


def as_markdown(notebook: Any, name: str) -> tuple[str, dict[str, bytes]]:
    """Return the page of a notebook, and its figures by the name of their file."""
    figures: dict[str, bytes] = {}
    parts: list[str] = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for output in _joined(cell.outputs):
            parts += _shown(output, name, figures)
    title, *rest = parts
    place = f'[Download this page as a notebook]({name}.ipynb){{ .download download="{name}.ipynb" }}'
    heading, _, text = title.partition("\n")
    return "\n\n".join([heading, place, text.strip(), *rest]) + "\n", figures


def _joined(outputs: list[Any]) -> list[Any]:
    """Return the outputs of a cell without those on standard error, and what was printed in one piece."""
    found: list[Any] = []
    for output in outputs:
        if output.output_type == "stream" and output.name == "stderr":
            continue  # progress and notes of other libraries
        if found and output.output_type == found[-1].output_type == "stream":
            found[-1].text += output.text
        else:
            found.append(output.copy())
    return found


def _shown(output: Any, name: str, figures: dict[str, bytes]) -> list[str]:
    if output.output_type == "stream":
        return [f"``` {{ .text .output }}\n{_ESCAPES.sub('', output.text).rstrip()}\n```"]
    data = output.get("data", {})
    if "image/png" in data:
        file = f"{name}-{len(figures) + 1}.png"
        figures[file] = base64.b64decode(data["image/png"])
        return [f"![Figure {len(figures)}, drawn by the code above]({file}){{ .figure }}"]
    text = data.get("text/plain", "")
    if text.startswith("<Figure size"):
        raise PluginError(f"{name}: a figure is printed instead of shown; begin its cell with %matplotlib inline")
    return [f"``` {{ .text .output }}\n{text}\n```"] if text else []
