import pytest
import torch
from hypothesis import settings

# Values are checked, never times; the first call in a process is slow for its own reasons.
settings.register_profile("objectives", deadline=None, max_examples=100, print_blob=True)
settings.load_profile("objectives")


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """The tensors here are tiny: threads only cost time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
