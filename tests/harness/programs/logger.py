"""Logs 3,000 lines as a daemon does, then one more for a line of its standard input."""

import logging
import sys

from kbe_nat.daemon.logs import LogFormat, log_to_stderr
from kbe_nat.daemon.standard_error import make_stderr_nonblocking


def main() -> None:
    """Log to standard error."""
    make_stderr_nonblocking()
    log_to_stderr(LogFormat.JSON, 1)
    for number in range(3000):
        logging.getLogger("kbe_nat").error("%d %s", number, "x" * 100)
    print("done", flush=True)
    sys.stdin.readline()
    logging.getLogger("kbe_nat").error("again")


if __name__ == "__main__":
    main()
