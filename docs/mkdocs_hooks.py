"""Gives mkdocstrings the inventory of the API reference that Sphinx has written into ``docs/api``."""

from __future__ import annotations

import hashlib
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
    # mkdocstrings keeps what it has read for a day, by its address; a fragment made of the contents has it read what is there now.
    address = f"{inventory.as_uri()}#{hashlib.sha256(inventory.read_bytes()).hexdigest()}"
    handlers = config.plugins["mkdocstrings"].config.handlers
    handlers.setdefault("python", {})["inventories"] = [{"url": address, "base_url": "api"}]
    return config
