"""The house rules that a reader relies on: one-way imports, short files, documented names."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A package imports itself and the packages before it.
PACKAGES = (
    *("errors", "options", "shapes", "files", "places", "checksums", "workers"),
    *("parallel", "console", "models", "links", "weights"),
    *("tools", "system", "tasks", "training", "evaluation", "plans", "experiment"),
)
FOR_EXPERIMENTS_ONLY = ("experiments", "absl", "ml_collections")
SIBLINGS = {"training", "evaluation"}  # neither imports the other
MAX_LINES = 400
CODE = ("rmas", "experiments", "launch", "tests")


def nodes(tree: ast.AST, inside_functions: bool) -> Iterator[ast.AST]:
    """All nodes of a file, or those that run when it is imported."""
    for child in ast.iter_child_nodes(tree):
        yield child
        if inside_functions or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from nodes(child, inside_functions)


def imported_names(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import in a file, wherever it stands.

    The package's own `__init__` is its front door: what its functions import when they are
    called does not count.

    `from a import b` counts as `a.b`; relative imports are resolved; so are calls of
    `import_module` and `__import__` with a literal.
    """
    package = path.relative_to(root).with_suffix("").parts[:-1]
    front_door = path == root / "rmas" / "__init__.py"
    for node in nodes(ast.parse(path.read_text(), str(path)), not front_door):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = [*base, *([node.module] if node.module else [])]
            yield from ((node.lineno, ".".join([*module, alias.name])) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


def package_of(parts: tuple[str, ...]) -> str:
    """The package of a dotted name below `rmas`; the package's own `__init__` has none."""
    return parts[0] if parts and parts[0] != "__init__" else ""


def import_violations(root: Path) -> list[str]:
    """Imports of `rmas/` under `root` that break the order of packages, one line each."""
    found = []
    for path in sorted((root / "rmas").rglob("*.py")):
        place = path.relative_to(root)
        package = package_of(place.with_suffix("").parts[1:])
        if package and package not in PACKAGES:
            found.append(f"{place}: {package!r} is not a package; give it a place in PACKAGES")
            continue
        rank = PACKAGES.index(package) if package else -1
        for line, name in imported_names(path, root):
            if any(name == top or name.startswith(f"{top}.") for top in FOR_EXPERIMENTS_ONLY):
                found.append(f"{place}:{line}: {name} belongs to experiments/")
            parts = tuple(name.split("."))
            if parts[0] != "rmas" or len(parts) == 1:
                continue
            target = package_of(parts[1:])
            if {package, target} == SIBLINGS:
                found.append(f"{place}:{line}: {package} imports its sibling {target}")
            elif target in PACKAGES and PACKAGES.index(target) > rank:
                found.append(
                    f"{place}:{line}: {package or 'rmas'} imports the later package {target}"
                )
    return found


def file_violations(root: Path) -> list[str]:
    """Python files under `root` that are too long, or drawers."""
    found = []
    files = [*root.glob("*.py"), *(path for top in CODE for path in (root / top).rglob("*.py"))]
    for path in sorted(files):
        place, lines = path.relative_to(root), len(path.read_text().splitlines())
        if lines > MAX_LINES:
            found.append(f"{place}: {lines} lines; at most {MAX_LINES}")
        if path.name == "utils.py":
            found.append(f"{place}: a drawer; name the file after what it holds")
    return found


def test_imports_go_one_way():
    assert import_violations(ROOT) == []


def test_files_are_short_and_named():
    assert file_violations(ROOT) == []


def test_the_checks_look_at_this_repository():
    names = {name for _, name in imported_names(ROOT / "rmas" / "tasks" / "puzzle.py", ROOT)}
    assert {"rmas.errors.InputError", "rmas.tasks.rows.Row", "numpy"} <= names


@pytest.mark.parametrize(
    ("place", "code", "told"),
    [
        ("links.py", "import rmas.system.run", "links imports the later package system"),
        ("links.py", "from rmas import system", "links imports the later package system"),
        ("links.py", "def f():\n    from rmas.tasks import x", "rmas/links.py:2: links imports"),
        ("models/ops.py", "from ..links import x", "models imports the later package links"),
        ("models/ops.py", "from .. import links", "models imports the later package links"),
        ("models/deep/ops.py", "from ...links import x", "models imports the later package links"),
        ("models/__init__.py", "from ..links import x", "models imports the later package links"),
        ("links.py", "import importlib as i; i.import_module('rmas.tasks')", "later package tasks"),
        ("errors.py", "from rmas.shapes import Array", "errors imports the later package shapes"),
        ("__init__.py", "from rmas.links import x", "rmas imports the later package links"),
        ("tasks/a.py", "from absl import logging", "absl.logging belongs to experiments/"),
        ("evaluation/a.py", "from rmas.training import x", "evaluation imports its sibling"),
        ("training/a.py", "from rmas.evaluation import x", "training imports its sibling"),
        ("tasks/a.py", "import ml_collections as m", "ml_collections belongs to experiments/"),
        ("tasks/a.py", "from ml_collections import x", "ml_collections.x belongs to"),
        ("tasks/a.py", "import experiments.app", "experiments.app belongs to experiments/"),
        ("misc/a.py", "", "'misc' is not a package"),
    ],
)
def test_planted_imports_are_found(place, code, told, tmp_path):
    path = tmp_path / "rmas" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)
    found = import_violations(tmp_path)
    assert len(found) == 1
    assert told in found[0]


