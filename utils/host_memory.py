"""The C library's allocator, told to keep what tensors free."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # option numbers in glibc's malloc.h


def keep_freed_memory() -> bool:
    """Let this process reuse freed memory instead of handing it back to the kernel.

    By default glibc returns every large block at once, and the kernel has to clear each page of
    the next one. On a CPU that costs a third of a training step (``benchmarks/model.py``
    measures it). Peak memory stays what it is; up to 2 GiB at its end are kept after it.

    Returns:
        Whether the C library took the setting; elsewhere than on Linux nothing is done.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
