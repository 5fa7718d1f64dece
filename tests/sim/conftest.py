from __future__ import annotations

import sys
from pathlib import Path

# Worker processes import `sim_fakes` by name: they inherit this path, but not the test modules themselves.
sys.path.insert(0, str(Path(__file__).parent))
