import ast
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

import effdet
from effdet.config import TASKS

PACKAGE = Path(effdet.__file__).resolve().parent
FILES = sorted(PACKAGE.rglob("*.py"))
# Rooms from left to right; a module imports only from its own room and from rooms to its left.
ROOMS = (
    *("types", "errors", "opencv", "text", "terminal", "console", "plain_data", "files", "folders", "version"),
    *("config", "devices", "distributed", "boxes", "report", "structures", "models", "weights", "losses"),
    *("postprocess", "data", "runtimes", "evaluation", "training", "inference", "diagnosis", "exporting"),
    *("api", "cli"),
)
PLAIN_ROOMS = {"boxes", "report", "structures", "models", "losses", "postprocess"}  # plain values in, tensors out
NOT_PLAIN = {"config", "data"}


def name_of(path):
    return path.relative_to(PACKAGE).as_posix()


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def own_imports(path):
    """Every room that a file imports from, wherever the import stands."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: relative import"
            modules = [
                f"{node.module}.{alias.name}" if node.module == "effdet" else node.module for alias in node.names
            ]
        else:
            continue
        for module in modules:
            package, *rest = module.split(".")
            if package == "effdet":
                yield rest[0] if rest else "", node.lineno


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def loaded_by(statement):
    """Top-level modules that a fresh interpreter holds after a statement."""
    return set(run_python(f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"))


FILES_IN_ROOMS = [path for path in FILES if path.parent != PACKAGE or not path.name.startswith("__")]


def test_every_module_is_in_a_room():
    assert {room_of(path) for path in FILES_IN_ROOMS} <= set(ROOMS)


@pytest.mark.parametrize("path", FILES_IN_ROOMS, ids=name_of)
def test_imports_go_one_way(path):
    own = ROOMS.index(room_of(path))
    for room, line in own_imports(path):
        if room == "__version__":  # of the package itself
            continue
        assert room in ROOMS, f"line {line}: imports effdet.{room}; import from the module that defines it"
        assert ROOMS.index(room) <= own, f"line {line}: {ROOMS[own]} imports from {room}, which stands to its right"


def module_of(path):
    """Dotted name of a file's module or package."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def imported_on_loading(path):
    """Modules of the package that a file imports when it is loaded: not inside functions, nor for type checkers."""
    for node in tree_of(path).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in names)


def test_no_module_imports_itself_through_others():
    imports = {name: sorted(set(imported_on_loading(path))) for name, path in MODULES.items()}
    assert sum(map(len, imports.values())) > 100
    finished = set()

    def visit(name, path):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in finished:
            for other in imports[name]:
                visit(other, [*path, name])
            finished.add(name)

    for name in imports:
        visit(name, [])


@pytest.mark.parametrize("path", [path for path in FILES_IN_ROOMS if room_of(path) in PLAIN_ROOMS], ids=name_of)
def test_networks_boxes_and_losses_see_neither_recipe_nor_data(path):
    assert not NOT_PLAIN & {room for room, _ in own_imports(path)}


@pytest.mark.parametrize("path", [path for path in FILES_IN_ROOMS if room_of(path) != "cli"], ids=name_of)
def test_only_the_command_line_parses_prints_and_exits(path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "exit", "quit", "input"), f"line {node.lineno}: {node.func.id}()"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) != ("sys", "exit"), f"line {node.lineno}: sys.exit"
        if isinstance(node, ast.Raise):
            assert "SystemExit" not in ast.dump(node), f"line {node.lineno}: SystemExit"
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None)]
            assert "argparse" not in names, f"line {node.lineno}: argparse"


@pytest.mark.parametrize("path", [path for path in FILES if path.read_text(encoding="utf-8").strip()], ids=name_of)
def test_every_file_says_what_it_is(path):
    assert ast.get_docstring(tree_of(path))


def test_the_public_names_are_those_of_all():
    assert dir(effdet) == sorted(effdet.__all__)
    for name in effdet.__all__:
        assert getattr(effdet, name) is not None


def test_type_checkers_see_the_public_names_too():
    (block,) = [node for node in tree_of(PACKAGE / "__init__.py").body if isinstance(node, ast.If)]
    names = {alias.name for statement in block.body for alias in statement.names}
    assert names == set(effdet.__all__) - {"__version__"}


def test_a_name_that_is_not_public_is_refused():
    with pytest.raises(AttributeError, match="has no attribute 'Trainer'"):
        effdet.Trainer  # noqa: B018


def section_in(annotation):
    """The section that a key of the recipe holds, optional or not; None for a plain value."""
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def sections(model, prefix=""):
    """Every section of a recipe with its dotted prefix, optional ones too."""
    yield prefix, model
    for name, field in model.model_fields.items():
        inner = section_in(field.annotation)
        if inner is not None:
            yield from sections(inner, f"{prefix}{name}.")


@pytest.mark.parametrize("task", TASKS)
def test_every_key_of_a_recipe_is_described(task):
    bare = [
        f"{prefix}{name}"
        for prefix, section in sections(TASKS[task])
        for name, field in section.model_fields.items()
        if not field.description and section_in(field.annotation) is None  # a section says what it is itself
    ]
    assert bare == []
    assert all(section.__doc__ for _, section in sections(TASKS[task]))


def test_optional_sections_are_among_those_described():
    found = {prefix for task in TASKS for prefix, _ in sections(TASKS[task])}
    assert {"data.val.", "progressive."} <= found


def test_importing_the_package_is_light():
    heavy = {"torch", "torchvision", "numpy", "cv2", "pycocotools", "pydantic", "rich", "yaml"}
    assert not heavy & loaded_by("import effdet")


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], [], ["train", "--help"], ["predict", "--help"], ["benchmark", "--help"]],
)
def test_asking_for_help_is_light(arguments):
    heavy = {"torch", "numpy", "cv2", "pydantic", "rich", "yaml"}
    loaded = loaded_by(f"import effdet.cli\ntry: effdet.cli.main({arguments})\nexcept SystemExit: pass")
    assert not heavy & loaded


def test_libraries_of_single_functions_load_when_used():
    statement = "import effdet.inference.predictor, effdet.training.engine"
    assert not {"cv2", "pycocotools", "matplotlib"} & loaded_by(statement)
