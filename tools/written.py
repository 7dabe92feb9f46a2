"""Files of the repository that tools write: written, or compared with what would be written."""

import argparse
import sys
from pathlib import Path


def write(path: Path, text: str, description: str | None) -> int:
    """Write the file, or with `--check` compare it; the exit code."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    if not parser.parse_args().check:
        path.write_text(text)
    elif not path.exists() or path.read_text() != text:
        print(f"{path.name} is not what {sys.argv[0]} writes: run it", file=sys.stderr)
        return 1
    return 0
