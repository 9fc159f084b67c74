"""The installed package: a light import, one version, type information, declared dependencies, import paths."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastsam_core

ROOT = Path(__file__).parents[1]
HEAVY = ("cv2", "PIL", "tqdm", "safetensors", "platformdirs", "matplotlib", "skimage", "pandas", "transformers")


def test_import_loads_no_heavy_modules() -> None:
    code = (
        "import sys, torch, numpy; before = set(sys.modules); import fastsam_core; fastsam_core.__version__; "
        "print(*(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    added = done.stdout.split()
    assert "fastsam_core" in added
    assert not [name for name in added if name.split(".")[0] in HEAVY]
    # On top of torch, the import adds a few modules of the package, and nothing that compiles or inspects code.
    assert not [name for name in added if name.startswith(("torch._dynamo", "torch._inductor", "triton"))]
    assert len([name for name in added if name.startswith("fastsam_core")]) <= 3


def test_public_names_are_loaded_on_first_use() -> None:
    for name in fastsam_core.__all__:
        assert getattr(fastsam_core, name) is not None
        assert name in dir(fastsam_core)
    with pytest.raises(AttributeError, match="no_such_name"):
        fastsam_core.no_such_name  # noqa: B018


def test_version_matches_the_metadata() -> None:
    assert fastsam_core.__version__ == importlib.metadata.version("fastsam_core")


def test_py_typed_is_installed() -> None:
    assert (Path(fastsam_core.__file__).parent / "py.typed").is_file()


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("models.sam", ["SAM", "Predictor"]),
        ("models.sam.model", ["SAM"]),
        ("models.sam.predict", ["Predictor"]),
        ("models.fastsam", ["FastSAM"]),
        ("models.fastsam.model", ["FastSAM"]),
        ("models.yolo", ["YOLO"]),
        ("utils", ["ASSETS"]),
        ("data.annotator", ["auto_annotate"]),
        ("data.converter", ["yolo_bbox2segment"]),
        ("engine.results", ["Results", "Boxes", "Masks"]),
    ],
)
def test_ultralytics_import_paths(path: str, names: list[str]) -> None:
    module = importlib.import_module(f"fastsam_core.{path}")
    for name in names:
        assert getattr(module, name) is getattr(fastsam_core, name)
    with pytest.raises(AttributeError):
        module.no_such_name  # noqa: B018


def test_ci_pins_the_oldest_allowed_dependencies() -> None:
    requirements = importlib.metadata.requires("fastsam_core") or []
    bounds = dict(re.findall(r"^([\w-]+)>=([\d.]+)$", "\n".join(requirements), re.MULTILINE))
    pins = dict(re.findall(r"^([\w-]+)==([\d.]+)", (ROOT / "requirements" / "oldest.txt").read_text(), re.MULTILINE))
    assert len(bounds) == 7 and bounds.keys() - pins.keys() == {"torch"}
    for name, pin in pins.items():
        assert f"{pin}.".startswith(f"{bounds[name]}."), name


def test_imported_packages_are_declared_requirements() -> None:
    """Every third-party module that the package imports is a requirement, except for the optional ones listed below."""
    paths = Path(fastsam_core.__file__).parent.rglob("*.py")
    nodes = [node for path in paths for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    imported = {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"fastsam_core"}
    imported -= {"IPython", "pyarrow", "rasterio", "ray", "skimage"}
    requirements = importlib.metadata.requires("fastsam_core") or []
    declared = {re.split("[>;]", line)[0] for line in requirements if "extra ==" not in line}
    assert {{"cv2": "opencv-python-headless", "PIL": "pillow"}.get(name, name) for name in imported} == declared
