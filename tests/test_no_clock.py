"""No test depends on the clock: tests count steps, calls and files, because a busy machine is as slow as it likes."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ALLOWED = {"survival.py": {"sleep"}, "test_batch.py": {"sleep"}}
"""Waiting for a child process by polling is no measurement."""


def readings(source: str) -> set[str]:
    """Functions of ``time`` that a module calls or imports, and ``datetime.now``."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
            name, owner = node.func.attr, node.func.value.id
            if owner == "time" or (owner == "datetime" and name in ("now", "utcnow", "today")):
                found.add(name)
    return found


def test_readings_are_found() -> None:
    source = "import time\nfrom time import sleep\nbegan = time.monotonic()\n"
    assert readings(source) == {"sleep", "monotonic"}
    assert readings("x.sleep(1)") == set()


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: path.name)
def test_no_test_reads_the_clock(path: Path) -> None:
    assert readings(path.read_text(encoding="utf-8")) <= ALLOWED.get(path.name, set())
