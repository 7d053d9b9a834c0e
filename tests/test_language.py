"""The language of docstrings, messages, comments and pages: openings, and words for which plain technical English has better ones."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for folder in ("avsync", "examples", "benchmarks", "docs") for path in (ROOT / folder).rglob("*.py"))
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *(path for folder in ("docs", "avsync/weights", "examples") for path in (ROOT / folder).rglob("*.md")),
    ]
)
OPENING = re.compile(r"^(?:What|How|Where|Which|Whether)\b")
UNITS = (
    r"frame|second|level|step|window|clip|image|row|process|batch|speaker|branch|point|epoch|video|landmark|person|side|channel"
)
# A verb may end in s as well ("needs a frame"), so the nouns are listed.
NUMBERED = (
    r"(?:\d[\d.,]*|one|two|three|four|five|several|many|MB|ms|frames|samples|images|windows|values|vectors|numbers|coefficients|features"
    r"|steps|channels|points|embeddings|heights|times|clips|cycles|syllables|seconds|pixels|landmarks|negatives|gradients|weights)"
)
WORDS = {
    "again": re.compile(r"\banew\b"),
    "next to, together with": re.compile(r"\bbeside\b"),
    "percent or %": re.compile(r"\bper cent\b"),
    "evaluation model, evaluate": re.compile(r"(?<!-)\b[Jj]udg(?:e|es|ed|ing)\b"),
    "chance level": re.compile(r"(?<!by )(?<!any )\bchance\b(?! levels?\b|:)"),
    "reports, states": re.compile(r"\b(?:says|tells)\b"),
    "random generator": re.compile(r"\b(?:where|the same) chance\b|\bchance enters\b"),
    "except": re.compile(r"(?:,|\bnothing|\ball|\bnone) save (?:for|that|where|the|in)\b"),
    "only": re.compile(r"\bnothing but\b"),
    "before, lest": re.compile(r"\b(?:ere|lest)\b"),
    "pretrained": re.compile(r"\bshipped\b|\bthat (?:come|ship)s? with the package\b"),
    "run, training run": re.compile(r"\b[Tt]rainings\b"),
    "image": re.compile(r"\bpictures?\b"),
    "audio": re.compile(r"\b[Ss]ounds?\b(?! card)"),
    "unseen speakers": re.compile(r"\b(?:speakers|talkers) whom\b"),
    "subset, segment": re.compile(r"\bstretch(?:es)? of (?:\d|frames|windows|time|speech|audio)"),
    "per": re.compile(
        rf"\b(?:{NUMBERED}) (?:a|an) (?:{UNITS})\b(?! (?:of|at|time|later|before|after|from|that|is|has|in|with|for|where|by)\b)"
    ),
}
CODE = re.compile(r"``.*?``|`[^`]*`|:\w+:`[^`]*`|^\s*(?:>>>|\.\.\.).*$", flags=re.MULTILINE)


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and text of every docstring of a module, and of every string that describes an attribute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for before, statement in zip([None, *node.body], node.body, strict=False):
                if (
                    isinstance(statement, ast.Expr)
                    and isinstance(statement.value, ast.Constant)
                    and isinstance(statement.value.value, str)
                    and (before is None or isinstance(before, ast.Assign | ast.AnnAssign))
                ):
                    yield statement.lineno, statement.value.value


def messages(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and text of every other string of several words: errors, warnings, help, log lines, labels of figures."""
    documented = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    formats = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    parts = {id(part) for node in formats for value in node.values for part in ast.walk(value)}
    for node in ast.walk(tree):
        if id(node) in documented | parts:
            continue
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(value.value) if isinstance(value, ast.Constant) else "`value`" for value in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        else:
            continue
        if " " in text.strip():
            yield node.lineno, text


def comments(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of every comment; the lines of a longer comment count as one text."""
    begin, last, lines = 0, 0, list[str]()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if lines and token.start[0] != last + 1:
                yield begin, " ".join(lines)
                lines = []
            begin = begin if lines else token.start[0]
            last = token.start[0]
            lines.append(token.string.lstrip("#: "))
    if lines:
        yield begin, " ".join(lines)


def prose(page: str) -> str:
    """Return a page without code and without the targets of links."""
    page = re.sub(r"^```.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"\]\([^)]*\)|\]\[[^\]]*\]", "]", page)


def words(text: str) -> list[str]:
    """Return the words of a text for which there are better ones."""
    flat = re.sub(r"\s+", " ", CODE.sub("`code`", text))
    return [f"{match[0]!r}: write {better}" for better, word in WORDS.items() for match in word.finditer(flat)]


def faults(text: str) -> list[str]:
    """Return what a docstring should say otherwise."""
    found = [f"begins with {match[0]}"] if (match := OPENING.match(CODE.sub("`code`", text.strip()))) else []
    return found + words(text)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_are_plain_english(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert [f"line {line}: {fault}" for line, text in docstrings(tree) for fault in faults(text)] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_messages_and_comments_are_plain_english(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    texts = [*messages(ast.parse(source)), *comments(source)]
    assert [f"line {line}: {fault}" for line, text in texts for fault in words(text)] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_are_plain_english(path: Path) -> None:
    assert words(prose(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Compute the loss. 4 audio frames per motion frame, next to the audio of a clip.", 0),
        ("What a loss reports.", 1),
        ("One vector beside another, 25 frames a second.", 2),
        ("Draw again, save the model, and write it once a step in steps of 4.", 1),
        ("Per cent, all save the first, nothing but pictures anew.", 4),
        ("Read ``judges`` and `sounds`; several frames a clip.", 1),
        (">>> beside = 1\nChance level is ln N.", 0),
    ],
)
def test_rules_find_what_they_should(text: str, count: int) -> None:
    assert len(faults(text)) == count, faults(text)


def test_messages_comments_and_pages_are_found() -> None:
    source = """
def f(x):
    '''Docstring with a sound.'''
    # A comment on
    # a picture.
    parser.add_argument("--x", help="frames a second")
    raise ValueError(f"{x}: expected a sound, got {x['the judge']}")
"""
    found = [text for _, text in messages(ast.parse(source))]
    assert sorted(map(words, found)) == [["'frames a second': write per"], ["'sound': write audio"]]
    assert [words(text) for _, text in comments(source)] == [["'picture': write image"]]
    assert words(prose("A [picture](sound.md).\n```\nanew\n```\n")) == ["'picture': write image"]
