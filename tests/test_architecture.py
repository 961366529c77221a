"""Who may import what, and what nobody may do: read from the source, without running it."""

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [p for package in ("sv_core", "nodes", "training") for p in (ROOT / package).rglob("*.py")]
SOURCES = {p.relative_to(ROOT).as_posix(): p.read_text("utf-8") for p in sorted(FILES)}
every_file = pytest.mark.parametrize("name", SOURCES)
UNSAFE = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
TRIES_CODE_OF_OTHERS = {"nodes/samplers/coarse.py", "nodes/samplers/any_sampler.py"}
"""Runs the samplers of other packs without a model, which may raise whatever they like."""
SHAPELESS_NAMES = {"utils.py", "common.py", "helpers.py", "misc.py"}


def imports(tree: ast.AST, name: str) -> set[tuple[str, bool]]:
    """(first package of what is imported, whether relatively) for every import of a file."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {(alias.name.split(".")[0], False) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = name.split("/")[: -node.level] if node.level else []
            for alias in node.names:
                path = [*above, *(node.module or "").split("."), alias.name]
                found.add((next(filter(None, path)), node.level > 0))
    return found


def imported(name: str) -> set[str]:
    """The files of this repository that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(SOURCES[name])):
        if not isinstance(node, ast.ImportFrom):
            continue
        above = name.split("/")[: -node.level] if node.level else []
        base = [*above, *(node.module.split(".") if node.module else [])]
        for path in (base, *([*base, alias.name] for alias in node.names)):
            found.add("/".join(path) + ".py")
    return (found & SOURCES.keys()) - {name}


