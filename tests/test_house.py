"""The laws of the house, checked on the source itself."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from loratory.config.fields import config_fields

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "loratory"

# A lower floor never imports a higher one; rooms of one floor may import each other, not in a circle.
FLOORS = {
    "errors": 0,
    "config": 1,
    "interop": 1,
    "run": 2,
    "data": 2,
    "tree": 2,
    "model": 3,
    "adapter": 4,
    "infer": 5,
    "objective": 6,
    "engine": 7,
    "evaluation": 8,
    "compare": 9,
    "report": 9,
    "export": 9,
    "sweep": 10,
    "plan": 10,
    "demo": 10,
    "prune": 10,
    "ui": 11,
    "cli": 12,
    "__main__": 13,
}
# These answer without torch: nothing heavy at the top of their modules.
LIGHT_ROOMS = {"errors", "config", "interop", "cli", "__main__", "__init__"}
HEAVY = {"torch", "transformers", "peft", "accelerate", "numpy", "safetensors", "tokenizers", "datasets", "rich"}
EXTRAS = {
    "bitsandbytes", "gguf", "jieba", "rouge_chinese", "nltk", "rouge_score", "sacrebleu", "datasets", "pyarrow",
    "lm_eval", "optuna", "plotly", "gradio", "fastapi", "uvicorn", "torch_pruning", "tensorboard", "wandb", "mlflow",
    "trackio", "submitit", "ray", "pandas",
}  # fmt: skip
MAX_LINES = 300
VAGUE_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}
SEES_WHOLE_CONFIG = {"config", "engine", "cli", "demo", "sweep", "plan", "prune", "ui"}


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def room_of(path: Path) -> str:
    part = path.relative_to(SOURCE).parts[0]
    return part.removesuffix(".py")


def imported(nodes: Iterator[ast.AST]) -> Iterator[tuple[str, int]]:
    """Dotted names of imported modules, and of what is imported from them, with line numbers."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def imports(path: Path) -> list[tuple[str, int]]:
    return list(imported(ast.walk(tree_of(path))))


def top_level_imports(path: Path) -> list[tuple[str, int]]:
    """Imports that run when the module is imported: not in a function, not under TYPE_CHECKING."""

    def visit(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            yield child
            yield from visit(child)

    return list(imported(visit(tree_of(path))))


def place(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def test_every_room_has_a_floor() -> None:
    rooms = {room_of(path) for path in modules()} - {"__init__"}
    assert rooms <= set(FLOORS), f"give these a floor: {rooms - set(FLOORS)}"


def test_no_floor_imports_a_higher_one() -> None:
    faults = []
    for path in modules():
        own = FLOORS.get(room_of(path), 0)
        for name, line in imports(path):
            parts = name.split(".")
            if parts[0] == "loratory" and len(parts) > 1 and FLOORS.get(parts[1], 0) > own:
                faults.append(f"{place(path, line)}: floor {own} imports {name}, floor {FLOORS[parts[1]]}")
    assert not faults, "\n".join(faults)


def test_rooms_do_not_import_in_a_circle() -> None:
    needs: dict[str, set[str]] = {}
    for path in modules():
        room = room_of(path)
        used = {name.split(".")[1] for name, _ in imports(path) if name.startswith("loratory.")}
        needs.setdefault(room, set()).update((used & set(FLOORS)) - {room})
    while needs:
        free = [room for room, used in needs.items() if not used & set(needs)]
        assert free, f"a circle among {sorted(needs)}: {needs}"
        for room in free:
            del needs[room]


def test_light_rooms_import_nothing_heavy() -> None:
    faults = [
        f"{place(path, line)}: {name}"
        for path in modules()
        if room_of(path) in LIGHT_ROOMS
        for name, line in top_level_imports(path)
        if name.split(".")[0] in HEAVY
    ]
    assert not faults, "\n".join(faults)


def test_optional_libraries_are_imported_where_they_are_used() -> None:
    faults = [
        f"{place(path, line)}: {name}"
        for path in modules()
        for name, line in top_level_imports(path)
        if name.split(".")[0] in EXTRAS
    ]
    assert not faults, "\n".join(faults)


def test_only_the_engine_and_the_commands_see_the_whole_configuration() -> None:
    faults = [
        place(path, line)
        for path in modules()
        if room_of(path) not in SEES_WHOLE_CONFIG
        for name, line in imports(path)
        if name.endswith(".RunConfig")
    ]
    assert not faults, "\n".join(faults)


def reads(node: ast.AST) -> set[str]:
    """Names of the attributes that the code below a node reads."""
    return {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Load)}


def test_every_configuration_field_is_read_somewhere() -> None:
    read: set[str] = set()
    for path in modules():
        if room_of(path) != "config":
            read |= reads(tree_of(path))
            continue
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef) and "property" in map(ast.unparse, node.decorator_list):
                read |= reads(node)
    unread = [key for key, field in config_fields().items() if field.name not in read]
    assert not unread, f"nobody reads {unread}"


