"""Functions that are run in another process, to be killed there."""

import multiprocessing
from collections.abc import Callable
from typing import Any


def exit_code_of(function: Callable[..., Any], *arguments: Any) -> int | None:
    """Run a function of a module in another process, not a fork: other tests started threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.conftest"])
    process = context.Process(target=function, args=arguments)
    process.start()
    process.join(100)
    return process.exitcode
