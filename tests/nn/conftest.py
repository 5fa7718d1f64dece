from __future__ import annotations

import pytest

from openvla.nn import amx


@pytest.fixture(params=["amx", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kernels of a CPU that layers go through: ours, where this machine has them, and those of torch."""
    if request.param == "torch":
        monkeypatch.setattr(amx, "available", lambda: False)
    else:
        request.getfixturevalue("needs_amx")
    return request.param
