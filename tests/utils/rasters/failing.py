"""Files that must not be readable, and how the failure must look."""

import time
import tracemalloc
from pathlib import Path

import pytest

from tests.utils.rasters.tiff_files import read_all
from utils.errors import DataError


def read_soon(path: Path, max_bytes: int = 8 << 20) -> DataError:
    """The error of a file that must fail, fast and without much memory."""
    start = time.perf_counter()
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as caught:
            read_all(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert peak < max_bytes
    assert time.perf_counter() - start < 5
    return caught.value
