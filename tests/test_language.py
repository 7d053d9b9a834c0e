"""The language of docstrings: how they open, and words of which plain technical English has better ones."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for folder in ("avsync", "examples", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
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
    "evaluation model": re.compile(r"\b[Tt]he judge\b(?!`)|\bjudges\b"),
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


def faults(text: str) -> list[str]:
    """Return what a docstring should say otherwise."""
    text = CODE.sub("`code`", text.strip())
    found = [f"begins with {match[0]}"] if (match := OPENING.match(text)) else []
    flat = re.sub(r"\s+", " ", text)
    return found + [f"{match[0]!r}: write {better}" for better, word in WORDS.items() for match in word.finditer(flat)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_are_plain_english(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert [f"line {line}: {fault}" for line, text in docstrings(tree) for fault in faults(text)] == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Compute the loss. 4 audio frames per motion frame, next to the audio of a clip.", 0),
        ("What a loss says.", 1),
        ("One vector beside another, 25 frames a second.", 2),
        ("Draw again, save the model, and write it once a step in steps of 4.", 1),
        ("Per cent, all save the first, nothing but pictures anew.", 4),
        ("Read ``judges`` and `sounds`; several frames a clip.", 1),
        (">>> beside = 1\nChance level is ln N.", 0),
    ],
)
def test_rules_find_what_they_should(text: str, count: int) -> None:
    assert len(faults(text)) == count, faults(text)
