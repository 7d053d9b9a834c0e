"""Configuration of the API reference: one page for each room of avsync, with the public names that the room exports.

Each build writes the pages from the package into ``generated/`` next to this file; no page there is edited by hand.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import os
import pkgutil
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

os.environ["OMP_NUM_THREADS"] = "1"

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

import latex2mathml.converter
from docutils.nodes import SkipNode
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.nodes import make_refnode

import avsync

project = "avsync"
author = "avsync contributors"
project_copyright = "2026, avsync contributors"
version = release = avsync.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_math_renderer = "mathml"
READING_ORDER = (
    "losses",
    "models",
    "metrics",
    "landmarks",
    "audio",
    "pyramid",
    "resampling",
    "pretrained",
    "corpus",
    "training",
    "evaluation",
    "figures",
    "errors",
    "cli",
)
exclude_patterns = ["_static", "_templates"]
templates_path = ["_templates"]
default_role = "py:obj"
nitpicky = True
# Objects of other projects, written as types in our signatures. Their inventories are downloads, and this page must build
# without a network; a reference to a name of our own that does not exist stays an error.
nitpick_ignore_regex = [
    # Private base classes, which stand in a page as "Bases: ..." and have no entry.
    (r"py:class", r"avsync\.(\w+\.)*_\w+"),
    (
        r"py:.*",
        r"(torch|numpy|np|npt|nn|einops|safetensors|matplotlib|lightning_fabric|lightning|torchmetrics|av|scipy|PIL)(\..*)?",
    ),
    (
        r"py:.*",
        r"(collections|typing|types|pathlib|os|io|enum|dataclasses|abc|argparse|fractions|datetime|functools|contextlib)\..*",
    ),
    (
        r"py:.*",
        r"(Tensor|Module|Generator|Path|PathLike|Any|Callable|Iterable|Iterator|Mapping|Sequence|Literal|Self|NDArray|Figure|optional)",
    ),
    # Annotations of constants are cut at their first comma.
    (r"py:class", r"(dict|list|set|tuple)\[\w+"),
    (r"py:.*", r"(int|float|str|bool|bytes|dict|list|tuple|set|object|type|None|callable|ndarray)"),
    (
        r"py:(exc|class)",
        r"(Exception|ImportError|KeyError|NotImplementedError|OSError|RuntimeError|StopIteration|TypeError|ValueError)",
    ),
]

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_maximum_signature_line_length = 100

# Pages are their text alone, which the site shows in its own look (docs/mkdocs_api.py).
html_theme = "basic"
html_copy_source = False
html_show_sourcelink = False
html_use_index = False
html_permalinks = False


def rooms() -> list[str]:
    """Return the rooms of the package, the modules and packages directly below it without an underscore, in reading order."""
    found = {module.name for module in pkgutil.iter_modules(avsync.__path__) if not module.name.startswith("_")}
    first = [name for name in READING_ORDER if name in found]
    return [f"avsync.{name}" for name in (*first, *sorted(found - set(READING_ORDER)))]


def submodules(room: ModuleType) -> list[str]:
    """Return the names of all modules below a room."""
    path = getattr(room, "__path__", None)
    return sorted(module.name for module in pkgutil.walk_packages(path, f"{room.__name__}.")) if path else []


@functools.cache
def _definitions(module: str) -> dict[str, str]:
    """Map each name that a module assigns or imports to the module that the import names, or to itself."""
    found: dict[str, str] = {}
    for statement in ast.walk(ast.parse(inspect.getsource(importlib.import_module(module)))):
        if isinstance(statement, ast.ImportFrom) and statement.module:
            found.update({alias.asname or alias.name: statement.module for alias in statement.names})
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            found.update({target.id: module for target in targets if isinstance(target, ast.Name)})
    return found


def home(module: str, name: str) -> str:
    """Return the module that defines what ``module`` gives out as ``name``."""
    value = getattr(sys.modules[module], name)
    if (inspect.isclass(value) or inspect.isroutine(value)) and str(value.__module__).startswith("avsync"):
        return str(value.__module__)
    source = _definitions(module).get(name, module)
    if source == module or not source.startswith("avsync"):
        return module
    importlib.import_module(source)
    return home(source, name)


def public_names(module: ModuleType) -> list[str]:
    """Return the public names of a module: its ``__all__``, or all classes, functions and documented constants in it."""
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if not name.startswith("_")]
    constants = {name for _, name in ModuleAnalyzer.for_module(module.__name__).find_attr_docs()}
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (value.__module__ == module.__name__ if inspect.isclass(value) or inspect.isroutine(value) else name in constants)
    ]


def first_line(module: ModuleType) -> str:
    """Return the first line of a module's docstring."""
    if not module.__doc__:
        raise ValueError(f"{module.__name__}: has no docstring")
    return module.__doc__.strip().splitlines()[0]


