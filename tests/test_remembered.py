"""What is kept from plan to plan."""

from dataclasses import replace

from kbe_nat.family import Family
from kbe_nat.policy.plan import Backend, Frontend, PlannedPort, PortChanges
from kbe_nat.remembered import Remembered


def port(name: str, *targets: str) -> PlannedPort:
    frontends = (Frontend("cluster-ip", "172.30.0.1", 80),)
    return PlannedPort(
        "default",
        name,
        "",
        "tcp",
        Family.IPV4,
        frontends,
        tuple(Backend(own, 80) for own in targets),
        (),
    )


def test_only_what_changed_is_looked_at_and_only_what_is_found_otherwise_is_told() -> None:
    looked: list[str] = []

    def look(policy: PlannedPort) -> tuple[str, int]:
        looked.append(policy.service)
        return policy.service, len(policy.cluster_backends)

    own = Remembered(look)

    def follow(
        *ports: PlannedPort,
    ) -> tuple[list[str], list[tuple[str, int]], list[tuple[str, int]]]:
        looked.clear()
        findings = own.findings(ports)
        own.keep(findings)
        assert findings.all == [(policy.service, len(policy.cluster_backends)) for policy in ports]
        assert findings.is_changed == bool(findings.arrived or findings.left)
        return list(looked), sorted(findings.arrived), sorted(findings.left)

    one, two = port("one", "a"), port("two", "a", "b")
    assert follow(one, two) == (["one", "two"], [("one", 1), ("two", 2)], [])
    assert follow(one, two) == ([], [], [])
    assert follow(two, one) == ([], [], []), "another order"
    assert follow(replace(one), two) == ([], [], []), "another object with the same values"
    assert follow(port("one", "b"), two) == (["one"], [], []), "nothing else was found"
    assert follow(port("one", "b", "c"), two) == (["one"], [("one", 2)], [("one", 1)])
    assert follow(two, port("three")) == (["three"], [("three", 0)], [("one", 2)])
    own.forget()
    assert follow(two) == (["two"], [("two", 2)], [])


def test_changes_that_are_told_need_no_search() -> None:
    looked: list[str] = []

    def look(policy: PlannedPort) -> int:
        looked.append(policy.service)
        return len(policy.cluster_backends)

    own = Remembered(look)
    first = (port("one", "a"), port("two", "a", "b"), port("three"))
    own.keep(own.findings(first))
    looked.clear()
    more = port("two", "a", "b", "c")
    second = (first[0], more, first[2])
    findings = own.findings(second, PortChanges(first, first[1:2], (more,)))
    assert (findings.all, findings.arrived, findings.left, looked) == ([1, 3, 0], [3], [2], ["two"])
    own.keep(findings)
    assert own.findings(second, PortChanges(second, (), ())).all == [1, 3, 0]
    # What was told against another plan than the one that is known is looked for.
    assert own.findings(first, PortChanges((), (), ())).arrived == [2]


def test_what_is_not_kept_does_not_count() -> None:
    own = Remembered(lambda policy: policy.service)
    own.findings([port("one")])
    assert own.findings([port("one")]).arrived == ["one"]
