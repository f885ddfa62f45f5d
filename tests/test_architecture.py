"""The floors of the house, read off the syntax trees: imports go down only, and engines stay where they belong."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "s2l_ray"
FILES = sorted(PACKAGE.rglob("*.py"))

LOW = {"artifacts", "config", "core", "identity", "job_reading", "progress"}
# what the modules of each floor may import of this package; a module that stands on no floor fails
ALLOWED = {
    "artifacts": {"artifacts"},
    "core": {"core"},
    "config": set(),
    "job_reading": {"artifacts.errors", "config"},
    "progress": set(),
    "identity": {"artifacts", "config", "core.selectors"},
    "demo": {"demo_problems"},
    "demo_problems": set(),
    "runtime": {*LOW, "runtime"},
    "stages": {*LOW, "runtime", "stages.build"},
    "weights": {"artifacts", "config", "progress"},
    "pipeline": {*LOW, "runtime", "stages", "weights"},
    "export": {*LOW, "inventory"},
    "forecast": {*LOW, "pipeline"},
    "init_job": LOW,
    "inventory": LOW,
    "gc": {*LOW, "inventory"},
    "job_file": LOW,
    "terminal": {*LOW, "runtime", "pipeline", "forecast", "init_job", "inventory", "gc", "export", "terminal"},
    "cli": {
        *LOW,
        "runtime",
        "pipeline",
        "forecast",
        "init_job",
        "inventory",
        "gc",
        "job_file",
        "export",
        "demo",
        "terminal",
    },
    "__main__": {"cli"},
    "__init__": {"artifacts", "config", "job_reading", "pipeline"},
}
ENGINES = {"ray": {"runtime"}, "torch": {"core", "runtime", "stages"}, "transformers": {"core", "runtime", "stages"}}
LAZY = {"cuml", "vllm", "cupy", "datasets", "boto3"}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports(tree: ast.Module, top_level_only: bool = False) -> Iterator[str]:
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a name comes from"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def floor_of(module: str) -> str | None:
    return next((name for name in ALLOWED if module == name or module.startswith(f"{name}.")), None)


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_go_down(path: Path) -> None:
    module = module_name(path)
    floor = floor_of(module)
    own = [
        name.removeprefix("s2l_ray.") for name in imports(ast.parse(path.read_text())) if name.startswith("s2l_ray.")
    ]
    assert floor is not None, f"{module} stands on no floor; give it one"
    beside = (f"{module}_",) if floor == "stages" else ()
    allowed = ALLOWED[floor]
    wrong = [name for name in own if not any(name == one or name.startswith((f"{one}.", *beside)) for one in allowed)]
    assert not wrong, f"{module} imports {wrong}"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_engines_stay_on_their_floors(path: Path) -> None:
    module = module_name(path)
    for name in imports(ast.parse(path.read_text())):
        engine = name.split(".")[0]
        if engine in ENGINES:
            assert floor_of(module) in ENGINES[engine], f"{module} imports {engine}"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_heavy_libraries_are_imported_where_they_are_used(path: Path) -> None:
    top = {name.split(".")[0] for name in imports(ast.parse(path.read_text()), top_level_only=True)}
    assert not top & LAZY


def test_no_circles() -> None:
    graph = {
        module_name(path): {
            name.removeprefix("s2l_ray.").rsplit(".", 1)[0]
            for name in imports(ast.parse(path.read_text()), top_level_only=True)
            if name.startswith("s2l_ray.")
        }
        for path in FILES
    }
    settled: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, f"circle: {' -> '.join([*way, module])}"
        if module not in settled:
            for one in graph.get(module, set()):
                visit(one, (*way, module))
            settled.add(module)

    for module in graph:
        visit(module, ())


def test_the_driver_starts_without_torch_and_transformers() -> None:
    import subprocess
    import sys

    code = "import sys, s2l_ray.pipeline; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