PLACES: dict[str, str] = {}
"""The entry of each documented object: its name in the module that defines it, to its public name."""


def entry(module: str, name: str) -> list[str]:
    """Return the lines of the entry of a public name, under the shortest name by which it can be imported."""
    value = getattr(sys.modules[module], name)
    PLACES[f"{home(module, name)}.{name}"] = f"{module}.{name}"
    if inspect.isclass(value):
        kind = "autoexception" if issubclass(value, BaseException) else "autoclass"
    elif inspect.isroutine(value):
        kind = "autofunction"
    else:
        # autodoc looks for the docstring of a constant where the constant is given out; it stands where the constant is
        # defined.
        source = home(module, name)
        text = ModuleAnalyzer.for_module(source).find_attr_docs().get(("", name), [])
        shown = repr(value)
        shown = [f"   :value: {shown}"] if len(shown) < 80 and " object at " not in shown else []
        return [f".. py:data:: {module}.{name}", *shown, "", *(f"   {line}" for line in text), ""]
    return [f".. {kind}:: {module}.{name}", ""]


def write_room(folder: Path, name: str) -> None:
    """Write the page of a room: its docstring, a table of its public names, and the entries, one section per file."""
    room = importlib.import_module(name)
    below = {child: importlib.import_module(child) for child in submodules(room)}
    # A name stands once, where it is shortest: what the room gives out, then what packages inside of it add. A room that gives
    # out nothing itself shows the public names of its modules.
    shown: dict[str, tuple[str, str]] = {}
    modules = [name, *(child for child, module in below.items() if hasattr(module, "__path__"))]
    if not public_names(room):
        modules += [child for child in below if child not in modules and "._" not in child]
    for module in modules:
        for public in public_names(sys.modules[module]):
            if not inspect.ismodule(getattr(sys.modules[module], public)):
                shown.setdefault(f"{home(module, public)}.{public}", (module, public))
    files: dict[str, list[tuple[str, str]]] = {}
    for place, (module, public) in shown.items():
        files.setdefault(place.rpartition(".")[0], []).append((module, public))
    order = [name, *below]
    title = f"``{name}``"
    lines = [title, "=" * len(title), "", f".. automodule:: {name}", "   :no-members:", ""]
    for file in sorted(files, key=lambda file: order.index(file) if file in order else len(order)):
        if file != name:
            heading = f"{file.removeprefix('avsync.').replace('.', '/')}.py"
            # Not in the index: a file may be called like the function that it holds.
            lines += [heading, "-" * len(heading), "", f".. automodule:: {file}", "   :no-members:", "   :no-index:", ""]
        for module, public in files[file]:
            lines += entry(module, public)
    (folder / f"{name}.rst").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_pages(folder: Path) -> None:
    """Write one page per room, and the two tables of the index."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in rooms():
        write_room(folder, name)
    table = [".. list-table::", "   :widths: 25 75", ""]
    for name in rooms():
        table += [f"   * - :doc:`{name} </generated/{name}>`", f"     - {first_line(sys.modules[name])}"]
    (folder / "rooms.inc").write_text("\n".join(table) + "\n", encoding="utf-8")
    entries = []
    for name in sorted(avsync.__all__, key=str.lower):
        place = f"{home('avsync', name)}.{name}"
        if place in PLACES:
            entries.append(f"* :py:obj:`{name} <{PLACES[place]}>`")
    text = [".. hlist::", "   :columns: 3", "", *(f"   {line}" for line in entries)]
    (folder / "exported.inc").write_text("\n".join(text) + "\n", encoding="utf-8")
    contents = [".. toctree::", "   :hidden:", "", *(f"   generated/{name}" for name in rooms())]
    (folder / "contents.inc").write_text("\n".join(contents) + "\n", encoding="utf-8")


def _shield(_app: Any, what: str, _name: str, _value: Any, _options: Any, lines: list[str]) -> None:
    # Napoleon would take "Half-width of the kernel: 7 taps" under an attribute for a type and its description; an empty comment
    # in front of it prevents that.
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]
        # Python's own docstrings of NamedTuple fields carry no information; the class describes its fields.
        lines[:] = [line for line in lines if not line.startswith("Alias for field number")]


@functools.cache
def _private_types(module: str | None) -> frozenset[str]:
    """Return the type names that a module assigns or imports for type checking only; signatures show them as written."""
    names: set[str] = set()
    if module is None or module not in sys.modules:
        return frozenset()
    for statement in ast.walk(ast.parse(inspect.getsource(sys.modules[module]))):
        if isinstance(statement, ast.Assign):
            names.update(target.id for target in statement.targets if isinstance(target, ast.Name))
        elif isinstance(statement, ast.If) and ast.unparse(statement.test).endswith("TYPE_CHECKING"):
            names.update(a.asname or a.name for s in statement.body if isinstance(s, ast.ImportFrom) for a in s.names)
    return frozenset(names)


def _find(target: str) -> tuple[str, str] | None:
    """Return the module that defines a dotted name of ours and the name inside of it, or None if there is no such object."""
    parts = target.split(".")
    for cut in range(len(parts), 0, -1):
        module = ".".join(parts[:cut])
        try:
            value: Any = importlib.import_module(module)
        except ImportError:
            continue
        rest = parts[cut:]
        if not rest:
            return module, ""
        if not hasattr(value, rest[0]):
            return None
        place = home(module, rest[0]) if not inspect.ismodule(getattr(value, rest[0])) else f"{module}.{rest[0]}"
        for part in rest:
            fields = getattr(value, "__dataclass_fields__", {})
            annotated = getattr(value, "__annotations__", {}) if inspect.isclass(value) else {}
            if not hasattr(value, part) and part not in fields and part not in annotated:
                return None
            value = getattr(value, part, None)
        return place, ".".join(rest)
    return None


def _resolve(app: Any, _env: Any, node: Any, child: Any) -> Any:
    # Docstrings name our objects by the module that defines them, or by their name alone. Both find the public entry.
    if node.get("refdomain") != "py":
        return None
    domain = app.env.get_domain("py")
    target = node.get("reftarget", "")
    module, _, name = target.rpartition(".")
    if isinstance(getattr(sys.modules.get(module), name, None), TypeVar):
        return child  # a type variable of ours in a signature is no object that could be linked to
    if target.startswith("avsync."):
        found = _find(target)
        if found is None:
            return None
        module, name = found
        first, _, rest = name.partition(".")
        place = PLACES.get(f"{module}.{first}")
        public = module if not name else f"{place}.{rest}" if rest and place else place
        if public not in domain.objects:
            return child  # exists, but is private to its room: shown as code
    else:
        matches = [name for name in domain.objects if name.startswith("avsync.") and name.endswith(f".{target}")]
        kinds = ("class", "exception", "function", "method", "property")
        matches = [name for name in matches if domain.objects[name].objtype in kinds]
        if len(matches) != 1:
            first = target.partition(".")[0]
            ours = [module for name, module in sys.modules.items() if name.partition(".")[0] == "avsync"]
            known = target in _private_types(node.get("py:module")) or any(hasattr(module, first) for module in ours)
            return child if known else None
        public = matches[0]
    at = domain.objects[public]
    return make_refnode(app.builder, node["refdoc"], at.docname, at.node_id, child, public)


class _MathML:
    """Renders equations as MathML, which browsers draw themselves: no script and no network."""

    @staticmethod
    def inline(translator: Any, node: Any) -> None:
        translator.body.append(latex2mathml.converter.convert(node.astext()))
        raise SkipNode

    @staticmethod
    def display(translator: Any, node: Any) -> None:
        text = latex2mathml.converter.convert(node.astext(), display="block")
        translator.body.append(f'<div class="math-block">{text}</div>')
        raise SkipNode


def setup(app: Any) -> None:
    """Called by Sphinx."""
    write_pages(HERE / "generated")
    app.add_html_math_renderer("mathml", (_MathML.inline, None), (_MathML.display, None))
    app.connect("autodoc-process-docstring", _shield, priority=400)
    app.connect("missing-reference", _resolve)
