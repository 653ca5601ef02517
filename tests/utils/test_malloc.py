import subprocess
import sys

import pytest

from utils.malloc import keep_freed_memory

# Page faults of 20 rounds of allocating, filling and freeing a block.
COUNT = """
import resource, torch
from utils.malloc import keep_freed_memory
if {keep}:
    keep_freed_memory(large={large})
for _ in range(20):  # the heap finds its size
    torch.ones({mib} << 18)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones({mib} << 18)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mib: int, *, keep: bool, large: bool = True) -> int:
    command = [sys.executable, "-c", COUNT.format(mib=mib, keep=keep, large=large)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc")
def test_freed_memory_is_reused_without_page_faults():
    by_default = page_faults(64, keep=False)
    assert page_faults(64, keep=True) < by_default / 10
    assert page_faults(16, keep=True, large=False) < by_default / 100


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc")
def test_large_blocks_go_back_to_the_kernel_if_they_are_not_kept():
    assert page_faults(64, keep=True, large=False) > page_faults(64, keep=False) / 2


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_elsewhere_nothing_is_done(monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    assert not keep_freed_memory()


def test_it_may_be_called_again():
    assert keep_freed_memory() == keep_freed_memory()
