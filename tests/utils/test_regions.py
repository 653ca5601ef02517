import numpy as np
import pytest

from utils.regions import connected_groups, fill_runs, run_starts, touching_runs


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_what_can_be_reached(seed):
    pairs = np.random.default_rng(seed).integers(0, 30, (22, 2))
    reached = np.eye(30, dtype=bool)
    reached[pairs[:, 0], pairs[:, 1]] = reached[pairs[:, 1], pairs[:, 0]] = True
    for _ in range(5):
        reached = reached @ reached
    assert connected_groups(30, pairs).tolist() == reached.argmax(axis=1).tolist()
    assert connected_groups(3, []).tolist() == [0, 1, 2]


@pytest.mark.parametrize("width", [1, 40])  # many runs, and few
def test_runs_touch_where_pixels_of_one_label_lie_on_top_of_each_other(width):
    labels = np.random.default_rng(0).integers(0, 3, (9, 11)).repeat(width, 1)
    starts, pairs = touching_runs(labels)
    number = fill_runs(starts, np.arange(starts.size), labels.shape)
    expected = {
        (int(number[y, x]), int(number[y + 1, x]))
        for y, x in np.ndindex(8, labels.shape[1])
        if labels[y, x] == labels[y + 1, x]
    }
    assert sorted(map(tuple, pairs.tolist())) == sorted(expected)  # each once
    assert np.array_equal(run_starts(labels), starts)
    assert np.array_equal(fill_runs(starts, labels.ravel()[starts], labels.shape), labels)
