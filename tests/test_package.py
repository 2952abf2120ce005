"""The package as a whole: what importing costs and needs, the doors to it, and the house rules that no linter sees."""
import ast
import json
import os
import re
import runpy
import subprocess
import sys
from importlib import import_module
from importlib.metadata import entry_points

import pytest

from helpers.paths import ROOT

PACKAGE = ROOT / "freqdino"
FILES = sorted(PACKAGE.rglob("*.py"))
COMMANDS = sorted(file.stem for file in (PACKAGE / "commands").glob("*.py")
                  if file.stem not in ("__init__", "command_line"))
PREPARATIONS = ["ade20k_instance", "ade20k_panoptic", "ade20k_sem_seg", "coco_semantic", "coco_stuff"]
WITHOUT_DOOR = {"quickstart_options"}                      # for a script of tools/
# The exception runs before any dependency is there.
DOORS = sorted(file for pattern in ("*.py", "tools/*.py", "datasets/*.py") for file in ROOT.glob(pattern)
               if file.name not in ("setup.py", "install_detectron2.py"))


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def report_of(program, *arguments, **environment):
    """What a program in a fresh interpreter, away from the repository, prints as JSON."""
    run = subprocess.run([sys.executable, "-c", program, *arguments], cwd="/", capture_output=True, text=True,
                         timeout=120, env={**os.environ, **environment})
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_importing_the_package_imports_neither_torch_nor_detectron2():
    loaded = report_of("import freqdino, json, sys; print(json.dumps(sorted(sys.modules)))")
    assert not {"torch", "detectron2", "numpy"} & set(loaded)


def test_names_of_the_package():
    import freqdino

    assert freqdino.load_config is import_module("freqdino.config").load_config
    assert {callable(getattr(freqdino, name)) for name in freqdino.__all__} == {True}
    with pytest.raises(AttributeError, match="has no attribute 'load_confg'"):
        freqdino.load_confg  # an expression for its error


REGISTERED = """
import json, sys
import freqdino
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog
from detectron2.modeling import META_ARCH_REGISTRY
before = "MaskDINO" in META_ARCH_REGISTRY or "freqdino_scenes_val" in DatasetCatalog
if sys.argv[1] == "load_config":
    freqdino.load_config()
elif sys.argv[1] == "add_freqdino_config":
    freqdino.add_freqdino_config(get_cfg())
else:
    try:
        freqdino.Predictor(get_cfg())       # without weights
    except ValueError:
        pass
print(json.dumps([before, "MaskDINO" in META_ARCH_REGISTRY, "freqdino_scenes_val" in DatasetCatalog]))
"""


@pytest.mark.parametrize("name", ["load_config", "add_freqdino_config", "Predictor"])
def test_models_and_data_sets_are_registered_at_first_use(name):
    assert report_of(REGISTERED, name) == [False, True, True]


FAILING = """
import json, sys
import freqdino

class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "freqdino.modeling.mask_dino_criterion":
            raise OSError("the first cause")

sys.meta_path.insert(0, Broken())
said = []
for call in (freqdino.register, freqdino.register, lambda: freqdino.load_config()):
    try:
        call()
    except Exception as error:
        said.append(f"{type(error).__name__}: {error}")
sys.meta_path.pop(0)
print(json.dumps(said))
"""


def test_a_registration_that_failed_tells_its_cause_every_time():
    assert report_of(FAILING) == 3 * ["OSError: the first cause"]


TAKEN = """
import json
from detectron2.modeling import META_ARCH_REGISTRY
import freqdino
META_ARCH_REGISTRY._do_register("MaskDINO", object)
said = []
for call in (freqdino.register, freqdino.load_config):
    try:
        call()
    except ImportError as error:
        said.append("MaskDINO" in str(error) and "import one of them" in str(error))
print(json.dumps(said))
"""


def test_a_published_name_that_another_project_has_taken():
    assert report_of(TAKEN) == [True, True]


WITHOUT = """
import contextlib, importlib, importlib.util, io, json, pkgutil, sys

class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        hidden = name.split(".")[0] in sys.argv[1:]
        return None if hidden else self.finder.find_spec(name, path, target)

sys.meta_path = [Without(finder) for finder in sys.meta_path]
assert importlib.util.find_spec("detectron2") is None
"""
FREQUENCY_MODULES = WITHOUT + """
import freqdino.frequency, freqdino.layers, freqdino.ops
for package in (freqdino.frequency, freqdino.layers, freqdino.ops):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
print(json.dumps(freqdino.frequency.__all__))
"""
REMEDIES = WITHOUT + """
ARGUMENTS = {"train": ["--config-file", "x.yaml"], "report": ["run"],
             "demo": ["--config-file", "x.yaml", "--input", "a.jpg", "--output", "b"],
             "visualize_data": ["--config-file", "x.yaml", "--output", "b"], "analyze_model": ["x.yaml"],
             "analyze_frequency": ["all", "--config-file", "x.yaml", "--input", "a.jpg", "--output", "b"],
             "convert_weights": ["a.pth", "b.pth", "--config-file", "x.yaml"], "ablation": [],
             "benchmark": ["models"], "prepare": ["coco_stuff"], "check_data": ["a.json@b"],
             "convert_data": ["labelme:a", "b.json"],
             "check_gpu": ["--device", "cpu"], "export": ["--weights", "a", "--output", "b.onnx"]}
import freqdino
said = {}
for command, arguments in ARGUMENTS.items():
    module, error = importlib.import_module(f"freqdino.commands.{command}"), io.StringIO()
    with contextlib.redirect_stderr(error):
        try:
            status = module.run(arguments) if command == "train" else module.main(arguments)
        except SystemExit as end:
            status = end.code
    said[command] = [status, error.getvalue()]
for name in ("freqdino.engine.trainer", "freqdino.engine.predictor", "freqdino.conversion.conversion",
             "freqdino.data", "freqdino.config", "freqdino.visualization.drawing", "freqdino.analysis.report.sections"):
    try:
        importlib.import_module(name)
    except ImportError as error:
        said[name] = [1, f"error: {error}"]
for name in freqdino.__all__:
    try:
        getattr(freqdino, name)
    except ImportError as error:
        said[name] = [1, f"error: {error}"]
print(json.dumps(said))
"""
BROKEN = """
import json
import freqdino.frequency
said = []
for name in freqdino.__all__:
    try:
        getattr(freqdino, name)
    except ImportError as error:
        said.append(str(error))
print(json.dumps(said))
"""


