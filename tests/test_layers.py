"""The map in agent/__init__.py holds: imports point upwards, functions are short, `import agent` is cheap."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import agent

ROOT = Path(agent.__file__).parent
FILES = sorted(path for path in ROOT.rglob("*.py") if "_prompts" not in path.parts)
SANDBOX_MAY_USE = {"model", "domain", "phones", "settings"}
LONGEST = 60


def steps() -> list[str]:
    """The rows of the map, in order; `sandbox/` and `interfaces/` stand for their folders."""
    return re.findall(r"^    ([a-z_]+)/?  +\S", agent.__doc__ or "", flags=re.MULTILINE)


def module(path: Path) -> str:
    """`agent.gate`, `agent.sandbox.api`, `agent`."""
    parts = ("agent", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def step(name: str) -> str:
    """The row of the map that a module belongs to; "" is the package itself."""
    return name.split(".")[1] if "." in name else ""


def position(name: str) -> int:
    found = step(name)
    if found == "__main__":
        return len(steps())
    return steps().index(found) if found else -1


def own_imports(path: Path) -> Iterator[tuple[ast.stmt, str, list[ast.AST]]]:
    """Every import of our own package: the statement, the module it names, and what encloses it."""
    stack: list[tuple[ast.AST, list[ast.AST]]] = [(ast.parse(path.read_text()), [])]
    modules = {module(one) for one in FILES}
    while stack:
        node, above = stack.pop()
        stack += [(child, [*above, node]) for child in ast.iter_child_nodes(node)]
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = module(path) if path.name == "__init__.py" else module(path).rpartition(".")[0]
            levels = package.split(".")[: len(package.split(".")) - max(0, node.level - 1)]
            base = ".".join([*(levels if node.level else []), *([node.module] if node.module else [])])
            full = [f"{base}.{alias.name}" for alias in node.names]
            names = [one if one in modules else base for one in full]
        else:
            continue
        for name in names:
            if name == "agent" or name.startswith("agent."):
                yield node, name, above


def title(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_map_names_every_module_and_no_other() -> None:
    rows = steps()
    there = {step(module(path)) for path in FILES} - {"", "__main__"}
    assert len(rows) == len(set(rows)) >= 12
    assert there - set(rows) == set(), "not in the map of agent/__init__.py"
    # Not one direction only: a row for a file that is gone misleads as much.
    missing = {row for row in rows if not (ROOT / row).is_dir() and not (ROOT / f"{row}.py").exists()}
    assert missing == set(), "in the map, but no such file"


@pytest.mark.parametrize("path", FILES, ids=title)
def test_imports_point_upwards(path: Path) -> None:
    name = module(path)
    if name == "agent":
        return
    wrong = []
    for node, target, _ in own_imports(path):
        inside = step(target) == step(name)
        if step(name) == "sandbox":
            fine = inside or step(target) in SANDBOX_MAY_USE
        else:
            fine = target != "agent" and (position(target) < position(name) or (inside and target != name))
        if not fine:
            wrong.append(f"{title(path)}:{node.lineno} imports {target}")
    assert wrong == []


@pytest.mark.parametrize("path", FILES, ids=title)
def test_our_own_package_is_imported_at_the_top_of_a_file(path: Path) -> None:
    if title(path) in ("cli.py", "__main__.py", "__init__.py"):
        return
    hidden = [
        f"{title(path)}:{node.lineno} imports {target}"
        for node, target, above in own_imports(path)
        if any(not isinstance(one, ast.Module) for one in above)
    ]
    assert hidden == []


def test_the_package_imports_its_agent_lazily_and_nothing_else() -> None:
    found = [(target, [type(one) for one in above]) for _, target, above in own_imports(ROOT / "__init__.py")]
    assert found
    assert {target for target, _ in found} == {"agent.loop"}
    assert all(ast.FunctionDef in above for _, above in found)


def cycles(graph: dict[str, set[str]]) -> list[str]:
    """The modules that import themselves by a detour."""
    reached = {name: set(targets) for name, targets in graph.items()}
    for _ in graph:
        reached = {name: seen.union(*(graph.get(one, set()) for one in seen)) for name, seen in reached.items()}
    return [name for name, seen in reached.items() if name in seen]


def test_no_module_imports_itself_by_a_detour() -> None:
    graph = {module(path): {target for _, target, _ in own_imports(path)} for path in FILES if path != ROOT}
    graph.pop("agent")
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    assert cycles(graph) == []


def run_python(code: str) -> str:
    command = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT.parent)!r})\n{code}"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


NEW_MODULES = """
before = set(sys.modules)
import {name}
for loaded in sorted(set(sys.modules) - before):
    top = loaded.partition(".")[0]
    if top != "agent" and top not in sys.stdlib_module_names:
        print(top)
"""


def test_importing_the_package_alone_loads_no_third_party_package() -> None:
    assert run_python(NEW_MODULES.format(name="agent")).split() == []
    # The probe can see one.
    assert "httpx" in run_python(NEW_MODULES.format(name="httpx")).split()


def test_the_agent_is_there_by_its_public_name() -> None:
    from agent import Agent
    from agent.loop import Agent as same

    assert Agent is same
    assert not hasattr(agent, "Nonsense")


@pytest.mark.parametrize("path", FILES, ids=title)
def test_functions_are_short(path: Path) -> None:
    long = [
        f"{title(path)}:{node.lineno} {node.name} has {length} lines"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (length := (node.end_lineno or 0) - node.lineno + 1) > LONGEST
    ]
    assert long == []


@pytest.mark.parametrize("path", FILES, ids=title)
def test_each_file_says_what_it_holds_and_the_environment_is_read_in_one(path: Path) -> None:
    source = path.read_text()
    tree = ast.parse(source)
    assert not tree.body or ast.get_docstring(tree), f"{title(path)} has no docstring"
    if path.name != "settings.py":
        reads = [
            node.lineno
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and node.attr in ("environ", "getenv")
            and ast.unparse(node.value) == "os"
        ]
        assert reads == [], f"{title(path)} reads the environment"
