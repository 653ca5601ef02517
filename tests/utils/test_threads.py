import threading
import time
from contextlib import closing

import pytest

from utils.threads import read_ahead, write_behind


def test_results_come_in_order_and_a_fixed_number_is_read_ahead():
    begun, given = [], 0

    def read(number):
        begun.append(number)
        time.sleep(0.01 if number % 2 else 0)
        return number

    for number in read_ahead(read, range(20), num_threads=3, ahead=4):
        assert number == given
        given += 1
        time.sleep(0.003)
        assert len(begun) <= given + 3
    assert given == 20


def test_an_error_of_a_reader_is_raised_in_its_place():
    results = read_ahead(lambda number: 6 // (2 - number), range(5), num_threads=2, ahead=5)
    assert [next(results), next(results)] == [3, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_what_has_not_begun_is_never_read_when_the_reader_is_closed():
    begun = []

    def read(number):
        begun.append(number)
        time.sleep(0.05)

    before = threading.active_count()
    with closing(read_ahead(read, range(50), num_threads=1, ahead=10)) as results:
        next(results)
    assert len(begun) < 5 and threading.active_count() == before


def test_all_is_written_at_the_end_and_a_fixed_number_waits():
    written, at_once = [], []

    def write(number):
        time.sleep(0.005)
        written.append(number)

    with write_behind(num_threads=2, behind=3) as call:
        for number in range(12):
            call(write, number)
            at_once.append(number + 1 - len(written))
    assert sorted(written) == list(range(12)) and max(at_once) <= 4


@pytest.mark.parametrize(("first_wrong", "num_written"), [(1, 10), (19, 20)])
def test_the_first_error_counts_and_stops_the_rest(first_wrong, num_written):
    written = []

    def write(number):
        if number >= first_wrong:
            raise OSError(f"number {number}")
        written.append(number)

    message = rf"^number {first_wrong}$"
    with pytest.raises(OSError, match=message), write_behind(num_threads=1, behind=2) as call:
        for number in range(20):
            call(write, number)
    assert len(written) < num_written


def test_the_error_of_the_block_is_the_one_that_counts_and_writes_in_progress_end():
    ended, begun = [], threading.Event()

    def write():
        begun.set()
        time.sleep(0.05)
        ended.append(True)

    with pytest.raises(KeyboardInterrupt), write_behind(num_threads=1, behind=9) as call:
        for _ in range(5):
            call(write)
        begun.wait()
        raise KeyboardInterrupt
    assert ended == [True]
