"""`nft list ruleset` text as blocks in one form: tables, and in them chains, maps and sets with
their statements. Numbers and names that versions and flags of nft print differently become the same
text.
"""

import re
import socket
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from kbe_nat.errors import FileError
from kbe_nat.kubeproxy.iptables_listing import abbreviate

Body: TypeAlias = "list[tuple[str, Body | None]]"
"""The statements of a block of nft; one that opens a block has its body."""


def read_nft(text: str, origin: str) -> list[tuple[str, Body]]:
    """The tables, by "FAMILY NAME", in the listing's order. Cost: linear.

    Raises `FileError` with `origin` and line, for text that is no table, and for a table without
    end.
    """
    return _Reader(text, origin).tables()


def table_lines(body: Body) -> list[str]:
    """The lines of one table: chains, maps and sets sorted, one element per line; rules in their
    order.
    """
    lines = [f"\t{canonical(statement)}" for statement, block in body if block is None]
    for head, block in sorted(_blocks(body), key=lambda pair: pair[0]):
        inner = _chain_lines(block) if head.startswith("chain ") else _set_lines(block)
        lines += [f"\t{head} {{", *(f"\t\t{line}" for line in inner), "\t}"]
    return lines


def canonical(statement: str) -> str:
    """A statement with its numbers and names in one form; quoted texts are left alone."""
    parts = _QUOTED.split(statement)
    for index in range(0, len(parts), 2):
        part = parts[index]
        for pattern, replacement in _CANONICAL:
            part = pattern.sub(replacement, part)
        parts[index] = part
        if index and _BEFORE_PORT.search(parts[index - 2]):
            # nft -S names ports, in quotes.
            parts[index - 1] = _port_number(parts[index - 1].strip('"')) or parts[index - 1]
    return "".join(parts).strip()


class _Reader:
    """One walk through the text."""

    def __init__(self, text: str, origin: str) -> None:
        self.text = text
        self.origin = origin
        self.position = 0

    def tables(self) -> list[tuple[str, Body]]:
        body = self.body(is_top=True)
        return [(head.removeprefix("table "), block) for head, block in body if block is not None]

    def body(self, *, is_top: bool = False) -> Body:
        """The statements from here to the end of the block."""
        statements: Body = []
        buffer, depth, start = "", 0, self.position
        while self.position < len(self.text):
            token = _TOKEN.match(self.text, self.position)
            assert token is not None, "every character is part of a token"
            text = token[0]
            self.position = token.end()
            if not buffer.strip():
                start = token.start()
            if text == "{" and depth == 0 and (head := _BLOCK.match(buffer.strip())):
                if is_top != (head[1] == "table"):
                    raise self.error(start)
                statements.append((f"{head[1]} {head[2]}", self.body()))
                buffer = ""
            elif text == "}" and depth == 0 and not is_top:
                return [*statements, *_statement(buffer)]
            elif text in ("\n", ";") and depth == 0:
                if is_top and buffer.strip():
                    raise self.error(start)
                statements += _statement(buffer)
                buffer = ""
            elif text.startswith("#"):
                # A warning, a handle, or how many elements there are.
                continue
            else:
                depth += {"{": 1, "}": -1}.get(text, 0)
                buffer += text
        if not is_top:
            raise FileError(f"{self.origin}: the listing ends within a table")
        if buffer.strip():
            raise self.error(start)
        return statements

    def error(self, start: int) -> FileError:
        """About the line at a position."""
        skipped = len(self.text[start:]) - len(self.text[start:].lstrip())
        start += skipped
        number = self.text.count("\n", 0, start) + 1
        line = self.text[start:].partition("\n")[0].strip()
        return FileError(
            f"{self.origin}: line {number}: nft lists no such thing: {abbreviate(line)}"
        )


def _statement(buffer: str) -> Body:
    return [(buffer.strip(), None)] if buffer.strip() else []


def _blocks(body: Body) -> Iterator[tuple[str, Body]]:
    return ((head, block) for head, block in body if block is not None)


def _chain_lines(statements: Body) -> list[str]:
    lines = [canonical(statement) for statement, _ in statements]
    if len(lines) > 1 and lines[0].startswith("type ") and lines[1].startswith("policy "):
        lines[:2] = [f"{lines[0]}; {lines[1]};"]
    return lines


def _set_lines(statements: Body) -> list[str]:
    properties: list[str] = []
    elements: list[str] = []
    for statement, _ in statements:
        if _ELEMENTS.match(statement):
            elements += split(statement[statement.index("{") + 1 : statement.rindex("}")])
        else:
            properties.append(canonical(statement))
    kinds = next(
        (line[5:].partition(" : ")[0] for line in properties if line.startswith("type ")), ""
    )
    named = sorted(_with_protocol_names(element, kinds.split(" . ")) for element in elements)
    listed = ["elements = {", *(f"\t{element}," for element in named), "}"] if named else []
    return [*sorted(properties), *listed]


