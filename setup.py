"""pip install -e . ; Detectron2 itself comes from tools/setup_env.sh, since PyPI has no release of it."""
import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "freqdino" / "__init__.py").read_text()).group(1)
# Console command -> function of freqdino.commands.
COMMANDS = {
    "freqdino-train": "train:run",
    "freqdino-demo": "demo:main",
    "freqdino-visualize-data": "visualize_data:main",
    "freqdino-check-data": "check_data:main",
    "freqdino-convert-data": "convert_data:main",
    "freqdino-check-gpu": "check_gpu:main",
    "freqdino-analyze-frequency": "analyze_frequency:main",
    "freqdino-analyze-model": "analyze_model:main",
    "freqdino-report": "report:main",
    "freqdino-summarize-run": "summarize_run:main",
    "freqdino-convert": "convert_weights:main",
    "freqdino-prepare": "prepare:main",
    "freqdino-benchmark": "benchmark:main",
    "freqdino-ablation": "ablation:main",
    "freqdino-export": "export:main",
}

setup(
    name="freqdino",
    version=VERSION,
    description="Frequency-aware segmentation for Detectron2: FreqFusion, FDConv and FDAM in Mask2Former and Mask DINO",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    # The configurations lie beside the package in a checkout and inside it where it is installed.
    packages=[*find_packages(include=["freqdino", "freqdino.*"]), "freqdino.configs"],
    package_dir={"freqdino.configs": "configs"},
    package_data={"freqdino": ["py.typed", "ARCHITECTURE.md"], "freqdino.data": ["categories/*.json"],
                  "freqdino.checkpoint": ["published.json"],
                  "freqdino.configs": ["README.md", "**/*.yaml"]},
    entry_points={"console_scripts": [f"{name} = freqdino.commands.{function}" for name, function in COMMANDS.items()]},
    python_requires=">=3.10",
    # Those that the suite was run on; README.md has the versions.
    classifiers=[f"Programming Language :: Python :: {version}" for version in ("3.10", "3.11", "3.13")],
    install_requires=[
        "torch>=2.6",
        "torchvision>=0.21",
        "fvcore>=0.1.5",
        "iopath>=0.1.9",
        "matplotlib>=3.5",
        "pycocotools>=2.0.6",
        "timm>=1.0.20",     # the first with DINOv3; tried: 1.0.31, and its vision transformers with 1.0.20
        "numpy>=1.23",
        "opencv-python-headless>=4.6",
        "pillow>=9.1",
        "pyyaml>=5.1",
        "scipy>=1.9",
        "tabulate>=0.8",
        "tensorboard>=2.9",
        "tqdm>=4.29",
    ],
    extras_require={
        "fast-eval": ["faster-coco-eval>=1.6"],
        "gpu": ["deformops>=3.0; python_version >= '3.12' and python_version < '3.14' and sys_platform == 'linux'"],
        "cityscapes": ["cityscapesscripts>=2.2"],
        "trackers": ["mlflow>=3.0"],
        "export": ["onnx>=1.17", "onnxscript>=0.5", "onnxruntime>=1.20"],
        "web": ["gradio>=6.31"],
        "test": ["pytest>=7", "safetensors>=0.4", "playwright>=1.40"],
    },
)
