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

found = {"default": page_faults(64)}
assert keep_freed_memory(large=False)
found |= {"without large": page_faults(64), "small": page_faults(16)}
assert keep_freed_memory() == keep_freed_memory()
found["all"] = page_faults(64)
print(json.dumps(found))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc")
def test_freed_memory_is_reused_without_page_faults_and_large_blocks_only_on_request():
    command = [sys.executable, "-c", COUNT]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["without large"] > found["default"] / 2
    assert found["small"] < found["default"] / 100
    assert found["all"] < found["default"] / 10


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_elsewhere_nothing_is_done(monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    assert not keep_freed_memory()
