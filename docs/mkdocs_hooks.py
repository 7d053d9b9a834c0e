"""Gives mkdocstrings the inventory of the API reference that Sphinx has written into ``docs/api``."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority


@event_priority(100)
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Name the inventory by its absolute path, which mkdocs.yml cannot know; before mkdocstrings reads its options."""
    inventory = Path(config.docs_dir) / "api" / "objects.inv"
    if not inventory.is_file():
        raise PluginError(f"{inventory} is missing; build the API reference first: python -m nox -s docs")
    handlers = config.plugins["mkdocstrings"].config.handlers
    handlers.setdefault("python", {})["inventories"] = [{"url": inventory.as_uri(), "base_url": "api"}]
    return config
