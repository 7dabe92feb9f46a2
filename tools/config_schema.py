"""Write the JSON schemas of the daemon's configuration file: docs/kbe-nat-options.schema.json, of
its key `kbeNat`, and the definitions in the schema of the Helm chart's values, whose other parts
are written by hand.

`--check` writes nothing, and ends with 1 if a file is not up to date.
"""

import inspect
import json
import sys
from pathlib import Path
from typing import Any, Final

import msgspec
from written import write

from kbe_nat.cli.flags.own_options import json_schema
from kbe_nat.kubeproxy.config import Configuration

ROOT: Final = Path(__file__).parents[1]
OPTIONS: Final = ROOT / "docs/kbe-nat-options.schema.json"
VALUES: Final = ROOT / "deploy/helm/kbe-nat/values.schema.json"
QUANTITIES: Final = {"type": "object", "additionalProperties": {"type": ["string", "number"]}}
"""Amounts of resources by their names."""


def values_schema(text: str) -> dict[str, Any]:
    """The schema of the chart's values, with the configuration's types as the daemon has them."""
    _, components = msgspec.json.schema_components([Configuration], ref_template="#/$defs/{name}")
    for component in components.values():
        # The daemon refuses unknown fields too, in words that name the nearest.
        component["additionalProperties"] = False
        # Versions of msgspec differ in whether a docstring keeps its indentation.
        component["description"] = inspect.cleandoc(component["description"])
    options = json_schema()
    components["Configuration"]["properties"]["kbeNat"] = {"$ref": options["$ref"]}
    definitions = {"quantities": QUANTITIES, **components, **options["$defs"]}
    schema: dict[str, Any] = json.loads(text)
    return {**schema, "$defs": definitions}


def main() -> int:
    """Write or compare both files."""
    values = values_schema(VALUES.read_text())
    schemas = {OPTIONS: json_schema(), VALUES: values}
    return max(
        write(path, f"{json.dumps(schema, indent=2)}\n", __doc__)
        for path, schema in schemas.items()
    )


if __name__ == "__main__":
    sys.exit(main())
