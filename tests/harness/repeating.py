"""What goes on beside a test."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeating(action: Callable[[], object], pause: float = 0) -> Iterator[None]:
    """Does it again and again in a thread for as long as the block runs, with so many seconds
    between.

    Raises AssertionError at the end when it has failed.
    """
    over, failures = threading.Event(), list[BaseException]()

    def repeat() -> None:
        try:
            while not over.wait(pause):
                action()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not failures, failures
