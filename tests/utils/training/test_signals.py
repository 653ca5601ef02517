import os
import signal
from types import SimpleNamespace

import pytest

from utils.errors import Interrupted
from utils.training.signals import StopRequest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_remembered_until_it_is_asked_for(dist, number):
    before = signal.getsignal(number)
    with StopRequest(dist, every_steps=10) as stop:
        assert not stop.stop_requested(1)
        os.kill(os.getpid(), number)
        assert stop.stop_requested(2)
        with pytest.raises(Interrupted) as caught:
            stop.stop()
    assert caught.value.number == number
    assert signal.getsignal(number) == before


def test_no_rank_leaves_before_all_are_there():
    met = []
    several = SimpleNamespace(world_size=3, barrier=lambda: met.append(True))
    with pytest.raises(Interrupted) as caught:
        StopRequest(several, every_steps=10).stop()
    assert met == [True] and caught.value.number == signal.SIGTERM  # another rank was told


def test_a_second_ctrl_c_ends_at_once(dist):
    with StopRequest(dist, every_steps=1), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
