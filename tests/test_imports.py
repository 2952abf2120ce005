"""Who may import whom, what works without detectron2, and the house rules that a parser can see."""
import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "freqdino"
FILES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS_AND_TESTS = sorted([*ROOT.glob("*.py"), *ROOT.glob("datasets/*.py"), *ROOT.glob("tools/**/*.py"),
                            *ROOT.glob("tests/**/*.py")])
MAX_COLUMNS = 120
TORCH_ONLY = ("ops", "layers", "frequency")

# Part of the package -> the other parts that it may import. A part is a folder or a file at the top of the package.
MAY_IMPORT = {
    "ops": set(),
    "layers": {"ops"},
    "frequency": {"ops"},
    "modeling": {"layers", "ops"},
    "modeling/backbones": {"layers", "ops", "frequency"},
    "registration": {"modeling", "frequency", "layers", "config"},
    "data": {"segment_colors"},
    "evaluation": {"segment_colors"},
    "segment_colors": set(),
    "config": set(),
    "config_keys": set(),
    "solver": {"config"},
    "weight_averaging": set(),
    "checkpoint": {"config"},
    "checkpoint_files": {"config"},
    "checkpoint_names": set(),
    "__init__": {"config", "data", "registration"},
}


def name_of(path):
    return path.relative_to(PACKAGE).as_posix()


def part_of(path):
    """The row of MAY_IMPORT that rules a file."""
    name = name_of(path)
    if name.startswith("modeling/backbones/"):
        return "modeling/backbones"
    return name.split("/")[0].removesuffix(".py")


def files_of(*parts):
    return [path for path in FILES if part_of(path) in parts]


def imported_modules(path):
    """Absolute dotted names of everything that a file imports, wherever the statement stands."""
    here = ("freqdino", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[:len(here) - node.level + 1] if node.level else ()
            module = ".".join((*base, *((node.module,) if node.module else ())))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def is_family(part, other):
    """A part may import its own files; configuration and checkpoints are several files each."""
    return part.split("/")[0] == other or part.split("_")[0] == other.split("_")[0]


def test_table_names_every_part():
    assert {part_of(path) for path in FILES} == set(MAY_IMPORT)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_down_only(path):
    part, names = part_of(path), list(imported_modules(path))
    assert not {name.split(".")[0] for name in names} & {"tools", "train_net", "tests"}
    parts = {name.split(".")[1] for name in names if name.startswith("freqdino.")}
    assert {other for other in parts if not is_family(part, other)} <= MAY_IMPORT[part]


@pytest.mark.parametrize("path", files_of(*TORCH_ONLY), ids=name_of)
def test_lower_parts_need_torch_alone(path):
    packages = {name.split(".")[0] for name in imported_modules(path)}
    assert packages - set(sys.stdlib_module_names) <= {"torch", "freqdino"}


@pytest.mark.parametrize("path", files_of(*TORCH_ONLY, "modeling", "modeling/backbones"), ids=name_of)
def test_models_never_read_the_configuration(path):
    names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
    assert "cfg" not in names


WITHOUT_DETECTRON2 = """
import importlib.util, json, pkgutil, sys

class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        hidden = name.split(".")[0] in sys.argv[1:]
        return None if hidden else self.finder.find_spec(name, path, target)

sys.meta_path = [Without(finder) for finder in sys.meta_path]
assert importlib.util.find_spec("detectron2") is None

import freqdino.frequency, freqdino.layers, freqdino.ops
for package in (freqdino.frequency, freqdino.layers, freqdino.ops):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
try:
    freqdino.add_freqdino_config(None)
except ImportError as error:
    print(json.dumps({"error": str(error), "names": freqdino.frequency.__all__}))
"""


def test_frequency_modules_without_detectron2():
    hidden = ["detectron2", "yaml", "fvcore", "iopath", "scipy", "timm", "torchvision", "pycocotools", "cv2", "PIL"]
    run = subprocess.run([sys.executable, "-c", WITHOUT_DETECTRON2, *hidden], cwd=ROOT, capture_output=True, text=True,
                         timeout=120)
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert "detectron2" in report["error"] and "tools/setup_env.sh" in report["error"]
    assert {"FreqFusion", "FDConv", "FDAMBlock"} <= set(report["names"])


def test_names_that_the_package_exports_exist():
    import freqdino
    assert callable(freqdino.add_freqdino_config)
    assert freqdino.add_freqdino_config.__module__ == "freqdino.config"


def calls(tree):
    return [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_house_rules(path):
    text = path.read_text()
    tree = ast.parse(text)
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.type is None]
    assert not [func.lineno for func in calls(tree) if isinstance(func, ast.Name) and func.id == "print"]
    assert not [func.lineno for func in calls(tree) if isinstance(func, ast.Attribute) and func.attr == "cuda"]
    lines = text.splitlines()
    assert len(lines) <= 330
    assert not lines or ast.get_docstring(tree), "a file opens with what it is"


def test_line_lengths():
    long_lines = [f"{path.relative_to(ROOT)}:{number} has {len(line)} columns" for path in (*FILES, *SCRIPTS_AND_TESTS)
                  for number, line in enumerate(path.read_text().splitlines(), start=1) if len(line) > MAX_COLUMNS]
    assert not long_lines
