"""Errors that users can cause, and their report as one sentence on the console."""

import sys
from collections.abc import Callable


class UserError(ValueError):
    """Error that the user can correct. The message names what, where, and the remedy."""


class ConfigError(UserError):
    """Invalid recipe or command line."""


class MissingDataError(UserError):
    """Missing file or folder."""


class Interrupted(Exception):
    """Raised after a signal, once the checkpoint is written. Holds the number of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class DataError(UserError):
    """Unusable file: truncated, of another size, of another format."""


def run_command(main: Callable[[], int | None]) -> None:
    """Run ``main`` as a command line: user errors become one sentence and exit code 2.

    Errors of the operating system (full disk, no permission) are reported likewise with exit code
    1, signals with 128 plus their number (Ctrl-C: 130, SIGTERM: 143). Any other exception is a bug
    and keeps its traceback.
    """
    try:
        code = main() or 0
    except UserError as error:
        print(f"error: {_sentence(error)}", file=sys.stderr)
        code = 2
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        print(
            f"error: the system refused: {error.strerror or error}{where}. No half-written "
            "file is left; put it right and run the same command again.",
            file=sys.stderr,
        )
        code = 1
    except Interrupted as interruption:
        print("stopped and saved; run the same command again to resume", file=sys.stderr)
        code = 128 + interruption.number
    except KeyboardInterrupt:
        print("interrupted; run the same command again to resume", file=sys.stderr)
        code = 130
    sys.exit(code)


def _sentence(error: UserError) -> str:
    """Return the message; an error of a loader process has it at the end of a traceback."""
    text = str(error)
    if text.startswith("Caught ") and "Traceback" in text:
        text = text.rpartition(f"{type(error).__name__}: ")[2]
    return text.strip()
