import errno

import pytest
from torch.utils.data import DataLoader, Dataset

from utils.errors import ConfigError, DataError, MissingDataError, run_command


def outcome(main, capsys):
    with pytest.raises(SystemExit) as caught:
        run_command(main)
    return caught.value.code, capsys.readouterr().err


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize("kind", [ConfigError, MissingDataError, DataError])
def test_user_errors_are_one_sentence_and_exit_2(kind, capsys):
    assert outcome(raising(kind("a is wrong; do b")), capsys) == (2, "error: a is wrong; do b\n")


class Broken(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise DataError("a.png is broken; replace it")


def test_an_error_in_a_loader_process_is_the_same_sentence(capsys):
    def main():
        list(DataLoader(Broken(), num_workers=1))

    assert outcome(main, capsys) == (2, "error: a.png is broken; replace it\n")


def test_a_full_disk_is_one_sentence_and_exit_1(capsys):
    error = OSError(errno.ENOSPC, "No space left on device", "runs/x/last.pth")
    code, text = outcome(raising(error), capsys)
    assert code == 1
    assert text.startswith("error: the system refused: No space left on device (runs/x/last.pth).")
    assert text.endswith("run the same command again.\n")


def test_interruption_exits_130(capsys):
    code, text = outcome(raising(KeyboardInterrupt()), capsys)
    assert code == 130 and text.startswith("interrupted; run the same command again")


def test_success_exits_0_and_main_may_choose_another_code(capsys):
    assert outcome(lambda: None, capsys) == (0, "")
    assert outcome(lambda: 3, capsys) == (3, "")


def test_a_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(ValueError, match="a bug"):
        run_command(raising(ValueError("a bug")))