@pytest.mark.parametrize(
    ("place", "code"),
    [
        (
            "tasks/a.py",
            "from rmas.system import run\nfrom rmas import links, __version__\nimport rmas",
        ),
        ("tasks/a.py", "from .rows import Row\nfrom ..errors import InputError"),
        ("tasks/a.py", "import absl_flags, experiments_of_mine"),
        ("experiment/a.py", "from rmas.training import x\nfrom rmas.evaluation import y"),
        ("shapes.py", "import jax"),
        ("__init__.py", "def __getattr__(name):\n    from rmas.links import x"),
    ],
)
def test_allowed_imports_are_not(place, code, tmp_path):
    path = tmp_path / "rmas" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)
    assert import_violations(tmp_path) == []


def test_planted_files_are_found(tmp_path):
    (tmp_path / "tests" / "a").mkdir(parents=True)
    (tmp_path / "tests" / "a" / "utils.py").write_text("")
    (tmp_path / "tests" / "long.py").write_text("x = 1\n" * 401)
    (tmp_path / "tests" / "full.py").write_text("x = 1\n" * 400)
    assert file_violations(tmp_path) == [
        "tests/a/utils.py: a drawer; name the file after what it holds",
        "tests/long.py: 401 lines; at most 400",
    ]


def undocumented(root: Path) -> list[str]:
    """Public modules, classes, functions and methods of the product without a docstring."""

    def visit(node: ast.Module | ast.ClassDef, place: str) -> Iterator[str]:
        if not ast.get_docstring(node):
            yield place
        for child in node.body:
            if not isinstance(child, ast.ClassDef | ast.FunctionDef) or child.name[0] == "_":
                continue
            if isinstance(child, ast.ClassDef):
                yield from visit(child, f"{place}: {child.name}")
            elif not ast.get_docstring(child) and not any(
                ast.unparse(decorator) == "overload" for decorator in child.decorator_list
            ):
                yield f"{place}: {child.name}"

    files = [
        path for top in ("rmas", "experiments", "launch") for path in (root / top).rglob("*.py")
    ]
    return [
        place
        for path in sorted(files)
        for place in visit(ast.parse(path.read_text()), str(path.relative_to(root)))
    ]


def test_every_public_name_is_documented(tmp_path):
    assert undocumented(ROOT) == []
    (tmp_path / "rmas").mkdir()
    (tmp_path / "rmas" / "a.py").write_text(
        '"""A."""\nclass B:\n    """B."""\n    def c(self): ...\ndef _d(): ...\ndef e(): ...\n'
    )
    assert undocumented(tmp_path) == ["rmas/a.py: B: c", "rmas/a.py: e"]
