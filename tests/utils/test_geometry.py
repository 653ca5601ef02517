import numpy as np
import pytest
import torch

from utils.geometry import (
    dihedral,
    dihedral_view,
    resize,
    resize_array_nearest,
    resize_levels,
    resize_nearest,
    undo_dihedral,
)


@pytest.mark.parametrize("number", range(8))
def test_arrays_and_tensors_turn_alike_and_back(number):
    array = np.arange(12).reshape(3, 4)
    turned = dihedral(torch.from_numpy(array)[None], number)
    np.testing.assert_array_equal(turned[0], dihedral_view(array, number))
    colored = dihedral_view(np.stack([array, -array], -1), number)
    np.testing.assert_array_equal(colored[..., 1], -turned[0])
    assert torch.equal(undo_dihedral(turned, number)[0], torch.from_numpy(array))
    assert np.shares_memory(dihedral_view(array, number), array)


@pytest.mark.parametrize("size", [(6, 7), (3, 9), (9, 3), (20, 21), (1, 1)])
def test_nearest_pixels_are_the_same_in_arrays_and_tensors(size):
    array = np.random.default_rng(0).integers(0, 65536, (6, 7, 3))
    tensor = torch.from_numpy(array).movedim(-1, 0)
    resized = resize_nearest(tensor, size).movedim(0, -1)
    np.testing.assert_array_equal(resized, resize_array_nearest(array, size))
    assert resized.shape == (*size, 3)


def test_levels_are_means_of_valid_pixels():
    levels = torch.tensor([[[10, 20, 0, 0], [30, 40, 0, 7]]])
    assert resize_levels(levels, (1, 2)).tolist()[0][0][0] in range(20, 31)
    assert resize_levels(levels, (2, 4)) is levels
    assert resize_levels(torch.tensor([[[8, 8, 8, 8, 0, 0]]]), (1, 3)).tolist() == [[[8, 8, 0]]]
    assert resize_levels(torch.full((1, 4, 4), 65535), (3, 7)).unique().tolist() == [65535]
    assert not resize_levels(torch.zeros(1, 4, 4), (2, 2)).any()
    pixels = torch.rand(1, 3, 4, 4)
    assert resize(pixels, (4, 4)) is pixels
