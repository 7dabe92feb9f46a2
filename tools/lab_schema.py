"""Write docs/lab-scenario.schema.json: the JSON schema of the scenarios of `kbe-nat lab`.

`--check` writes nothing, and ends with 1 if the file is not up to date.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Final

from kbe_nat.lab.reading import schema

SCHEMA: Final = Path(__file__).parents[1] / "docs/lab-scenario.schema.json"


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    text = f"{json.dumps(schema(), indent=2)}\n"
    if parser.parse_args().check:
        return int(not SCHEMA.exists() or SCHEMA.read_text() != text)
    SCHEMA.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
