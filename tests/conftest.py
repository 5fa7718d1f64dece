from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent

# Must precede the first import of the package: in tests the shapes in its signatures are checked at every call.
jaxtyping.install_import_hook(["openvla.nn", "openvla.model", "openvla.infer"], "beartype.beartype")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache directory of the session's own, so that no test finds or leaves an index in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("cache")
        patch.setenv("OPENVLA_CACHE", str(place))
        yield place


@pytest.fixture(scope="session")
def needs_amx(cache: Path) -> None:
    """Skips where there are no kernels for AMX. They are compiled here, not while tests are collected, into `cache`."""
    from openvla.nn import amx  # behind the hook

    if not amx.available():
        pytest.skip("needs a processor with AMX and a C++ compiler")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared real data and goldens beside the checkout; tests that need it skip without it."""
    folder = (ROOT.parent / "shared").resolve()
    if not folder.is_dir():
        pytest.skip(f"needs the shared test data, which is not at {folder}")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """Numbers that the published code produced."""
    return ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve episodes in which the colour of the image tells the action: red right, blue left."""
    from openvla.data.episode import demonstration_episode
    from openvla.data.rlds import write_episodes

    random = np.random.default_rng(0)

    def episode(number: int):
        right = number % 2 == 0
        images = random.integers(0, 40, (8, 28, 28, 3)).astype(np.uint8)
        images[..., 0 if right else 2] += 200
        actions = np.zeros((8, 4), np.float32)
        actions[:, 0] = 1.0 if right else -1.0
        actions[:, 1] = random.uniform(-1, 1, 8)
        return demonstration_episode(images, actions, np.zeros((8, 4)), "go", task="colour", seed=number)

    return write_episodes(tmp_path_factory.mktemp("toy") / "toy", map(episode, range(12)), name="toy")
