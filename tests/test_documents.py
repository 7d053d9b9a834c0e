"""What the README and the guides say is true: their Python runs, the versions agree, and CI runs the README's own command."""

from __future__ import annotations

import pydoc
import re
import tomllib
from pathlib import Path

import pytest

import avsync

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "avsync" / "weights").glob("*/README.md")),
]


NUMBER = re.compile(r"-?\d+\.\d+")


def code_blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(
    "document",
    [document for document in DOCUMENTS if code_blocks(document, "python")],
    ids=lambda document: str(document.relative_to(ROOT)),
)
def test_python_in_documents_runs_and_prints_what_it_says(document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The blocks of one document run in turn, in one namespace, as a reader would paste them."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in code_blocks(document, "python"):
        exec(compile(block, document.name, "exec"), namespace)  # noqa: S102 - running them is the test
        printed = iter(capsys.readouterr().out.splitlines())
        for expected in re.findall(r"# prints (.*)$", block, flags=re.MULTILINE):
            text = NUMBER.sub("#", expected)
            line = next((line for line in printed if NUMBER.sub("#", line) == text), None)
            assert line is not None, f"nothing printed looks like: {expected}"
            values = [float(number) for number in NUMBER.findall(expected)]
            assert [float(number) for number in NUMBER.findall(line)] == pytest.approx(values, abs=0.02), (expected, line)


def test_lines_have_at_most_128_characters() -> None:
    """Rows of tables and references of links cannot be broken; ruff's E501 covers Python."""
    pages = [*DOCUMENTS, ROOT / "CONTRIBUTING.md", *(ROOT / "examples").rglob("*.md")]
    lines = [(page, line) for page in pages for line in page.read_text(encoding="utf-8").splitlines()]
    whole = re.compile(r"^\s*(?:\||\[[^\]]+\]: |\S+$)")
    assert [(page.name, line) for page, line in lines if len(line) > 128 and not whole.match(line)] == []


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


def layers(contract: str) -> list[list[str]]:
    """Return the layers of an import-linter contract from the top down, each with the names that share it, without parentheses."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    (found,) = [entry for entry in contracts if entry["name"] == contract]
    return [[name.strip(" ()") for name in layer.split(":")] for layer in found["layers"]]


def map_of_the_rooms() -> list[str]:
    """Return the paths of the tree in CONTRIBUTING, relative to avsync/, in its order; folders end with a slash."""
    (tree,) = code_blocks(ROOT / "CONTRIBUTING.md", "text")
    first, *lines = tree.splitlines()
    assert first == "avsync/"
    paths: list[str] = []
    parents: list[str] = []
    for line in lines:
        depth, rest = divmod(len(line) - len(line.lstrip()), 2)
        assert rest == 0 and depth <= len(parents) + 1, line
        parents[depth - 1 :] = [line.split()[0]]
        paths.append("".join(parents))
    return paths


def test_map_shows_every_folder_and_every_file_at_the_top() -> None:
    package = ROOT / "avsync"
    folders = {f"{path.relative_to(package).as_posix()}/" for path in package.rglob("*") if path.is_dir()}
    folders = {path for path in folders if "__pycache__" not in path and not path.startswith("weights/")} | {"weights/"}
    files = {path.name for path in package.glob("*.py")} - {"__init__.py"}
    shown = map_of_the_rooms()
    assert len(shown) == len(set(shown))
    assert set(shown) == folders | files


def test_order_of_the_map_is_the_order_of_the_imports() -> None:
    floors = layers("rooms import only downwards")
    floor = {name: number for number, layer in enumerate(floors) for name in layer}
    top = [path.rstrip("/").removesuffix(".py") for path in map_of_the_rooms() if path.count("/") - path.endswith("/") == 0]
    code = [name for name in top if name != "weights"]  # data, which nothing imports
    assert set(code) <= set(floor)
    assert [floor[name] for name in code] == sorted(floor[name] for name in code)


def test_paper_in_code_has_every_equation_next_to_the_file_and_the_names_that_it_links() -> None:
    page = (ROOT / "docs" / "paper-in-code.md").read_text(encoding="utf-8")
    sections = re.findall(r"^### (\(.*?)\n(.*?)(?=^##)", page, flags=re.MULTILINE | re.DOTALL)
    equations: set[int] = set()
    for title, text in sections:
        bounds = [int(number) for number in re.findall(r"\((\d+)\)", title)]
        equations.update(range(bounds[0], bounds[-1] + 1))
        assert re.search(r"^\$\$.+?\$\$$", text, flags=re.MULTILINE | re.DOTALL), title
        sources = "".join((ROOT / file).read_text(encoding="utf-8") for file in re.findall(r"`(avsync/[\w/]+\.py)`", text))
        targets = re.findall(r"\]\[(avsync\.[\w.]+)\]", text)
        assert targets, title
        for target in targets:
            assert re.search(rf"^\s*(?:def|class) {target.split('.')[-1]}\b", sources, flags=re.MULTILINE), (title, target)
            assert resolve(target) is not None, target
    assert equations == set(range(1, 15))


def resolve(target: str) -> object:
    """Return the object that a dotted name means."""
    return pydoc.locate(target)