def calls(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


@every_file
def test_imports_go_one_way(name):
    modules = imports(ast.parse(SOURCES[name]), name)
    if name.startswith("sv_core/"):  # loaded under two names, so itself only relatively
        allowed = {*sys.stdlib_module_names, "torch", "numpy", "einops"}
        assert {m for m, relative in modules if not relative} <= allowed
        assert {m for m, relative in modules if relative} <= {"sv_core"}
    elif name.startswith("nodes/"):
        assert {m for m, relative in modules if relative} <= {"nodes", "sv_core"}
        assert not {m for m, _ in modules} & {"training"}
        assert ("sv_core", False) not in modules
    else:
        assert {m for m, relative in modules if relative} <= {"training"}
        assert not {m for m, _ in modules} & {"nodes"}


# Which folders of training/ a folder imports from. Each stands on those before it, so there is no
# circle; the tools in training/ itself (files, rng and others) stand on none, the commands on any.
FLOORS: dict[str, set[str]] = {
    "config": set(),
    "engine": {"config"},
    "data": {"config"},
    "networks": {"config", "data", "engine"},
    "encoders": {"networks"},
    "sampling": {"networks"},
    "objectives": {"config", "data", "engine", "networks"},
    "caching": {"config", "data", "encoders", "networks"},
    "run": {
        "caching", "config", "data", "encoders", "engine", "networks", "objectives", "sampling",
    },
    "toy": set(),
    "evaluate": set(),
    "demo": {"config", "data", "networks", "run", "sampling"},
}  # fmt: skip


def floor(name: str) -> str:
    """The folder of training/ that a file is in; of a file in training/ itself, nothing."""
    return name.split("/")[1] if name.count("/") > 1 else ""


@pytest.mark.parametrize("name", [n for n in SOURCES if n.startswith("training/")])
def test_a_folder_of_the_trainer_stands_on_those_below_it(name):
    inside = {other for other in imported(name) if other.startswith("training/")}
    below = {floor(other) for other in inside} - {"", floor(name)}
    if floor(name):
        assert below <= FLOORS[floor(name)]
    elif "def main(" not in SOURCES[name]:
        assert not below


def test_the_trainer_s_folders_stand_in_order():
    names = list(FLOORS)
    assert {floor(n) for n in SOURCES if n.startswith("training/")} - {""} == set(names)
    assert all(below <= set(names[:i]) for i, below in enumerate(FLOORS.values()))


def test_no_files_import_each_other_in_a_circle():
    files = TopologicalSorter({n: imported(n) for n in SOURCES if not n.endswith("__init__.py")})
    files.prepare()  # raises CycleError, which names the circle


# training/config reads the configuration of a run, and what puts a run together takes it apart;
# everything below takes the sections, or the values, that it uses.
WHOLE_CONFIGURATION = {
    "training/run": {"checkpoint", "dry_run", "folder", "loop", "state", "step"},
    "training/demo": {"show"},
    "training": {"finetune"},
}


@pytest.mark.parametrize("name", [n for n in SOURCES if n.startswith("training/")])
def test_only_what_builds_a_run_sees_its_whole_configuration(name):
    names = {
        alias.name
        for node in ast.walk(ast.parse(SOURCES[name]))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    folder, _, file = name.rpartition("/")
    if folder == "training/config":
        return
    assert "Config" not in names or file[:-3] in WHOLE_CONFIGURATION.get(folder, set())


# Of the host other rooms of nodes/ see its public interface and where its folders are. Everything
# else of it, comfy.* above all, is behind functions of nodes/host/.
HOST_IN_NODES = {"comfy_api.latest", "folder_paths"}
LIBRARIES_IN_NODES = {"PIL", "numpy", "torch", "tqdm"}


@pytest.mark.parametrize("name", [n for n in SOURCES if n.startswith("nodes/")])
def test_only_nodes_host_knows_the_host_s_own_modules(name):
    if name.startswith("nodes/host/"):
        return
    tree = ast.parse(SOURCES[name])
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules.add(node.module)
    own = {m for m in modules if m.split(".")[0] in {*sys.stdlib_module_names, *LIBRARIES_IN_NODES}}
    assert modules - own <= HOST_IN_NODES
    assert "importlib" not in {m.split(".")[0] for m in modules}


@pytest.mark.parametrize("name", [n for n in SOURCES if not n.startswith("training/")])
def test_files_and_functions_are_short(name):
    assert len(SOURCES[name].splitlines()) <= 400
    functions = [
        node
        for node in ast.walk(ast.parse(SOURCES[name]))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name != "define_schema"  # as long as a node has inputs
    ]
    assert not [f.name for f in functions if f.end_lineno - f.lineno >= 60]


def test_the_pack_imports_nothing_until_asked():
    tree = ast.parse((ROOT / "__init__.py").read_text("utf-8"))
    assert not [
        node
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Try | ast.If)
    ]


@every_file
def test_nothing_that_runs_code_from_data(name):
    tree = ast.parse(SOURCES[name])
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.module not in UNSAFE
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) in UNSAFE:
            assert node.attr == "UnpicklingError"  # which torch.load raises
    for call in calls(tree):
        function = ast.unparse(call.func)
        assert function not in ("eval", "exec", "compile", "__import__")
        if function == "torch.load":
            assert "weights_only=True" in map(ast.unparse, call.keywords)


@every_file
def test_only_the_interpolant_knows_alpha_and_sigma(name):
    made = [ast.unparse(call.func).split(".")[-1] for call in calls(ast.parse(SOURCES[name]))]
    assert name == "sv_core/interpolant.py" or "Interpolant" not in made


@every_file
def test_files_are_named_after_what_is_in_them(name):
    assert Path(name).name not in SHAPELESS_NAMES


@pytest.mark.parametrize("name", [name for name in SOURCES if not name.startswith("sv_core/")])
def test_a_mistake_of_the_user_is_told_from_a_defect(name):
    tree = ast.parse(SOURCES[name])
    raised = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc]
    assert "ValueError" not in [ast.unparse(getattr(e, "func", e)) for e in raised]
    caught = [
        set(ast.unparse(node.type).strip("()").split(", ")) if node.type else {"BaseException"}
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
    ]
    if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
        assert not set().union(*caught) & {"ValueError", "OSError", "Exception", "BaseException"}
    elif name.startswith("nodes/"):  # what a library says of a file comes in several classes
        assert {"ValueError"} not in caught
        assert {"Exception"} not in caught or name in TRIES_CODE_OF_OTHERS


@pytest.mark.parametrize("name", [name for name in SOURCES if name.startswith("sv_core/")])
def test_everything_public_in_the_core_says_what_it_is(name):
    tree = ast.parse(SOURCES[name])
    public = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]
    assert not [node.name for node in (tree, *public) if not ast.get_docstring(node)]
