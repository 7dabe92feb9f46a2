"""The command `kbe-nat`, also `python -m kbe_nat`. Every mistake of its user ends in one line on
standard error, never in a traceback. Ctrl-C ends it with 130 and no words: at once until a verb
runs and after its end, by KeyboardInterrupt in between. A reader that closes the pipe ends it with
141 and no words, as SIGPIPE ends others.
"""

import os
import sys

from kbe_nat import interrupt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    import click

BAD_INPUT = 2
NOT_FOUND = 1
"""As kubectl ends when an object is not there."""
COMPLETION = "_KBE_NAT_COMPLETE"
VERSION = (["--version"], ["-V"])


def main(arguments: "Sequence[str] | None" = None) -> int:
    """Run one verb and return the exit code: 0, 1 for a name of nothing, or 2 for bad input.
    Without arguments it is the process's command line that counts, and its Ctrl-C.
    """
    if arguments is not None:
        return _run(arguments)
    interrupt.arm()
    try:
        return _run(sys.argv[1:])
    finally:
        interrupt.arm()


def _run(arguments: "Sequence[str]") -> int:
    if sys.stdout is None:  # closed by whoever started us
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    if sys.stdout.errors == "strict":
        # Names of files and devices may have any bytes: they must not end a verb in a traceback.
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        if COMPLETION in os.environ:
            # A shell asks at each TAB: the answer needs neither the verbs nor click.
            from kbe_nat.cli_words import answer

            print(answer(os.environ), end="")
            code = 0
        elif list(arguments) in VERSION:
            # Scripts ask for it: the answer needs nothing of the rest.
            from kbe_nat import __version__

            print(f"kbe-nat {__version__}")
            code = 0
        else:
            code = _verb(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader has seen enough. Python's flush at exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return interrupt.BROKEN_PIPE
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"{where}{error.strerror or error}")


def _verb(arguments: "Sequence[str]") -> int:
    # Imported here: Ctrl-C is armed before anything that takes time.
    import click

    from kbe_nat.cli import app
    from kbe_nat.errors import KbeNatError, NotFoundError
    from kbe_nat.extras import extra_of, remedy

    try:
        code = app.main(arguments, prog_name="kbe-nat", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except (click.MissingParameter, click.NoSuchCommand, click.NoSuchOption) as error:
        return _complain(_usage_text(error))
    except click.ClickException as error:
        return _complain(_plain_text(error))
    except NotFoundError as error:
        print(error, file=sys.stderr)
        return NOT_FOUND
    except KbeNatError as error:
        return _complain(str(error))
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        extra = extra_of(module)
        if extra is None:
            raise
        return _complain(f"{module} is not installed: {remedy(extra)}")
    except (KeyboardInterrupt, click.Abort):
        return interrupt.INTERRUPTED
    except SystemExit:
        # click ends so with 1, which verbs that compare have for a difference, where the reader of
        # standard output is gone; it has seen to it that Python's flush at exit does not fail.
        return interrupt.BROKEN_PIPE


def _usage_text(error: "click.UsageError") -> str:
    """The words about a word that is missing or that there is none of, with a way on."""
    import click

    from kbe_nat.spelling import hint

    way = ""
    if isinstance(error, click.NoSuchOption):
        way = hint(error.option_name, error.possibilities or ())
    elif isinstance(error, click.NoSuchCommand):
        way = hint(error.command_name, error.possibilities or ())
    is_missing = isinstance(error, click.MissingParameter)
    text = (_plain_text(error) if is_missing else error.message).rstrip(".")
    path = error.ctx.command_path if error.ctx else "kbe-nat"
    return f"{text}{way or f'; see {path} --help'}"


def _plain_text(error: "click.ClickException") -> str:
    """click's words, with flags as they are written in all other messages: without quotes."""
    import click

    if isinstance(error, click.BadParameter) and error.param:
        hint = error.param_hint or error.param.get_error_hint(error.ctx)
        error.param_hint = "".join(hint).replace("'", "")
    return error.format_message()


def _complain(message: str) -> int:
    print(f"kbe-nat: {' '.join(message.split())}", file=sys.stderr)
    return BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
