"""What the README and the guides say is true: their Python runs, the versions agree, and CI runs the README's own command."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import avsync

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def code_blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(
    "document", [document for document in DOCUMENTS if code_blocks(document, "python")], ids=lambda document: document.name
)
def test_python_in_documents_runs(document: Path) -> None:
    """The blocks of one document run in turn, in one namespace, as a reader would paste them."""
    namespace: dict[str, object] = {}
    for block in code_blocks(document, "python"):
        exec(compile(block, document.name, "exec"), namespace)  # noqa: S102 - running them is the test


def test_ci_runs_the_command_of_the_readme() -> None:
    (command,) = re.findall(r"^command='(.*)'$", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert f"{command}\n" in code_blocks(ROOT / "README.md", "bash")


def test_training_command_of_the_readme_names_a_file_and_real_extras() -> None:
    (command,) = [block for block in code_blocks(ROOT / "README.md", "bash") if "train.py" in block]
    extras = re.search(r'"\.\[(.*)\]"', command)
    assert extras is not None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(extras[1].split(",")) <= set(project["optional-dependencies"])
    assert (ROOT / command.split()[-1]).is_file()


def test_citation_and_changelog_name_the_version() -> None:
    assert f"\nversion: {avsync.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## [{avsync.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_files_named_in_the_readme_exist() -> None:
    named = re.findall(r"`((?:avsync|examples|docs|benchmarks)/[\w/.]*)`", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_paper_in_code_has_every_equation_in_the_file_it_names() -> None:
    page = (ROOT / "docs" / "paper-in-code.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\|([^|]*)\|[^|]*\| `(avsync/[\w/]+\.py)` \|([^|]*)\|$", page, flags=re.MULTILINE)
    equations: set[int] = set()
    for equation, file, names in rows:
        bounds = [int(number) for number in re.findall(r"\((\d+)\)", equation)]
        equations.update(range(bounds[0], bounds[-1] + 1) if " to " in equation else bounds)
        module = file.removesuffix(".py").replace("/", ".")
        targets = re.findall(r"\]\[([\w.]+)\]", names)
        assert targets, file
        for target in targets:
            assert target.startswith(f"{module}."), (file, target)
            name = target.removeprefix(f"{module}.").split(".")[-1]
            assert re.search(rf"^\s*(?:def|class) {name}\b", (ROOT / file).read_text(encoding="utf-8"), flags=re.MULTILINE), (
                target
            )
    assert equations == set(range(1, 15))
