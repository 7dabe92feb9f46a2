"""Balancing strategies compared, offline: the real engine, a driven clock, results that repeat.

>>> from kbe_nat import lab
>>> result = lab.run({
...     "name": "coin",
...     "duration": 10,
...     "services": [{"name": "web", "backends": [{"count": 2}]}],
...     "traffic": [{"service": "web", "arrivals": {"kind": "paced", "rate": 100}}],
...     "strategies": ["rr", "random"],
...     "repeats": 2,
... })
>>> [(row["strategy"], row["offered"]) for row in result.rows("outcomes") if row["repeat"] == 0]
[('rr', 1000), ('random', 1000)]
>>> next(row["max_over_mean"] for row in result.rows("balance"))
1.0

docs/research.md describes the measures, and the folder of a run. The parts, from question to
answer:

- `scenario`, `validation`, `reading`: scenarios, checked, from YAML or values;
- `fields`: the JSON schema of scenarios;
- `fit`, `doubts`, `preflight`: what is refused or told before a run;
- `classes`: strategies in Python;
- `timeline`, `cells`: the same for the simulation (`kbe_nat._native.LabCell`);
- `execution`, `parallel`: cells into a folder, in this process, in several, or on a cluster;
- `folder`, `tables`: manifest, results of cells, tidy tables and their dictionary;
- `runs`: all of it, for `run` and `reproduce`;
- `result`, `statistics`, `comparability`, `report`: frames, comparisons, text;
- `plots`, `html`, `measures`: pictures, the page that holds them, its words.
"""

from kbe_nat.errors import LabError, ScenarioError
from kbe_nat.lab.assignment import Assignment, backends, keys
from kbe_nat.lab.classes import PythonStrategy
from kbe_nat.lab.fields import schema
from kbe_nat.lab.html import write_report
from kbe_nat.lab.parallel import Cluster
from kbe_nat.lab.preflight import LabWarning, validate
from kbe_nat.lab.reading import gallery, read_scenario, scenario_of
from kbe_nat.lab.report import report
from kbe_nat.lab.result import Result, differences
from kbe_nat.lab.runs import reproduce, run
from kbe_nat.lab.scenario import Scenario, Strategy
from kbe_nat.lab.shards import merge

__all__ = [
    "Assignment",
    "Cluster",
    "LabError",
    "LabWarning",
    "PythonStrategy",
    "Result",
    "Scenario",
    "ScenarioError",
    "Strategy",
    "backends",
    "differences",
    "gallery",
    "keys",
    "merge",
    "read_scenario",
    "report",
    "reproduce",
    "run",
    "scenario_of",
    "schema",
    "validate",
    "write_report",
]
