import numpy as np

from utils.inference.scratch import RowFile


def test_rows_written_in_any_order_by_two_are_read_back(tmp_path):
    rows = np.random.default_rng(0).integers(0, 256, (50, 7), dtype=np.uint8)
    path = tmp_path / "new" / "map"
    with RowFile(path, 7) as one, RowFile(path, 7) as other:
        one.write(30, rows[30:])
        other.write(0, rows[:30])
        assert np.array_equal(one.read(slice(0, 50)), rows)
        assert np.array_equal(other.read(slice(29, 31)), rows[29:31])
        assert len(one.read(slice(48, 60))) == 2  # rows never written are missing
    assert path.stat().st_size == rows.size


def test_a_transposed_array_is_written_row_by_row(tmp_path):
    rows = np.arange(12, dtype=np.uint8).reshape(4, 3).T
    with RowFile(tmp_path / "map", 4) as file:
        file.write(0, rows)
        assert np.array_equal(file.read(slice(0, 3)), rows)
