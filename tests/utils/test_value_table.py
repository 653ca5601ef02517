"""Codes of numbers, against a search in the ranges one by one."""

import numpy as np
import pytest

from utils.value_table import ValueTable

SPANS = [(range(-5, 0), 1), (range(0, 1), 2), (range(1, 4), 3), (range(250, 300), 4)]
SPANS += [(range(1 << 31, 1 << 40), 5), (range((1 << 64) - 1, 1 << 64), 6)]
REST, FRACTION = 9, 8


def code_of(value: int) -> int:
    return next((code for span, code in SPANS if value in span), REST)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
def test_every_type_is_coded_by_its_ranges(dtype: str):
    table = ValueTable(SPANS[::-1], REST, FRACTION)
    limits = np.iinfo(dtype) if dtype[0] in "ui" else None
    edges = {
        edge + step for span, _ in SPANS for edge in (span.start, span.stop) for step in (-1, 0)
    }
    if limits is None:
        edges = {edge for edge in edges if abs(edge) < 1 << 24}
    else:
        edges = {edge for edge in edges if limits.min <= edge <= limits.max}
        edges |= {int(limits.min), int(limits.max)}
    values = np.array([[*sorted(edges)]], dtype)
    found = table.find(values)
    assert found.dtype == np.uint8 and found.shape == values.shape
    assert found.tolist() == [[code_of(int(value)) for value in values[0].tolist()]]
    assert [table.find_one(edge) for edge in sorted(edges)] == found[0].tolist()


def test_fractions_and_infinities_are_no_whole_numbers():
    values = np.array([0.5, np.inf, -np.inf, np.nan, -0.0, 2.0, 1e300])
    found = ValueTable(SPANS, REST, FRACTION).find(values)
    assert found.tolist() == [8, 8, 8, 8, 2, 3, 8]
