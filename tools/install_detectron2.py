"""Install Detectron2 into the running interpreter's environment; needs the standard library and pip only.

Detectron2 has no release on PyPI. Three sources are tried in this order:

1. an importable ``detectron2`` is left as it is;
2. the official repository at a pinned commit (needs git, access to it and a C++ compiler);
3. the complete pure-Python copy of Detectron2 0.6 (Apache-2.0) inside the PyPI wheel ``labgym``, checked by its
   sha256 and repacked as a local wheel named ``detectron2``, so that pip can list and remove it. It lacks the compiled
   module ``_C`` (rotated boxes, deformable convolution, the C++ COCO evaluation), which FreqDINO never uses.

Run ``python tools/install_detectron2.py`` with the interpreter that should get it.
"""
import base64
import csv
import hashlib
import importlib.util
import io
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

REPOSITORY = "https://github.com/facebookresearch/detectron2"
COMMIT = "02b5c4e295e990042a714712c21dc79b731e8833"
REACH_SECONDS = 15
BUILD_SECONDS = 900

CARRIER = "labgym==3.1.2"
CARRIER_SHA256 = "a2900cff8a3fb508e1975f19b5f9abd9f261966db87b0c332697fb4138c1cb2b"
CARRIED_PACKAGE = "LabGym/detectron2/"
CARRIED_IMPORT = b"LabGym.detectron2"
VERSION = "0.6"
# Detectron2's own run-time needs. setuptools: its model zoo imports pkg_resources, which setuptools 82 dropped.
REQUIRES = ("Pillow>=7.1", "matplotlib", "termcolor>=1.1", "yacs>=0.1.8", "tabulate", "cloudpickle", "tqdm>4.29.0",
            "tensorboard", "fvcore>=0.1.5", "iopath>=0.1.9", "omegaconf>=2.1", "hydra-core>=1.1", "packaging",
            "pycocotools>=2.0.2", "setuptools<81")


class InstallError(RuntimeError):
    """A step failed; the message names the step and the remedy."""


def pip(*args, timeout=None):
    """Run pip of this interpreter, quietly; raises CalledProcessError or TimeoutExpired."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *args]
    subprocess.run(command, check=True, timeout=timeout, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def official_source_is_reachable():
    """True if git can talk to the official repository within REACH_SECONDS."""
    if shutil.which("git") is None:
        return False
    try:
        subprocess.run(["git", "-c", "http.lowSpeedTime=10", "ls-remote", "--exit-code", REPOSITORY, "HEAD"],
                       check=True, timeout=REACH_SECONDS, stdin=subprocess.DEVNULL, capture_output=True)
    except (subprocess.SubprocessError, OSError):
        return False
    return True


def install_official():
    """Build the pinned commit; True if that worked."""
    if not official_source_is_reachable():
        print("  official source: not reachable from here")
        return False
    try:
        pip("install", "-q", "--retries", "0", "--no-build-isolation", f"git+{REPOSITORY}@{COMMIT}",
            timeout=BUILD_SECONDS)
    except subprocess.SubprocessError as error:
        last_line = (getattr(error, "output", None) or str(error)).strip().splitlines()[-1]
        print(f"  official source: did not build ({last_line})")
        return False
    return True


def download_carrier(folder):
    """Fetch the carrier wheel into ``folder`` and check its hash; returns its path."""
    try:
        pip("download", "-q", "--no-deps", "--ignore-requires-python", "--only-binary=:all:", "-d", str(folder),
            CARRIER)
    except subprocess.CalledProcessError as error:
        raise InstallError(f"downloading {CARRIER} failed:\n{error.output}\n"
                           "Remedy: check that pip reaches its package index (pip config list), or install detectron2 "
                           "yourself; an importable detectron2 is used as it is.") from error
    wheel, = folder.glob("*.whl")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != CARRIER_SHA256:
        raise InstallError(f"{wheel.name} has sha256 {digest}, expected {CARRIER_SHA256}.\n"
                           "Remedy: the index serves another file under this name; do not use it.")
    return wheel


def repack(carrier, folder):
    """Write the carried detectron2 as a wheel of its own into ``folder``; the same input gives the same bytes."""
    info = f"detectron2-{VERSION}.dist-info"
    metadata = "\n".join(["Metadata-Version: 2.1", "Name: detectron2", f"Version: {VERSION}", "License: Apache-2.0",
                          f"Summary: Detectron2 {VERSION}, pure Python, repacked from {CARRIER}",
                          *(f"Requires-Dist: {need}" for need in REQUIRES)]) + "\n"
    files = {}
    with zipfile.ZipFile(carrier) as source:
        for name in sorted(source.namelist()):
            if name.startswith(CARRIED_PACKAGE) and not name.endswith("/"):
                files[name[len("LabGym/"):]] = source.read(name).replace(CARRIED_IMPORT, b"detectron2")
    files[f"{info}/METADATA"] = metadata.encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: freqdino\nRoot-Is-Purelib: true\nTag: py3-none-any\n"

    record = io.StringIO()
    rows = csv.writer(record, lineterminator="\n")
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.writerow((name, f"sha256={digest}", len(content)))
    rows.writerow((f"{info}/RECORD", "", ""))
    files[f"{info}/RECORD"] = record.getvalue().encode()

    wheel = folder / f"detectron2-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in files.items():
            target.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return wheel


def main():
    if importlib.util.find_spec("detectron2") is not None:
        print("  detectron2: already importable, left as it is")
        return
    if install_official():
        print(f"  detectron2: official source at {COMMIT[:12]}")
        return
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        wheel = repack(download_carrier(folder), folder)
        try:
            pip("install", "-q", str(wheel))
        except subprocess.CalledProcessError as error:
            raise InstallError(f"installing {wheel.name} failed:\n{error.output}\n"
                               "Remedy: the lines above name the package; install it with pip, then run "
                               "again.") from error
    print(f"  detectron2: {VERSION}, pure Python, from {CARRIER} (sha256 checked)")


if __name__ == "__main__":
    try:
        main()
    except InstallError as error:
        sys.exit(f"install_detectron2: {error}")
