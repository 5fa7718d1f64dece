from __future__ import annotations

from pathlib import Path

import jaxtyping
import pytest

ROOT = Path(__file__).resolve().parent.parent

# Must precede the first import of the package: in tests the shapes in its signatures are checked at every call.
jaxtyping.install_import_hook(["openvla.nn", "openvla.model", "openvla.infer"], "beartype.beartype")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared real data and goldens beside the checkout; tests that need it skip without it."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the shared test data, which is not at {folder}")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """Numbers that the published code produced."""
    return ROOT / "tests" / "golden"
