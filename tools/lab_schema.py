"""Write docs/lab-scenario.schema.json: the JSON schema of the scenarios of `kbe-nat lab`.

`--check` writes nothing, and ends with 1 if the file is not up to date.
"""

import json
import sys
from pathlib import Path
from typing import Final

from written import write

from kbe_nat.lab.reading import schema

SCHEMA: Final = Path(__file__).parents[1] / "docs/lab-scenario.schema.json"


if __name__ == "__main__":
    sys.exit(write(SCHEMA, f"{json.dumps(schema(), indent=2)}\n", __doc__))
