"""Makes the examples, which are scripts and no package, importable as they import each other."""

from __future__ import annotations

import sys

from example_process import EXAMPLES

sys.path.insert(0, str(EXAMPLES))
