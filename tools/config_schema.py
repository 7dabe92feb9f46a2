"""Write docs/kbe-nat-options.schema.json: the JSON schema of the key `kbeNat` of the daemon's
configuration file.

`--check` writes nothing, and ends with 1 if the file is not up to date.
"""

import json
import sys
from pathlib import Path
from typing import Final

from written import write

from kbe_nat.cli.flags.own_options import json_schema

SCHEMA: Final = Path(__file__).parents[1] / "docs/kbe-nat-options.schema.json"


if __name__ == "__main__":
    sys.exit(write(SCHEMA, f"{json.dumps(json_schema(), indent=2)}\n", __doc__))
