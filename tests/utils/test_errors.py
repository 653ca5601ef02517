import errno
from collections.abc import Callable

import pytest
from torch.utils.data import DataLoader, Dataset

from utils.errors import ConfigError, DataError, MissingDataError, run_command


def raises(error: BaseException) -> Callable[[], None]:
    def main() -> None:
        raise error

    return main


def exit_code(main: Callable[[], int | None]) -> int | str | None:
    with pytest.raises(SystemExit) as caught:
        run_command(main)
    return caught.value.code


@pytest.mark.parametrize(("result", "code"), [(None, 0), (0, 0), (3, 3)])
def test_what_main_returns_is_the_exit_code(result: int | None, code: int, capsys):
    assert exit_code(lambda: result) == code
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("kind", [ConfigError, MissingDataError, DataError])
def test_a_user_error_is_one_sentence_and_exit_code_2(kind: type[Exception], capsys):
    assert exit_code(raises(kind("a.png is truncated"))) == 2
    assert capsys.readouterr() == ("", "error: a.png is truncated\n")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "a.png"), "Permission denied (a.png)"),
        (OSError("the drive is gone"), "the drive is gone"),
    ],
)
def test_a_refusal_of_the_system_is_one_sentence_and_exit_code_1(error: OSError, text: str, capsys):
    assert exit_code(raises(error)) == 1
    assert capsys.readouterr() == (
        "",
        f"error: the system refused: {text}. No half-written file is left; put it right and run "
        "the same command again.\n",
    )


def test_ctrl_c_says_how_to_resume(capsys):
    assert exit_code(raises(KeyboardInterrupt())) == 130
    assert capsys.readouterr() == ("", "interrupted; run the same command again to resume\n")


@pytest.mark.parametrize("error", [ValueError("bug"), AssertionError("bug"), RuntimeError("bug")])
def test_a_bug_keeps_its_traceback(error: Exception, capsys):
    with pytest.raises(type(error), match=r"^bug$"):
        run_command(raises(error))
    assert capsys.readouterr() == ("", "")


class Broken(Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        raise DataError("a.png is broken; replace it")


def test_an_error_in_a_loader_process_is_the_same_sentence(capsys):
    assert exit_code(lambda: list(DataLoader(Broken(), num_workers=1)) and None) == 2
    assert capsys.readouterr() == ("", "error: a.png is broken; replace it\n")
