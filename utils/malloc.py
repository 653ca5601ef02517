"""The C library's allocator: freed memory is kept for reuse, or returned to the kernel."""

import ctypes
import sys
from typing import Any

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
            small blocks settle in the holes that they leave.

    Returns:
        True if the C library accepted the settings; False on other systems than Linux.
    """
    mallopt = _function("mallopt")
    if mallopt is None:
        return False
    options = {
        _M_MMAP_MAX: 0 if large else _NUM_MAPPINGS,
        _M_MMAP_THRESHOLD: _LARGE_BYTES,
        _M_TRIM_THRESHOLD: 2**31 - 1,
    }
    return all([mallopt(option, value) for option, value in options.items()])


def return_freed_memory() -> None:
    """Return the free pages of the heap to the kernel, those in its holes included.

    For long work with threads on large arrays: the heap grows although the memory in use does not.
    """
    malloc_trim = _function("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _function(name: str) -> Any:
    """Return a function of glibc; None on other systems, and in musl, which has none of these."""
    is_linux = sys.platform.startswith("linux")
    return getattr(ctypes.CDLL(None), name, None) if is_linux else None
