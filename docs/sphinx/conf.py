"""Configuration of the API reference: one page for every public module of avsync, found by looking, so that none is forgotten.

The pages are written from the package each time, into ``generated/`` beside this file; nothing there is kept by hand.
"""

from __future__ import annotations

import ast
import doctest
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

from sphinx.util.nodes import make_refnode

import avsync

project = "avsync"
author = "avsync contributors"
project_copyright = "2026, avsync contributors"
version = release = avsync.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.doctest", "sphinx.ext.mathjax"]
exclude_patterns = ["_static", "_templates"]
templates_path = ["_templates"]
default_role = "py:obj"
nitpicky = True
# Objects of other projects, written as types in our signatures. Their inventories are downloads, and this page must build without a
# network; a reference to a name of our own that does not exist stays an error.
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

# Examples run as they stand, with torch at hand as in the modules that they come from.
doctest_global_setup = "import torch"
doctest_test_doctest_blocks = "default"
doctest_default_flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

html_theme = "furo"
html_title = f"avsync {release}"
html_static_path = ["_static"]
html_css_files = ["avsync.css"]
html_copy_source = False
html_show_sourcelink = False
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "guides.html",
        "sidebar/search.html",
        "sidebar/scroll-start.html",
        "sidebar/navigation.html",
        "sidebar/scroll-end.html",
    ]
}


def public_modules() -> list[str]:
    """Every module of the package that has no underscore in its name, in alphabetical order."""
    found = (module.name for module in pkgutil.walk_packages(avsync.__path__, "avsync."))
    return sorted(name for name in found if not any(part.startswith("_") for part in name.split(".")))


def public_names(module: ModuleType) -> list[str]:
    """What a module gives out: its ``__all__``, or all public names that it defines itself."""
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if not name.startswith("_")]
    return [name for name, value in vars(module).items() if not name.startswith("_") and _home(value) == module.__name__]


def _home(value: Any) -> str | None:
    return str(value.__module__) if inspect.isclass(value) or inspect.isroutine(value) else None


def _directive(value: Any) -> str:
    if inspect.isclass(value):
        return "autoexception" if issubclass(value, BaseException) else "autoclass"
    return "autofunction" if inspect.isroutine(value) else "autodata"


def first_line(module: ModuleType) -> str:
    """The first line of a module's docstring."""
    if not module.__doc__:
        raise ValueError(f"{module.__name__}: has no docstring")
    return module.__doc__.strip().splitlines()[0]


