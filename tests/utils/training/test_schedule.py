from pathlib import Path

from tests.conftest import make_config
from utils.training.schedule import ValidationSchedule


def schedule(*overrides):
    return ValidationSchedule(make_config(Path("data"), Path("runs"), *overrides))


def test_validation_every_few_epochs_and_at_the_end():
    seven = schedule("optim.num_epochs=7", "eval.every_epochs=3")
    assert [epoch for epoch in range(1, 8) if seven.is_validated(epoch)] == [3, 6, 7]
    assert [seven.num_validations_after(epoch) for epoch in range(8)] == [3, 3, 3, 2, 2, 2, 1, 0]
    assert schedule("optim.num_epochs=6", "eval.every_epochs=3").num_validations_after(0) == 2


def test_copies_are_kept_only_if_asked_for():
    assert schedule().kept_copies(2) == schedule("run.keep_every_epochs=2").kept_copies(1) == []
    assert schedule("run.keep_every_epochs=2").kept_copies(2) == ["epoch_0002.pth"]


def test_a_run_ends_with_its_epochs_or_its_patience():
    patient = schedule("optim.num_epochs=9", "eval.patience=2")
    ends = [(3, 0), (3, 1), (3, 2), (9, 0)]
    assert [patient.is_over(*end) for end in ends] == [False, False, True, True]
    assert not schedule("optim.num_epochs=9").is_over(8, 1000)
