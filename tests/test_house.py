"""What holds the house together: layers, laziness, public names, and documents that run."""

from __future__ import annotations

import ast
import graphlib
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import openvla
from openvla.cli.main import parse_verb
from openvla.cli.verbs import VERBS, find_verb

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "openvla"
FILES = sorted(SOURCE.rglob("*.py"))
ROOMS = sorted(path.parent for path in SOURCE.glob("*/__init__.py"))

FLOOR = {
    "errors": 0,
    "files": 1,
    "report": 1,
    "spec": 1,
    "codec": 2,
    "nn": 2,
    "serve": 2,
    "sim": 2,
    "data": 3,
    "model": 3,
    "infer": 4,
    "train": 4,
    "demo": 5,
    "cli": 6,
}
"""A room imports from lower floors and from itself, never from its neighbours."""

PUBLIC = {"Observation", "Action", "ActionSpec", "Policy", "load_policy", "RemotePolicy", "evaluate", "OpenVLAError"}


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def room_of(module: str) -> str:
    """`openvla.nn.vit` -> `nn`; the root itself -> `openvla`."""
    return module.split(".")[1] if "." in module else module


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every module of this package that `path` imports, at any depth."""
    modules = {name_of(file) for file in FILES}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write the full name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "openvla":
                yield node.lineno, name if name in modules else name.rpartition(".")[0]


def loaded_after(statement: str) -> set[str]:
    """The modules a fresh interpreter holds after `statement`."""
    code = f"{statement}\nimport sys\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_downward(path: Path) -> None:
    module = name_of(path)
    if module == "openvla":
        return
    room = room_of(module)
    assert room in FLOOR, f"{module}: give the room {room!r} a floor"
    for line, imported in imports_of(path):
        target = room_of(imported)
        allowed = target == room or FLOOR.get(target, 99) < FLOOR[room]
        assert allowed, f"{path.relative_to(ROOT)}:{line}: {room} may not import {imported}"


def test_modules_never_import_each_other_in_a_circle() -> None:
    graph = {name_of(path): {name for _, name in imports_of(path)} for path in FILES if name_of(path) != "openvla"}
    assert list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_rooms_init_holds_one_docstring_line(room: Path) -> None:
    tree = ast.parse((room / "__init__.py").read_text())
    docstring = ast.get_docstring(tree)
    assert docstring
    assert "\n" not in docstring
    assert len(tree.body) == 1


def test_the_root_exports_exactly_the_public_names() -> None:
    assert set(openvla.__all__) == PUBLIC
    assert set(dir(openvla)) == PUBLIC


def test_an_unknown_root_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'openvla' has no attribute 'load_polcy'"):
        _ = openvla.load_polcy


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(openvla, name).__name__ == name


@pytest.mark.parametrize(
    "statement",
    [
        "import openvla",
        "from openvla.cli.main import main; main(['--help'])",
        "from openvla.cli.main import main; main(['data', '--help'])",
        "from openvla import OpenVLAError",
    ],
)
def test_importing_the_package_loads_neither_torch_nor_numpy(statement: str) -> None:
    assert not {"torch", "numpy", "tyro"} & loaded_after(statement)


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_a_verbs_help_does_not_load_torch(verb: str) -> None:
    loaded = loaded_after(f"from openvla.cli.main import main; assert main({[*verb.split(), '--help']}) == 0")
    assert "torch" not in loaded


@pytest.mark.parametrize("room", ["serve", "sim", "codec"])
def test_what_talks_to_robots_runs_without_torch(room: str) -> None:
    names = [name_of(path) for path in FILES if room_of(name_of(path)) == room]
    assert "torch" not in loaded_after("import " + ", ".join(names))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_source_file_says_what_it_is_and_stays_short(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), f"{path}: no module docstring"
    assert len(text.splitlines()) < 300, f"{path}: split it, one thought per file"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_function_fits_on_a_screen(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            documented = node.body[0].end_lineno if ast.get_docstring(node) else node.body[0].lineno - 1
            assert node.end_lineno - documented <= 40, f"{path}:{node.lineno}: split {node.name}"


def blocks(language: str) -> list[str]:
    """The README's fenced blocks in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)


def readme_commands() -> list[list[str]]:
    lines = "".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def test_the_readme_shows_commands_and_python() -> None:
    assert ["make", "demo"] in readme_commands()
    assert ["make", "test"] in readme_commands()
    assert blocks("python")


@pytest.mark.parametrize("command", [c for c in readme_commands() if c[0] == "openvla"], ids=" ".join)
def test_a_readme_command_has_options_that_exist(command: list[str]) -> None:
    verb, rest = find_verb(command[1:])
    assert parse_verb(verb, rest)[1] is not None


@pytest.mark.parametrize("command", [c for c in readme_commands() if c[0] == "make"], ids=" ".join)
def test_a_readme_make_target_exists(command: list[str]) -> None:
    assert re.search(rf"^{re.escape(command[1])}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


@pytest.fixture
def camera_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with the README's `frame.png`; skips until the shipped policy is there."""
    if not (SOURCE / "shipped" / "nano" / "config.json").exists():
        pytest.skip("the shipped policy 'nano' is not in this checkout")
    pixels = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "frame.png")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.splitlines()[0])
def test_a_readme_python_block_runs(code: str, camera_frame: None) -> None:
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


@pytest.mark.parametrize("command", [c for c in readme_commands() if c[:2] == ["openvla", "predict"]], ids=" ".join)
def test_a_readme_predict_command_runs(command: list[str], camera_frame: None) -> None:
    from openvla.cli.main import main

    if "nano" not in command:
        pytest.skip("needs a download")
    assert main(command[1:]) == 0


def test_documents_link_to_files_that_exist() -> None:
    for document in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "docs" / "architecture.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name} links to {target}, which is not there"


def test_the_architecture_names_every_room() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    for room in ROOMS:
        assert f"`{room.name}/" in text


def test_the_reading_order_names_files_that_exist() -> None:
    named = re.findall(r"^\d+\. .*?:", (ROOT / "docs" / "architecture.md").read_text(), flags=re.MULTILINE)
    named = re.findall(r"`([\w/]+\.py)`", " ".join(named))
    assert len(named) > 10
    assert not [path for path in named if not (SOURCE / path).exists()]


def test_help_answers_at_once() -> None:
    code = (
        "import time; start = time.perf_counter()\n"
        "from openvla.cli.main import main; main(['--help'])\n"
        "print(time.perf_counter() - start)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert float(io.StringIO(done.stdout).readlines()[-1]) < 0.5
