"""pip install -e . ; Detectron2 itself comes from tools/setup_env.sh, since PyPI has no release of it."""
import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "freqdino" / "__init__.py").read_text()).group(1)

setup(
    name="freqdino",
    version=VERSION,
    description="Frequency-aware segmentation for Detectron2: FreqFusion, FDConv and FDAM in Mask2Former and Mask DINO",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    packages=find_packages(include=["freqdino", "freqdino.*"]),
    package_data={"freqdino.data": ["categories/*.json"]},
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.4",
        "torchvision>=0.19",
        "fvcore>=0.1.5",
        "iopath>=0.1.9",
        "pycocotools>=2.0.6",
        "timm>=1.0.9",
        "numpy>=1.23",
        "opencv-python-headless>=4.6",
        "pillow>=9.1",
        "pyyaml>=5.1",
        "scipy>=1.9",
        "tensorboard>=2.9",
    ],
    extras_require={
        "fast-eval": ["faster-coco-eval>=1.6"],
        "cityscapes": ["cityscapesscripts>=2.2"],
        "test": ["pytest>=7", "safetensors>=0.4", "playwright>=1.40"],
    },
)
