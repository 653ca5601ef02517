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