def write_pages(folder: Path) -> None:
    """Write one page a module, and the two tables of the index."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    modules = {name: importlib.import_module(name) for name in public_modules()}
    places: dict[int, str] = {}
    for name, module in modules.items():
        title = f"``{name}``"
        lines = [title, "=" * len(title), ""]
        if hasattr(module, "__path__"):
            # A package only passes on what its modules define; each object has one entry, in the module that it comes from.
            # What comes from a private module, that is from nowhere else, has its entry here.
            own = [n for n in getattr(module, "__all__", []) if not any(hasattr(modules[m], n) for m in modules if m != name)]
            lines += [f".. automodule:: {name}", "   :no-members:", ""]
            lines += [line for n in own for line in (f".. {_directive(getattr(module, n))}:: {name}.{n}", "")]
            places.update({id(getattr(module, n)): f"{name}.{n}" for n in own})
            lines += [".. toctree::", "   :maxdepth: 1", ""]
            lines += [f"   {child}" for child in modules if child.rpartition(".")[0] == name]
        else:
            # The same goes for a module that passes on what another public module defines: links instead of a second entry.
            names = public_names(module)
            foreign = {n: _home(getattr(module, n)) for n in names}
            foreign = {n: home for n, home in foreign.items() if home in modules and home != name}
            lines += [f".. automodule:: {name}"]
            lines += [f"   :exclude-members: {', '.join(foreign)}"] if foreign else []
            lines += [""]
            lines += ["Also given out here:", ""] if foreign else []
            lines += [f"* :py:obj:`~{home}.{n}`" for n, home in foreign.items()]
            places.update({id(getattr(module, n)): f"{name}.{n}" for n in names if n not in foreign})
        (folder / f"{name}.rst").write_text("\n".join(lines) + "\n", encoding="utf-8")
    table = [".. list-table::", "   :widths: 30 70", ""]
    for name, module in modules.items():
        table += [f"   * - :py:mod:`{name}`", f"     - {first_line(module)}"]
    (folder / "modules.inc").write_text("\n".join(table) + "\n", encoding="utf-8")
    exported = [name for name in getattr(avsync, "__all__", []) if id(getattr(avsync, name)) in places]
    entries = [f"* :py:obj:`{name} <{places[id(getattr(avsync, name))]}>`" for name in sorted(exported, key=str.lower)]
    text = ["From ``avsync`` itself:", "", ".. hlist::", "   :columns: 3", "", *(f"   {entry}" for entry in entries)]
    (folder / "exported.inc").write_text("\n".join(text if entries else []) + "\n", encoding="utf-8")
    top = [name for name in modules if name.count(".") == 1]
    contents = [".. toctree::", "   :hidden:", "", *(f"   generated/{name}" for name in top)]
    (folder / "contents.inc").write_text("\n".join(contents) + "\n", encoding="utf-8")


def _shield(_app: Any, what: str, _name: str, _value: Any, _options: Any, lines: list[str]) -> None:
    # Napoleon would take "Half-width of the kernel: 7 taps" under an attribute for a type and its description; an empty comment in
    # front of it prevents that.
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]
        # What Python says of the fields of a NamedTuple by itself tells a reader nothing; their class describes them.
        lines[:] = [line for line in lines if not line.startswith("Alias for field number")]


def _set_scene(_app: Any, _what: str, _name: str, value: Any, _options: Any, lines: list[str]) -> None:
    # Examples see the names of the module that they stand in, as they do in pytest, whatever earlier examples of the page assigned.
    value = value.fget if isinstance(value, property) else value
    module = value.__name__ if inspect.ismodule(value) else getattr(inspect.unwrap(value), "__module__", None)
    if module and module.startswith("avsync") and any(line.lstrip().startswith(">>>") for line in lines):
        # By its name in sys.modules: a package may give out a function that is called like the module it comes from.
        names = f"vars(sys.modules['{module}']).items() if not k.startswith('__')"
        scene = f"import sys, {module}; globals().update({{k: v for k, v in {names}}})"
        lines[:0] = [".. testcode::", "   :hide:", "", f"   {scene}", ""]


@functools.cache
def _private_types(module: str | None) -> frozenset[str]:
    """Names that a module gives to types by assignment or imports for type checking only; signatures show them as they stand."""
    names: set[str] = set()
    if module is None or module not in sys.modules:
        return frozenset()
    for statement in ast.walk(ast.parse(inspect.getsource(sys.modules[module]))):
        if isinstance(statement, ast.Assign):
            names.update(target.id for target in statement.targets if isinstance(target, ast.Name))
        elif isinstance(statement, ast.If) and ast.unparse(statement.test).endswith("TYPE_CHECKING"):
            names.update(a.asname or a.name for s in statement.body if isinstance(s, ast.ImportFrom) for a in s.names)
    return frozenset(names)


def _resolve(app: Any, _env: Any, node: Any, child: Any) -> Any:
    # Docstrings name our own classes as the code does, without the module: `ShapeError`. One that is defined once is meant.
    domain = app.env.get_domain("py")
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py":
        return None
    module, _, name = target.rpartition(".")
    if isinstance(getattr(sys.modules.get(module), name, None), TypeVar):
        return child  # a type variable of ours in a signature is no object that could be linked to
    found = [name for name in domain.objects if name.startswith("avsync.") and name.endswith(f".{target}")]
    classes = [
        name for name in found if domain.objects[name].objtype in ("class", "exception", "function", "method", "property")
    ]
    if len(classes) != 1:
        return child if target in _private_types(node.get("py:module")) else None
    entry = domain.objects[classes[0]]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, child, classes[0])


def setup(app: Any) -> None:
    """Called by Sphinx."""
    write_pages(HERE / "generated")
    app.connect("autodoc-process-docstring", _shield, priority=400)
    app.connect("autodoc-process-docstring", _set_scene, priority=600)
    app.connect("missing-reference", _resolve)
