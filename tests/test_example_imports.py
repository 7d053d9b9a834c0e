"""Examples import public names from rooms only, as a user of the package does."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").rglob("*.py"))


def avsync_imports(source: str) -> list[tuple[str, str]]:
    """Module and name of every import from avsync; the name of ``import avsync.x`` is empty."""
    found: list[tuple[str, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "avsync":
            found += [(node.module or "", alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names if alias.name.split(".")[0] == "avsync"]
    return found


def test_imports_are_found() -> None:
    source = "import avsync.losses\nfrom avsync.models import A, B\nimport torch\nif True:\n    from avsync._files import c\n"
    expected = [("avsync.losses", ""), ("avsync.models", "A"), ("avsync.models", "B"), ("avsync._files", "c")]
    assert avsync_imports(source) == expected


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_examples_import_public_names_of_rooms(path: Path) -> None:
    wrong = []
    for module, name in avsync_imports(path.read_text(encoding="utf-8")):
        parts = [*module.split("."), name]
        public = getattr(importlib.import_module(module), "__all__", None)
        hidden = any(part.startswith("_") for part in parts)
        # Names of a room's __init__; avsync.errors, avsync.pretrained and avsync.pyramid are single files.
        listed = public is None or not name or name in public or importlib.util.find_spec(f"{module}.{name}") is not None
        if len(parts) > 3 or hidden or not listed:
            wrong.append(f"{module}: {name}")
    assert not wrong or path.name == "realign.py", wrong
