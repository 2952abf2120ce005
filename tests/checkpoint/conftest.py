"""A web server of a test's own, and caches that are empty."""
import pytest

from helpers.web import serving


@pytest.fixture
def web():
    with serving() as web:
        yield web


@pytest.fixture(autouse=True)
def empty_caches(tmp_path_factory, monkeypatch):
    from huggingface_hub import constants

    folder = tmp_path_factory.mktemp("caches")
    monkeypatch.setenv("FVCORE_CACHE", str(folder / "detectron2"))
    monkeypatch.setenv("TORCH_HOME", str(folder / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
    return folder


@pytest.fixture
def hub(web, monkeypatch):
    """``hub(repository, **files)`` puts files, by their names and as bytes, into a hub of the Hugging Face kind."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", web.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE",
                        web.address + "/{repo_id}/resolve/{revision}/{filename}")

    def publish(repository, files):
        for name in ("config.json", "preprocessor_config.json", "model.safetensors", "pytorch_model.bin",
                     "model.safetensors.index.json"):
            headers = {"X-Repo-Commit": "c" * 40}
            web.pages[f"/{repository}/resolve/main/{name}"] = (
                (200, {**headers, "ETag": f'"{name}"'}, files[name]) if name in files else
                (404, {**headers, "X-Error-Code": "EntryNotFound"}, b""))
    return publish


@pytest.fixture
def no_network(monkeypatch):
    """Neither hub nor web answers, and nobody waits for them."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
