"""Errors a user can cause, and the one place that turns them into a sentence on the console."""

import sys
from collections.abc import Callable


class UserError(ValueError):
    """Something the user can put right. The message says what, where, and what to do."""


class ConfigError(UserError):
    """A recipe or a command line that cannot be carried out."""


class MissingDataError(UserError):
    """A file or folder that should be there and is not."""


class Interrupted(Exception):
    """A run that was told to end, and was saved. Holds the number of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class DataError(UserError):
    """A file that is there and cannot be used: truncated, of another size, of another format."""


def run_command(main: Callable[[], int | None]) -> None:
    """Run ``main`` as a command line: user errors become one sentence and exit code 2.

    Operating-system errors (full disk, no permission) are reported the same way with exit code 1,
    signals with 128 and their number (Ctrl-C: 130, SIGTERM: 143). Everything else is a fault of the
    program and keeps its traceback.
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
    """The message alone; a loader process sends it at the end of a printed traceback."""
    text = str(error)
    if text.startswith("Caught ") and "Traceback" in text:
        text = text.rpartition(f"{type(error).__name__}: ")[2]
    return text.strip()
