"""``python -m avsync`` is ``avsync``."""

from __future__ import annotations

import sys

from avsync.cli import main

sys.exit(main())
