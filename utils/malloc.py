"""The C library's allocator, told to keep what tensors free."""

import ctypes
import sys

# Option numbers in glibc's malloc.h, the largest threshold it takes, its own number of mappings.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_LARGE_BYTES, _NUM_MAPPINGS = 32 << 20, 65536


def keep_freed_memory(*, large: bool = True) -> bool:
    """Let this process reuse freed memory instead of handing it back to the kernel.

    By default glibc returns every large block at once, and the kernel has to clear each page of
    the next one. On a CPU that costs a third of a training step (``benchmarks/model.py``
    measures it). The price is memory: holes in the heap, and up to 2 GiB at its end, are kept.

    Args:
        large: keep blocks of 32 MiB and more as well. A step that needs such blocks is faster, but
            what is allocated between them settles in the holes that they leave, and in a long run
            with threads the heap grows: ``infer.py`` had 1 GiB in use and 2.4 GiB in holes after
            250 megapixels of one scene. Without them it stays near what its first rows need.

    Returns:
        Whether the C library took the setting; elsewhere than on Linux nothing is done.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    options = {
        _M_MMAP_MAX: 0 if large else _NUM_MAPPINGS,
        _M_MMAP_THRESHOLD: _LARGE_BYTES,
        _M_TRIM_THRESHOLD: 2**31 - 1,
    }
    return all([mallopt(option, value) for option, value in options.items()])
