"""Hook of the site: the API reference, written by Sphinx as HTML fragments, becomes pages with the site's look and search.

``sphinx-build -b html docs/sphinx build/api`` comes first. Each fragment then is the content of a page, whose headings are the
names of the reference, so that the table of contents and the search find each name.
"""

from __future__ import annotations

import functools
import html
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.structure.toc import AnchorLink, TableOfContents

API = Path(__file__).resolve().parents[1] / "build" / "api"
SOURCES = "_modules/"
_HEADING = re.compile(r'<section id="([^"]+)">\s*(?:<span id="[^"]*"></span>)*<h([1-6])>(.*?)</h\2>', flags=re.DOTALL)
_MODULE = re.compile(r'<span class="target" id="(module-[^"]+)"></span>')
_ENTRY = re.compile(r'(<dl class="py (?:function|class|exception|data)">\s*)<dt class="(sig[^"]*)" id="(avsync\.[^"]+)">')
_CODE = re.compile(r"<pre>(?:<span></span>)?(.*?)</pre>", flags=re.DOTALL)
_TITLE = re.compile(r'<h([1-3]) id="([^"]+)"[^>]*>(.*?)(?:<a class="headerlink".*?</a>)?</h\1>', flags=re.DOTALL)
_TAG = re.compile(r"<[^>]+>")
_BACK = re.compile(r'(href="[^"#]*(generated/[^"#]+))#([^"]+)"')


def fragments() -> dict[str, Path]:
    """Return the fragments by the name of their page, below api/.

    Raises:
        PluginError: Sphinx has not run.
    """
    found = {path.relative_to(API).as_posix(): path for path in sorted(API.rglob("*.html"))}
    found = {
        name: path for name, path in found.items() if name == "index.html" or ("/" in name and not name.startswith("_static"))
    }
    if "index.html" not in found:
        raise PluginError(f"{API} has no index.html; build the API reference first: python -m nox -s docs")
    return found


@event_priority(50)
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put a page for each room into the navigation, in the place of the index."""
    rooms = sorted(name for name in fragments() if name.startswith("generated/"))
    order = re.findall(r'href="(generated/[^"#]+)"', (API / "index.html").read_text(encoding="utf-8"))
    rooms.sort(key=lambda name: order.index(name) if name in order else len(order))
    pages: list[Any] = ["api/index.md"]
    pages += [{Path(name).stem: f"api/{name[:-5]}.md"} for name in rooms]
    _replace(config.nav, "api/index.md", pages)
    return config


def _replace(nav: Any, page: str, pages: list[Any]) -> None:
    """Replace the entry of a page in the navigation by a section."""
    for entry in nav if isinstance(nav, list) else []:
        for title, value in entry.items() if isinstance(entry, dict) else ():
            if value == page:
                entry[title] = pages
            else:
                _replace(value, page, pages)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each fragment."""
    for name, path in fragments().items():
        page = File.generated(config, f"api/{name[:-5]}.md", content="")
        page.inclusion = page.inclusion.NOT_IN_NAV if name.startswith(SOURCES) else page.inclusion
        page.fragment = path  # type: ignore[attr-defined]
        files.append(page)
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Give the pages of the reference their titles; source code is not searched, and no page can be edited."""
    path = getattr(page.file, "fragment", None)
    if path is None:
        return markdown
    page.edit_url = None
    heading = re.search(r"<h1>(.*?)</h1>", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    page.meta["title"] = _plain(heading[1]) if heading else path.stem
    if SOURCES in page.file.src_uri:
        page.meta["search"] = {"exclude": True}
    return ""


def on_page_content(content: str, *, page: Page, **_: Any) -> str:
    """Put the fragment in, with its headings, its anchors and its code as the theme expects them."""
    path = getattr(page.file, "fragment", None)
    if path is None:
        return content
    text = _BACK.sub(_back, path.read_text(encoding="utf-8"))
    text = _HEADING.sub(r'<section><h\2 id="\1">\3</h\2>', text)
    text = _ENTRY.sub(_with_heading, text)
    text = _CODE.sub(r"<pre><code>\1</code></pre>", text)
    page.toc = _contents(text)
    return f'<div class="api">{text}</div>'


def _back(found: re.Match[str]) -> str:
    """Keep a link from source code to the reference; without its anchor if the entry has the name of another module."""
    return found[0] if f'id="{found[3]}"' in _reference(found[2]) else f'{found[1]}"'


@functools.cache
def _reference(name: str) -> str:
    return (API / name).read_text(encoding="utf-8")


def _with_heading(found: re.Match[str]) -> str:
    name = found[3]
    return f'<h3 class="api-name" id="{name}">{html.escape(name.rpartition(".")[2])}</h3>\n{found[1]}<dt class="{found[2]}">'


def _contents(text: str) -> TableOfContents:
    """Return the table of contents of a page: its headings, nested by their level."""
    roots: list[AnchorLink] = []
    open_links: list[AnchorLink] = []
    for level, anchor, title in _TITLE.findall(text):
        link = AnchorLink(title=_plain(title), id=anchor, level=int(level))
        while open_links and open_links[-1].level >= link.level:
            open_links.pop()
        (open_links[-1].children if open_links else roots).append(link)
        open_links.append(link)
    return TableOfContents(roots)


def _plain(text: str) -> str:
    return html.unescape(_TAG.sub("", text)).strip()
