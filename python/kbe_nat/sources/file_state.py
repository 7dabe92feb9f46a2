"""What is read of each path that files are followed under: a value for `get status`."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FileState:
    """One path. Values are immutable and replaced whole, so any thread may read them."""

    path: str
    """As it was given: a directory, a file, or - for standard input."""
    files: int
    """Files under it that count."""
    objects: int
    """Objects in these, refused ones too."""
    refused: int
    """Of these, those that are refused."""
    unread: int
    """Files under it that cannot be read."""
    changed: float
    """When objects under it last changed, in seconds since 1970."""