def test_frequency_modules_need_torch_alone():
    hidden = ["detectron2", "yaml", "fvcore", "iopath", "scipy", "timm", "torchvision", "pycocotools", "cv2", "PIL"]
    assert {"FreqFusion", "FDConv", "FDAMBlock"} <= set(report_of(FREQUENCY_MODULES, *hidden))


def test_what_needs_detectron2_says_how_to_get_it():
    said = report_of(REMEDIES, "detectron2")
    assert set(COMMANDS) - set(said) == {"summarize_run", "quickstart_options"}     # which do without
    assert len(said) == len(COMMANDS) - 2 + 7 + 3
    for name, (status, message) in said.items():
        assert status == 1 and message.startswith("error: FreqDINO's models need detectron2"), (name, message)
        assert "tools/setup_env.sh" in message and "Traceback" not in message


@pytest.mark.parametrize(("contents", "told"), [
    ("raise RuntimeError('built for another torch')", "RuntimeError: built for another torch"),
    ("raise ImportError('libcudart.so')", "ImportError: libcudart.so"),
    ("", "ModuleNotFoundError: No module named 'detectron2.config'")])
def test_a_broken_detectron2_does_not_break_the_frequency_modules(tmp_path, contents, told):
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2" / "__init__.py").write_text(contents)
    said = report_of(BROKEN, PYTHONPATH=str(tmp_path))
    assert len(said) == 3
    for message in said:
        assert f"importing it ends in {told}" in message
        assert "pip uninstall detectron2" in message and "tools/install_detectron2.py" in message


HELP = """
import contextlib, importlib, io, json, sys
loaded = {}
for name in sys.argv[1:]:
    module, text = importlib.import_module(f"freqdino.commands.{name}"), io.StringIO()
    with contextlib.redirect_stdout(text):
        try:
            (module.run if name == "train" else module.main)(["--help"])
        except SystemExit as end:
            assert end.code == 0 and "usage: " in text.getvalue() and "--help" in text.getvalue()
print(json.dumps(sorted({module.partition(".")[0] for module in sys.modules})))
"""


def test_help_answers_before_anything_heavy_is_imported():
    assert not {"torch", "detectron2", "numpy", "cv2", "matplotlib", "timm"} & set(report_of(HELP, *COMMANDS))


@pytest.mark.parametrize("path", DOORS, ids=name_of)
def test_a_script_is_a_door(path):
    """It imports one function and calls it."""
    lines = path.read_text().splitlines()
    assert len(lines) <= 12
    imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert [node.module.rpartition(".")[0] for node in imports] == ["freqdino.commands"]
    names = runpy.run_path(str(path))       # not as __main__: nothing is called
    assert callable(names.get("main", names.get("run")))


def test_every_command_has_a_door_and_a_console_command():
    doors = {path.stem for path in DOORS}
    commands = {"train_net" if name == "train" else name for name in COMMANDS} - WITHOUT_DOOR - {"prepare"}
    assert doors == commands | {f"prepare_{name}" for name in PREPARATIONS}
    installed = {entry.value for entry in entry_points(group="console_scripts") if entry.name.startswith("freqdino-")}
    assert installed == {f"freqdino.commands.{name}:{'run' if name == 'train' else 'main'}" for name in COMMANDS
                         if name not in WITHOUT_DOOR}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_house_rules(path):
    text = path.read_text()
    attributes = {node.func.attr for node in ast.walk(ast.parse(text))
                  if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)}
    assert "cuda" not in attributes and len(text.splitlines()) <= 330
    # One dialect: an arrow is ->, and what is raised and returned stands in sentences.
    assert not re.search(r"→|^ *(Raises|Returns|Yields):", text, re.MULTILINE)


@pytest.mark.parametrize("path", [path for path in FILES if path.relative_to(PACKAGE).parts[0] in (
    "ops", "layers", "frequency", "modeling")], ids=name_of)
def test_models_never_read_the_configuration(path):
    text = path.read_text()
    assert "cfg" not in {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    assert not re.search(r"\b(DATALOADER|DATASETS|INPUT|MODEL|SOLVER|TEST)\.[A-Z]", text)     # nor name its keys
