"""Write docs/lab-scenario.schema.json and docs/lab-scenario.md: the fields of the scenarios of
`kbe-nat lab`, as JSON schema and as a page.

`--check` writes nothing, and ends with 1 if a file is not up to date.
"""

import json
import sys
from pathlib import Path
from typing import Final

from written import write

from kbe_nat.lab.fields import page, schema

DOCS: Final = Path(__file__).parents[1] / "docs"
SCHEMA: Final = DOCS / "lab-scenario.schema.json"
PAGE: Final = DOCS / "lab-scenario.md"


if __name__ == "__main__":
    codes = (
        write(SCHEMA, f"{json.dumps(schema(), indent=2)}\n", __doc__),
        write(PAGE, page(), __doc__),
    )
    sys.exit(max(codes))
