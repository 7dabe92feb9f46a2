"""Model values are immutable and compare by content; addresses have one text each."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbe_nat._native import STRATEGIES
from kbe_nat.family import Family, family_of
from kbe_nat.model import Service, Snapshot, Strategy, join_address
from kbe_nat.sources.address import (
    endpoint_refusal,
    parse_address,
    parse_range,
    split_address,
    without_port,
)


def test_values_are_immutable_and_equal_by_content() -> None:
    service = Service("default", "simpleservice", ("172.30.228.255",))
    assert service == Service("default", "simpleservice", ("172.30.228.255",))
    assert service.key == ("default", "simpleservice")
    assert Snapshot() == Snapshot()
    with pytest.raises(AttributeError):
        service.name = "other"  # type: ignore[misc]


def test_strategies_have_the_names_of_the_engine() -> None:
    assert tuple(Strategy) == STRATEGIES


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("172.30.0.041", "172.30.0.41"),
        ("010.000.000.011", "10.0.0.11"),
        ("FD00::0001", "fd00::1"),
        ("::ffff:192.168.99.23", "192.168.99.23"),
        ("::ffff:192.168.099.023", "192.168.99.23"),
        ("::ffff:c0a8:6317", "192.168.99.23"),
    ],
)
def test_addresses_have_one_text(text: str, canonical: str) -> None:
    assert parse_address(text) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.0.0",
        "10.0.0.256",
        "10.0.0.0.1",
        "0x0a.0.0.1",
        "10.0.0.1 ",
        "fe80::1%eth0",
        "::g",
        "1e3.0.0.1",
        "١.0.0.1",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|zone"):
        parse_address(text)


@given(st.tuples(*[st.integers(0, 255)] * 4), st.integers(1, 4))
def test_f105_leading_zeros_never_change_the_value(numbers: tuple[int, ...], width: int) -> None:
    assert parse_address(".".join(str(number).zfill(width) for number in numbers)) == ".".join(
        map(str, numbers)
    )


@given(st.ip_addresses(v=6))
def test_every_ipv6_address_is_read(address: object) -> None:
    assert family_of(parse_address(str(address))) in (Family.IPV4, Family.IPV6)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("203.0.113.000/025", "203.0.113.0/25"),
        (" 10.1.2.3/8 ", "10.0.0.0/8"),
        ("fd00:10::1/64", "fd00:10::/64"),
        ("0.0.0.0/0", "0.0.0.0/0"),
    ],
)
def test_ranges_have_one_text(text: str, canonical: str) -> None:
    assert parse_range(text) == canonical


@pytest.mark.parametrize(
    "text", ["10.0.0.0", "10.0.0.0/33", "10.0.0.0/-1", "fd00::/129", "/8", "10.0.0.0/8/8"]
)
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|prefix"):
        parse_range(text)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "169.254.169.254",
        "224.0.0.1",
        "0.0.0.0",
        "0.1.2.3",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "ff02::1",
    ],
)
def test_f106_addresses_that_only_the_node_should_reach_are_no_endpoints(address: str) -> None:
    assert endpoint_refusal(address)


@pytest.mark.parametrize(
    "address", ["10.0.0.1", "169.1.2.3", "240.0.0.1", "fd00::1", "2001:db8::1"]
)
def test_other_addresses_are(address: str) -> None:
    assert endpoint_refusal(address) is None


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        ("10.0.0.1", "10.0.0.1", None),
        ("10.0.0.1:80", "10.0.0.1", 80),
        ("fd00::1", "fd00::1", None),
        ("[fd00::1]", "fd00::1", None),
        ("[fd00::1]:80", "fd00::1", 80),
    ],
)
def test_address_and_port(text: str, address: str, port: int | None) -> None:
    assert split_address(text) == (address, port)
    if port:
        assert join_address(address, port) == text


@pytest.mark.parametrize(
    "text", ["10.0.0.1:", "10.0.0.1:x", "10.0.0.1:65536", "[10.0.0.1]:80", "[fd00::1", ":80"]
)
def test_wrong_address_and_port(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|port"):
        split_address(text)


def test_a_port_that_is_no_number_is_not_taken_for_a_wrong_address() -> None:
    with pytest.raises(ValueError, match=r"'10\.0\.0\.1:http': a port is a number"):
        split_address("10.0.0.1:http")
    with pytest.raises(ValueError, match=r"'10\.0\.0\.256' is no IP address"):
        split_address("10.0.0.256:80")
    with pytest.raises(ValueError, match=r"'::1:10249': an IPv6 address .* \[::1\]:10249"):
        split_address("::1:10249")


@pytest.mark.parametrize(
    ("text", "example"),
    [
        ("10.0.0.1", "10.0.0.1:80"),
        ("fd00::1", "[fd00::1]:80"),
        ("[fd00::1]", "[fd00::1]:80"),
        ("fd00::1:8080", "[fd00::1]:8080"),
    ],
)
def test_where_a_port_is_missing_the_form_with_one_is_shown(text: str, example: str) -> None:
    assert split_address(text)[1] is None
    assert without_port(text) == f"{text!r} has no port: write it as in {example}"
