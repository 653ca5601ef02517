from types import SimpleNamespace

import pytest
import torch

from utils.errors import DataError
from utils.training.state import LossWatch, check_weights_are_finite

NAN, INF = float("nan"), float("inf")


def two_ranks(other_losses, other_tiles):
    """This rank, and another one whose part of every meeting is known."""
    return SimpleNamespace(
        sum=lambda tensor: tensor + torch.tensor(other_losses),
        gather=lambda value: [value, other_tiles],
    )


def note(watch, *losses):
    for step, loss in enumerate(losses, 11):
        watch.note(step, torch.tensor(loss), (f"left_{step}", f"right_{step}"))


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_the_first_bad_step_is_named_with_its_tiles(dist, bad):
    watch = LossWatch(dist)
    note(watch, 1.0, bad, NAN)
    with pytest.raises(DataError, match=r"at step 12 \(tiles: left_12, right_12\), and nothing"):
        watch.check()


def test_what_was_read_is_not_read_again(dist):
    watch = LossWatch(dist)
    watch.check()
    note(watch, 1.0, 2.0)
    watch.check()
    watch.note(13, torch.tensor(NAN), ("late",))
    with pytest.raises(DataError, match=r"at step 13 \(tiles: late\)"):
        watch.check()


def test_the_tiles_of_another_rank_are_named_here():
    watch = LossWatch(two_ranks([1.0, NAN], ("theirs",)))
    note(watch, 1.0, 2.0)
    with pytest.raises(DataError, match=r"at step 12 \(tiles: theirs\)"):
        watch.check()


def test_no_value_is_kept_that_needs_a_gradient(dist):
    watch = LossWatch(dist)
    weight = torch.tensor(2.0, requires_grad=True)
    watch.note(1, weight * 3, ("a",))
    assert not watch._unread[0][1].requires_grad


def test_finite_weights_of_any_type_pass(dist):
    weights = {"a": torch.ones(3), "count": torch.tensor(5), "half": torch.ones(2).bfloat16()}
    check_weights_are_finite(weights, 7, dist)


@pytest.mark.parametrize("bad", [NAN, INF])
def test_a_weight_that_is_not_finite_is_named(dist, bad):
    weights = {"a": torch.ones(3), "b": torch.tensor([1.0, bad]), "c": torch.tensor(bad)}
    message = r"2 of 3 weights are not finite after step 7 \(first: b\), and they were not saved"
    with pytest.raises(DataError, match=message):
        check_weights_are_finite(weights, 7, dist)


def test_the_weights_of_another_rank_count_as_well():
    with pytest.raises(DataError, match=r"1 of 1 weights .* \(first: norm.running_var\)"):
        check_weights_are_finite({"a": torch.ones(3)}, 7, two_ranks([], ["norm.running_var"]))
