"""Two processes of one gloo group, started once for all tests that need several ranks."""

import contextlib
import importlib
import io
import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from typing import Any

NUM_RANKS = 2


class Ranks:
    """Processes that run functions sent to them; started by the first call, restarted after errors.

    ``ranks(function, *arguments)`` calls ``function(dist, *arguments)`` on both ranks inside a
    ``distributed_session`` and returns what they returned, in rank order.
    ``ranks.script(name, *arguments)`` runs the ``main`` of ``train``, ``eval`` ... as a command
    line on both ranks, and returns exit code, output and errors of each.

    A function is sent by its name: define it at the top level of a module below ``tests/``, not
    inside a test, and pass what it needs as arguments (picklable; no fixtures, no lambdas). What it
    patches it must put back, because the processes go on to the next test. The group is a new one
    in each call. An exception on a rank fails the test with that rank's traceback.
    """

    def __init__(self) -> None:
        self._pools: list[ProcessPoolExecutor] = []  # of one process each

    def __call__(
        self, function: Callable[..., Any], *arguments: Any, timeout_s: float = 120
    ) -> list[Any]:
        return self._run(timeout_s, _in_session, function, *arguments)

    def script(self, name: str, *arguments: Any, timeout_s: float = 120) -> list[Any]:
        return self._run(timeout_s, _as_command, name, *map(str, arguments))

    def _run(self, timeout_s: float, *job: Any) -> list[Any]:
        if not self._pools:
            spawn = multiprocessing.get_context("spawn")
            self._pools = [
                ProcessPoolExecutor(1, spawn, _begin, (rank,)) for rank in range(NUM_RANKS)
            ]
        port = _free_port()
        futures = [pool.submit(_on_port, port, *job) for pool in self._pools]
        wait(futures, timeout_s, FIRST_EXCEPTION)
        done, waiting = wait(futures, 3)  # after an error the other may wait for ever, or fail too
        errors = [
            f"rank {rank}: {''.join(traceback.format_exception(error))}"
            for rank, future in enumerate(futures)
            if future in done and (error := future.exception())
        ]
        if errors or waiting:
            self.stop()
            raise AssertionError("\n".join(errors) or f"no answer after {timeout_s} s")
        return [future.result() for future in futures]

    def stop(self) -> None:
        for pool in self._pools:
            for process in list(pool._processes.values()):
                process.kill()
            pool.shutdown()
        self._pools = []


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _begin(rank: int) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(NUM_RANKS))
    os.environ["MASTER_ADDR"] = "127.0.0.1"


def _on_port(port: int, job: Callable[..., Any], *arguments: Any) -> Any:
    os.environ["MASTER_PORT"] = str(port)
    return job(*arguments)


def _in_session(function: Callable[..., Any], *arguments: Any) -> Any:
    from utils.distributed import distributed_session

    with distributed_session("cpu") as dist:
        return function(dist, *arguments)


def _as_command(name: str, *arguments: str) -> tuple[int, str, str]:
    from utils.errors import run_command

    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = [f"{name}.py", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            run_command(importlib.import_module(name).main)
    except SystemExit as end:
        return int(end.code or 0), out.getvalue(), err.getvalue()
    finally:
        sys.argv = before
    raise AssertionError("run_command returned")
