import json
import subprocess
import sys

import pytest

from utils.malloc import keep_freed_memory

# Page faults of 8 rounds of allocating, filling and freeing a block, under each setting.
COUNT = """
import json, resource, torch
from utils.malloc import keep_freed_memory

def page_faults(mib):
    for _ in range(8):  # the heap finds its size
        torch.ones(mib << 18)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(mib << 18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

counts = {"default": page_faults(64)}
assert keep_freed_memory(large=False)
counts |= {"without large": page_faults(64), "small": page_faults(16)}
assert keep_freed_memory()
print(json.dumps(counts | {"all": page_faults(64)}))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc")
def test_freed_memory_is_reused_without_page_faults_and_large_blocks_only_on_request():
    counts = json.loads(subprocess.check_output([sys.executable, "-c", COUNT]))
    assert counts["without large"] > counts["default"] / 2
    assert counts["small"] < counts["default"] / 100
    assert counts["all"] < counts["default"] / 10


def test_elsewhere_nothing_is_done(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
