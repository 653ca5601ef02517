"""Settings of the C library's allocator that keep freed memory for reuse."""

import ctypes
import sys

# Option numbers of glibc's malloc.h, its largest threshold, its default number of mappings.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_LARGE_BYTES, _NUM_MAPPINGS = 32 << 20, 65536


def keep_freed_memory(*, large: bool = True) -> bool:
    """Let this process reuse freed memory instead of returning it to the kernel.

    By default glibc returns every large block at once, and the kernel has to clear each page of
    the next one. On a CPU that costs a third of a training step (see ``benchmarks/model.py``). The
    price is memory: holes in the heap, and up to 2 GiB at its end, are kept.

    Args:
        large: keep blocks of 32 MiB and more as well. Steps that need such blocks are faster, but
            smaller allocations fragment the holes that they leave, and in a long run with threads
            the heap grows: ``infer.py`` had 1 GiB in use and 2.4 GiB in holes after 250 megapixels
            of one scene. Without large blocks, memory stays near the need of the first rows.

    Returns:
        True if the C library accepted the settings; False on other systems than Linux.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    num_mappings = 0 if large else _NUM_MAPPINGS
    options = {
        _M_MMAP_MAX: num_mappings,
        _M_MMAP_THRESHOLD: _LARGE_BYTES,
        _M_TRIM_THRESHOLD: 2**31 - 1,
    }
    return mallopt is not None and all([mallopt(*option) for option in options.items()])
