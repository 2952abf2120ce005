"""Suite-wide settings: one thread, a fixed seed for every test, and `gpu` tests that skip without CUDA."""
import pytest
import torch

torch.set_num_threads(1)      # tiny tensors: more threads only wait for each other


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
