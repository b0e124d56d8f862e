"""docs/map.md names every package, and no page names what is not there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from pages import REPOSITORY, read

PAGE = read("docs/map.md")
PACKAGES = [
    path.parent.relative_to(REPOSITORY)
    for top in ("ppokit", "plugins")
    for path in sorted((REPOSITORY / top).rglob("__init__.py"))
    if path.parent.name != "ppokit"
]
TOP = [path for path in sorted((REPOSITORY / "ppokit").glob("*.py")) if not path.name.startswith("__")]


def defined(path: Path) -> set[str]:
    """Classes, their methods as `Class.method`, and functions of a module."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{n.name}" for n in node.body if isinstance(n, ast.FunctionDef)}
    return names


@pytest.mark.parametrize("package", PACKAGES, ids=str)
def test_every_package_is_named(package: Path) -> None:
    assert f"`{package.as_posix()}/`" in PAGE


@pytest.mark.parametrize("module", TOP, ids=lambda path: path.name)
def test_every_module_beside_the_packages_is_named(module: Path) -> None:
    assert f"`ppokit/{module.name}`" in PAGE


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`([\w./]+(?:\.py|/))`", PAGE))))
def test_every_path_is_there(path: str) -> None:
    assert (REPOSITORY / path).exists()


@pytest.mark.parametrize(("name", "path"), re.findall(r"`([\w.]+)` in\s+`([\w/]+\.py)`", PAGE))
def test_every_name_is_defined(name: str, path: str) -> None:
    assert name in defined(REPOSITORY / path)


@pytest.mark.parametrize(
    "page", ["README.md", *sorted(f"docs/{p.name}" for p in (REPOSITORY / "docs").glob("*.md"))]
)
def test_what_a_page_calls_of_a_trainer_is_there(page: str) -> None:
    source = (REPOSITORY / "ppokit" / "trainer.py").read_text(encoding="utf-8")
    own = set(
        re.findall(r"\bself\.([a-z]\w+)|    def ([a-z]\w+)\(|^    ([a-z]+) = \w+$", source, re.MULTILINE)
    )
    named = set(re.findall(r"\btrainer\.([a-z_]+)", read(page))) - {"py"}
    assert sorted(named - {name for names in own for name in names}) == []
