import subprocess
import sys

import pytest

from utils.host_memory import keep_freed_memory

# Page faults of 20 rounds of allocating, filling and freeing 64 MB.
COUNT = """
import resource, torch
from utils.host_memory import keep_freed_memory
if {keep}:
    keep_freed_memory()
for _ in range(20):  # the heap finds its size
    torch.ones(16 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(16 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(keep: bool) -> int:
    command = [sys.executable, "-c", COUNT.format(keep=keep)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc")
def test_freed_memory_is_reused_without_page_faults():
    assert page_faults(keep=True) < page_faults(keep=False) / 10


def test_it_may_be_called_again():
    assert keep_freed_memory() == keep_freed_memory()
