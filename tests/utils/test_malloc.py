import json
import subprocess
import sys

import pytest

from utils.malloc import keep_freed_memory, return_freed_memory

# Page faults of 8 rounds of allocating, filling and freeing a block, under each setting; and MiB
# resident with a hole of 252 MiB in the heap.
COUNT = """
import json, re, resource, torch
from utils.malloc import keep_freed_memory, return_freed_memory

def page_faults(mib):
    for _ in range(16):  # the heap finds its size
        torch.ones(mib << 18)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(mib << 18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(re.search("VmRSS: *(.*) kB", open("/proc/self/status").read())[1]) / 1024

found = {"default": page_faults(64)}
assert keep_freed_memory(large=False)
found |= {"without large": page_faults(64), "small": page_faults(16)}
assert keep_freed_memory()
found["all"] = page_faults(64)
blocks = [torch.ones(4 << 18) for _ in range(64)]
del blocks[:-1]
found["hole"] = resident()
return_freed_memory()
print(json.dumps(found | {"returned": resident()}))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc")
def test_freed_memory_is_kept_as_asked_and_returned_on_request():
    found = json.loads(subprocess.check_output([sys.executable, "-c", COUNT]))
    assert found["without large"] > found["default"] / 2
    assert found["small"] < found["default"] / 100
    assert found["all"] < found["default"] / 10
    assert found["returned"] < found["hole"] - 200


def test_elsewhere_nothing_is_done(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
    return_freed_memory()
