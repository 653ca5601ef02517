import errno
from collections.abc import Callable
from unittest.mock import Mock

import pytest
from torch.utils.data import DataLoader, Dataset

from utils.errors import ConfigError, DataError, Interrupted, MissingDataError, run_command


def exit_code(main: Callable[[], int | None]) -> int | str | None:
    with pytest.raises(SystemExit) as caught:
        run_command(main)
    return caught.value.code


def test_what_main_returns_is_the_exit_code(capsys):
    assert (exit_code(lambda: None), exit_code(lambda: 3)) == (0, 3)
    assert capsys.readouterr() == ("", "")


REFUSED = (
    "error: the system refused: {}. No half-written file is left; put it right and run the same "
    "command again."
)


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        *((kind("a.png is bad"), 2, "error: a.png is bad") for kind in (ConfigError, DataError)),
        (MissingDataError("no a.png"), 2, "error: no a.png"),
        (OSError(errno.ENOSPC, "Disk full"), 1, REFUSED.format("Disk full")),
        (OSError(errno.EACCES, "Denied", "a.png"), 1, REFUSED.format("Denied (a.png)")),
        (OSError("the drive is gone"), 1, REFUSED.format("the drive is gone")),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again to resume"),
        (Interrupted(15), 143, "stopped and saved; run the same command again to resume"),
    ],
)
def test_an_error_is_one_sentence_and_an_exit_code(error, code: int, text: str, capsys):
    assert exit_code(Mock(side_effect=error)) == code
    assert capsys.readouterr() == ("", f"{text}\n")


def test_a_bug_keeps_its_traceback(capsys):
    with pytest.raises(ValueError, match=r"^bug$"):
        run_command(Mock(side_effect=ValueError("bug")))  # the base class of the users' errors
    assert capsys.readouterr() == ("", "")


class Broken(Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        raise DataError("a.png is broken; replace it")


def test_an_error_in_a_loader_process_is_the_same_sentence(capsys):
    assert exit_code(lambda: list(DataLoader(Broken(), num_workers=1)) and None) == 2
    assert capsys.readouterr() == ("", "error: a.png is broken; replace it\n")