def test_nothing_deserialises_objects() -> None:
    """Pickles and YAML objects can run code; whoever needs them writes an inert reader and is named here."""
    forbidden_modules = {"dill", "joblib", "shelve", "marshal", "cloudpickle"}
    forbidden = {f"{module}.{name}" for module in ("pickle", "yaml") for name in ("load", "loads", "Unpickler")}
    forbidden |= {"torch.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec"}
    faults = []
    for path in modules():
        faults += [
            place(path, line)
            for name, line in imports(path)
            if name.split(".")[0] in forbidden_modules or name in forbidden
        ]
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called == "np.load":
                    assert "allow_pickle=False" in ast.unparse(node), place(path, node.lineno)
                if called in forbidden or any(keyword.arg == "shell" for keyword in node.keywords):
                    faults.append(f"{place(path, node.lineno)}: {called}")
    assert not faults, "\n".join(faults)


def test_yaml_is_read_in_one_place() -> None:
    users = [path for path in modules() for name, _ in imports(path) if name.split(".")[0] == "yaml"]
    assert users == [SOURCE / "config" / "document.py"]


def test_module_names_say_what_is_inside() -> None:
    vague = [str(path.relative_to(ROOT)) for path in modules() if VAGUE_NAMES & set(path.with_suffix("").parts)]
    assert not vague


def test_modules_stay_small() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in modules()
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MAX_LINES
    }
    assert not long, f"split these: {long}"


def test_modules_and_public_names_have_docstrings() -> None:
    faults = []
    for path in modules():
        module = tree_of(path)
        if module.body and not ast.get_docstring(module):
            faults.append(place(path, 1))
        faults += [
            f"{place(path, node.lineno)}: {node.name}"
            for node in module.body
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
            and not node.name.startswith("_")
            and not ast.get_docstring(node)
        ]
    assert not faults, "\n".join(faults)


def test_public_names_exist() -> None:
    import importlib

    for path in modules():
        if path.name != "__init__.py":
            continue
        name = ".".join(path.parent.relative_to(SOURCE.parent).parts)
        module = importlib.import_module(name)
        missing = [each for each in getattr(module, "__all__", []) if not hasattr(module, each)]
        assert not missing, f"{name}: {missing}"


@pytest.mark.parametrize("word", ["/work" + "/", "/root" + "/", "pypi" + ".org", "download.pytorch" + ".org"])
def test_no_file_names_a_machine_or_a_registry(word: str) -> None:
    folders = ["src", "tests", "docs", "examples", "benchmarks", ".ci"]
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    files += [path for path in ROOT.iterdir() if path.is_file()]
    suffixes = {".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".json", ".cfg", ""}
    named = [
        str(path.relative_to(ROOT))
        for path in files
        if path.suffix in suffixes and "__pycache__" not in path.parts and word in path.read_text("utf-8", "replace")
    ]
    assert not named
