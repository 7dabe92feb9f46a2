"""The tables of each kind of scenario."""

from kbe_nat.lab.live.scenario import LiveScenario
from kbe_nat.lab.live.tables import live_catalogue
from kbe_nat.lab.reading import AnyScenario
from kbe_nat.lab.tables import Catalogue, offline_catalogue


def catalogue_of(scenario: AnyScenario) -> Catalogue:
    """The tables that a run of it keeps."""
    if isinstance(scenario, LiveScenario):
        return live_catalogue(scenario)
    return offline_catalogue(scenario)
