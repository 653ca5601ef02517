"""Two processes of one gloo group, started once for all tests that need several ranks."""

import contextlib
import importlib
import io
import multiprocessing
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
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
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []

    def __call__(
        self, function: Callable[..., Any], *arguments: Any, timeout_s: float = 120
    ) -> list[Any]:
        return self._run((_in_session, function, *arguments), timeout_s)

    def script(self, name: str, *arguments: Any, timeout_s: float = 120) -> list[Any]:
        return self._run((_as_command, name, *map(str, arguments)), timeout_s)

    def _run(self, job: tuple[Any, ...], timeout_s: float) -> list[Any]:
        if not self._processes:
            self._start()
        port = _free_port()
        for pipe in self._pipes:
            pipe.send((port, *job))
        answers: dict[int, tuple[str | None, Any]] = {}
        end = time.monotonic() + timeout_s
        while len(answers) < NUM_RANKS:
            open_pipes = [pipe for rank, pipe in enumerate(self._pipes) if rank not in answers]
            ready = wait(open_pipes, max(0.0, end - time.monotonic()))
            if not ready:
                break
            for pipe in ready:
                try:
                    answer = pipe.recv()
                except EOFError:
                    answer = ("the process ended", None)
                answers[self._pipes.index(pipe)] = answer
                if answer[0]:  # the other one may wait for this one for ever, or fail because of it
                    end = min(end, time.monotonic() + 3)
        errors = [f"rank {rank}: {error}" for rank, (error, _) in answers.items() if error]
        if errors or len(answers) < NUM_RANKS:
            self.stop()
            raise AssertionError("\n".join(errors) or f"no answer after {timeout_s} s: {answers}")
        return [answers[rank][1] for rank in range(NUM_RANKS)]

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        for rank in range(NUM_RANKS):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, theirs), daemon=False)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(ours)

    def stop(self) -> None:
        for process, pipe in zip(self._processes, self._pipes, strict=True):
            process.kill()
            process.join()
            pipe.close()
        self._processes, self._pipes = [], []


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _serve(rank: int, pipe: Connection) -> None:
    """Run what comes through the pipe, until it closes."""
    import torch

    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(NUM_RANKS))
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    while True:
        try:
            port, job, *arguments = pipe.recv()
        except EOFError:
            return
        except Exception:  # the function's module cannot be imported here
            pipe.send((traceback.format_exc(), None))
            continue
        os.environ["MASTER_PORT"] = str(port)
        try:
            pipe.send((None, job(*arguments)))
        except Exception:
            pipe.send((traceback.format_exc(), None))


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
