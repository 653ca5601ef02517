import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from utils.errors import Interrupted, run_command
from utils.training.signals import StopRequest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_remembered_until_it_is_asked_for(dist, number):
    before = signal.getsignal(number)
    with StopRequest(dist, every_steps=10) as stop:
        assert not stop.came(1)
        os.kill(os.getpid(), number)
        assert stop.came(2)
        with pytest.raises(Interrupted) as caught:
            stop.leave()
    assert caught.value.number == number
    assert signal.getsignal(number) == before


def test_nobody_leaves_before_all_are_there():
    met = []
    several = SimpleNamespace(world_size=3, barrier=lambda: met.append(True))
    with pytest.raises(Interrupted) as caught:
        StopRequest(several, every_steps=10).leave()
    assert met == [True] and caught.value.number == signal.SIGTERM  # another rank was told


def test_a_second_ctrl_c_ends_at_once(dist):
    with StopRequest(dist, every_steps=1), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_the_exit_code_names_the_signal(capsys):
    def main():
        raise Interrupted(signal.SIGTERM)

    with pytest.raises(SystemExit) as left:
        run_command(main)
    assert left.value.code == 143
    assert capsys.readouterr().err == ("stopped and saved; run the same command again to go on\n")


WORKERS = """
import os, signal, sys
import torch.multiprocessing as mp
from torch.utils.data import DataLoader
from utils.training.signals import end_workers_at_exit, leave_signals_to_the_main_process

options = {"num_workers": 2, "worker_init_fn": leave_signals_to_the_main_process}
end_workers_at_exit()
batches = iter(DataLoader(range(1000), persistent_workers=True, **options))
numbers = [int(next(batches)), int(next(batches))]  # both workers are there
for process in mp.active_children():
    os.kill(process.pid, getattr(signal, sys.argv[1]))
numbers += [int(batch) for batch in batches]
print(sum(numbers), flush=True)
raise ArithmeticError("and the loader is still there")
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_workers_outlive_a_signal_and_end_with_the_program(name):
    done = subprocess.run(
        [sys.executable, "-c", WORKERS, name],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        timeout=60,
    )
    assert done.stdout == b"499500\n", done.stderr.decode()
    assert done.returncode == 1 and b"ArithmeticError: and the loader" in done.stderr
