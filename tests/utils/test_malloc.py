import json
import subprocess
import sys

import pytest

from utils.malloc import keep_freed_memory, return_freed_memory

# Page faults of 8 rounds of allocating, filling and freeing a block, and MiB resident with holes.
COUNT = """
import json, re, resource, torch
from utils.malloc import keep_freed_memory, return_freed_memory

def page_faults():
    for _ in range(16):  # the heap finds its size
        torch.ones(64 << 18)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(64 << 18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(re.search("VmRSS: *(.*) kB", open("/proc/self/status").read())[1]) / 1024

found = {"default": page_faults()}
assert keep_freed_memory()
found["kept"] = page_faults()
blocks = [torch.ones(4 << 18) for _ in range(64)]
del blocks[:-1]
found["with a hole"] = resident()
return_freed_memory()
print(json.dumps(found | {"without": resident()}))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc")
def test_freed_memory_is_reused_without_page_faults_and_returned_on_request():
    found = json.loads(subprocess.check_output([sys.executable, "-c", COUNT]))
    assert found["kept"] < found["default"] / 10
    assert found["without"] < found["with a hole"] - 200  # of 252 MiB


def test_elsewhere_nothing_is_done(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
    return_freed_memory()