def split(elements: str) -> Iterator[str]:
    """The canonical elements, which commas separate outside quotes and braces."""
    element, depth = "", 0
    for token in _ELEMENT_TOKEN.finditer(elements):
        text = token[0]
        depth += {"{": 1, "}": -1}.get(text, 0)
        if text == "," and depth == 0:
            yield canonical(element)
            element = ""
        else:
            element += text
    if element.strip():
        yield canonical(element)


def _with_protocol_names(element: str, kinds: list[str]) -> str:
    """An element with protocols by name, as without -n."""
    keys = element.split(" . ", len(kinds) - 1)
    if len(keys) != len(kinds):
        return element
    for index, kind in enumerate(kinds):
        key, space, rest = keys[index].partition(" ")
        if kind == "inet_proto":
            key = PROTOCOLS.get(key, key)
        keys[index] = f"{key}{space}{rest}"
    return " . ".join(keys)


def _port_number(name: str) -> str:
    try:
        return str(socket.getservbyname(name))
    except OSError:
        return ""


def _seconds(match: re.Match[str]) -> str:
    parts = re.findall(r"(\d+)(ms|[dhms])", match[1])
    return f"timeout {sum(int(number) * _UNITS[unit] for number, unit in parts)}s"


def _priority(match: re.Match[str]) -> str:
    base = int(match[1]) if match[1] not in _PRIORITIES else _PRIORITIES[match[1]]
    return f"priority {base + int((match[3] or '+') + (match[4] or '0'))}"


def _by_name(names: dict[str, str]) -> Callable[[re.Match[str]], str]:
    return lambda match: f"{match[1]} {names.get(match[2], match[2])}"


def _by_bit(names: dict[int, str]) -> Callable[[re.Match[str]], str]:
    return lambda match: f"{match[1]} {names.get(int(match[2], 0), match[2])}"


PROTOCOLS: Final = {"6": "tcp", "17": "udp", "132": "sctp"}
CT_STATES: Final = {
    0x1: "invalid",
    0x2: "established",
    0x4: "related",
    0x8: "new",
    0x40: "untracked",
}
CT_STATUSES: Final = {0x10: "snat", 0x20: "dnat"}
ROUTE_TYPES: Final = {
    "1": "unicast",
    "2": "local",
    "3": "broadcast",
    "4": "anycast",
    "5": "multicast",
}
_TOKEN: Final = re.compile(r'"[^"\n]*"?|#[^\n]*|[{}\n;]|[^"#{}\n;]+')
_ELEMENT_TOKEN: Final = re.compile(r'"[^"]*"?|[{},]|[^"{},]+')
_QUOTED: Final = re.compile(r'("(?:[^"\\]|\\.)*")')
_BEFORE_PORT: Final = re.compile(r" \. $|(?<=[0-9\]]):$")
_BLOCK: Final = re.compile(r"^(table|chain|set|map)\s+(\S.*?)\s*$")
_ELEMENTS: Final = re.compile(r"elements\s*=\s*\{")
_PRIORITIES: Final = {
    "raw": -300,
    "mangle": -150,
    "dstnat": -100,
    "filter": 0,
    "security": 50,
    "srcnat": 100,
}
_UNITS: Final = {"d": 86400, "h": 3600, "m": 60, "s": 1, "ms": 0}
_CANONICAL: Final = (
    (re.compile(r"\s+"), " "),
    (re.compile(r"\bcounter packets \d+ bytes \d+\b"), "counter"),
    (re.compile(r"\b0x([0-9a-f]+)\b"), lambda match: hex(int(match[1], 16))),
    # Of the highest bit nft writes the mask as a prefix.
    (re.compile(r"\bmeta mark != 0x0/1\b"), "meta mark & 0x80000000 != 0x0"),
    (re.compile(r"\bexpires [0-9dhms]+"), ""),
    (re.compile(r"\btimeout ((?:\d+(?:ms|[dhms]))+)"), _seconds),
    (
        re.compile(rf"\bpriority ({'|'.join(_PRIORITIES)}|-?\d+)( ([+-]) ?(\d+))?(?= |;|$)"),
        _priority,
    ),
    (re.compile(r"\bdnat (ip6?) addr \. port to\b"), r"dnat \1 to"),
    (re.compile(r"(\bmeta l4proto) (\d+)\b"), _by_name(PROTOCOLS)),
    # Hexadecimal in text, decimal in JSON.
    (re.compile(r"(\bct state) (0x[0-9a-f]+|[1-9]\d*)\b"), _by_bit(CT_STATES)),
    (re.compile(r"(\bct status) (0x[0-9a-f]+|[1-9]\d*)\b"), _by_bit(CT_STATUSES)),
    (re.compile(r"(\bfib [sd]addr type) (\d+)\b"), _by_name(ROUTE_TYPES)),
    (re.compile(r"\{ ?"), "{ "),
    (re.compile(r" ?\}"), " }"),
    (re.compile(r" ?, ?"), ", "),
    (re.compile(r"  +"), " "),
)
