"""`nft -j list ruleset` (libnftables-json) as the blocks that `nft list ruleset` would be read as.

Only the expressions of kube-proxy's rules become nft's words. Others stay as JSON, so that a reader
sees at once that they are not kube-proxy's.
"""

import json
from collections.abc import Callable, Iterable
from typing import Any, Final

from kbe_nat.errors import FileError
from kbe_nat.kubeproxy.nft_listing import Body


def read_nft_json(text: str, origin: str) -> list[tuple[str, Body]]:
    """The tables, by "FAMILY NAME". Cost: linear.

    Raises `FileError` with `origin`, for text that is not libnftables' JSON.
    """
    try:
        tables = _tables(json.loads(text)["nftables"])
    except json.JSONDecodeError as error:
        raise FileError(f"{origin}: line {error.lineno}: no JSON: {error.msg}") from None
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, RecursionError):
        raise FileError(f"{origin}: JSON, but not as nft -j list ruleset writes it") from None
    if tables and not any(tables.values()):
        raise FileError(f"{origin}: {NAMES_ONLY}")
    return list(tables.items())


def _tables(objects: Iterable[dict[str, Any]]) -> dict[str, Body]:
    tables: dict[str, Body] = {}
    chains: dict[tuple[str, str], Body] = {}
    for entry in objects:
        [(kind, about)] = entry.items()
        if kind == "table":
            tables[f"{about['family']} {about['name']}"] = []
        elif kind in ("chain", "set", "map"):
            table = f"{about['family']} {about['table']}"
            body = _chain(about) if kind == "chain" else _set(about)
            tables.setdefault(table, []).append((f"{kind} {about['name']}", body))
            chains[table, about["name"]] = body
        elif kind == "rule" and about["table"] == KUBE_PROXY:
            table = f"{about['family']} {about['table']}"
            statement = " ".join(map(_statement, about["expr"])) or "[]"
            comment = f' comment "{about["comment"]}"' if "comment" in about else ""
            chains[table, about["chain"]].append((statement + comment, None))
    return tables


def _chain(about: dict[str, Any]) -> Body:
    if "hook" not in about:
        return []
    head = f"type {about['type']} hook {about['hook']} priority {about['prio']}"
    return [(head, None), (f"policy {about['policy']}", None)]


def _set(about: dict[str, Any]) -> Body:
    kinds = about["type"]
    kind = " . ".join(kinds) if isinstance(kinds, list) else str(kinds)
    lines = [f"type {kind} : {about['map']}" if "map" in about else f"type {kind}"]
    if "flags" in about:
        lines.append(f"flags {','.join(_several(about['flags']))}")
    if "timeout" in about:
        lines.append(f"timeout {about['timeout']}s")
    if about.get("elem") and about["table"] == KUBE_PROXY:
        lines.append(f"elements = {{ {', '.join(map(_element, about['elem']))} }}")
    return [(line, None) for line in lines]


def _element(element: Any) -> str:  # noqa: ANN401
    """Of a set, or with what it leads to of a map."""
    if isinstance(element, list):
        key, value = element
        return f"{_expression(key)} : {_expression(value)}"
    return _expression(element)


def _statement(statement: dict[str, Any]) -> str:
    [(kind, about)] = statement.items()
    write = STATEMENTS.get(kind)
    return write(about) if write else _expression(statement)


def _match(about: dict[str, Any]) -> str:
    field, value, operator = about["left"], about["right"], about["op"]
    between = "" if operator in ("==", "in") else f"{operator} "
    is_mark = MARK in (field, *(field.get("&", ()) if isinstance(field, dict) else ()))
    is_name = isinstance(value, str) and str(_key(field)).endswith("ifname")
    shown = (
        hex(value)
        if is_mark and isinstance(value, int)
        else f'"{value}"'
        if is_name
        else _expression(value)
    )
    return f"{_expression(field)} {between}{shown}"


def _key(expression: Any) -> object:  # noqa: ANN401
    return expression.get("meta", {}).get("key") if isinstance(expression, dict) else None


def _dnat(about: dict[str, Any]) -> str:
    family = f" {about['family']}" if "family" in about else ""
    address = _expression(about["addr"])
    if "port" in about:
        address = f"[{address}]" if ":" in address else address
        address = f"{address}:{_expression(about['port'])}"
    return f"dnat{family} to {address}"


def _reject(about: dict[str, Any] | None) -> str:
    """The default is not written; with -n it is a number."""
    if not about or (about.get("type"), about.get("expr")) in PORT_UNREACHABLE:
        return "reject"
    return " ".join(["reject with", *(str(about[key]) for key in ("type", "expr") if key in about)])


def _masquerade(about: dict[str, Any] | None) -> str:
    return " ".join(["masquerade", *_several((about or {}).get("flags", ()))])


def _update(about: dict[str, Any]) -> str:
    return f"{about['op']} {about['set']} {{ {_expression(about['elem'])} }}"


def _expression(expression: Any) -> str:  # noqa: ANN401
    if isinstance(expression, list):
        return ",".join(map(_expression, expression))
    if not isinstance(expression, dict):
        return str(expression)
    [(kind, about)] = expression.items()
    write = EXPRESSIONS.get(kind)
    return write(about) if write else json.dumps(expression, separators=(",", ":"))


def _meta(about: dict[str, Any]) -> str:
    key = str(about["key"])
    return key if key in UNQUALIFIED else f"meta {key}"


def _bitwise(operator: str) -> Callable[[list[Any]], str]:
    def write(sides: list[Any]) -> str:
        return f" {operator} ".join(
            hex(side) if isinstance(side, int) else _expression(side) for side in sides
        )

    return write


def _elem(about: dict[str, Any]) -> str:
    comment = f' comment "{about["comment"]}"' if "comment" in about else ""
    return f"{_expression(about['val'])}{comment}"


def _numgen(about: dict[str, Any]) -> str:
    offset = f" offset {about['offset']}" if about.get("offset") else ""
    return f"numgen {about['mode']} mod {about['mod']}{offset}"


def _several(value: str | Iterable[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


PORT_UNREACHABLE: Final = (
    ("icmp", "port-unreachable"),
    ("icmp", 3),
    ("icmpv6", "port-unreachable"),
    ("icmpv6", 4),
)
NAMES_ONLY: Final = "only names of tables are in it; give the output of nft -j list ruleset"
KUBE_PROXY: Final = "kube-proxy"
MARK: Final = {"meta": {"key": "mark"}}
UNQUALIFIED: Final = frozenset({"iif", "oif", "iifname", "oifname"})
STATEMENTS: Final[dict[str, Callable[[Any], str]]] = {
    "match": _match,
    "mangle": lambda about: f"{_expression(about['key'])} set {_expression(about['value'])}",
    "dnat": _dnat,
    "masquerade": _masquerade,
    "reject": _reject,
    "set": _update,
    "vmap": lambda about: f"{_expression(about['key'])} vmap {_expression(about['data'])}",
    "counter": lambda _: "counter",
}
EXPRESSIONS: Final[dict[str, Callable[[Any], str]]] = {
    "accept": lambda _: "accept",
    "drop": lambda _: "drop",
    "return": lambda _: "return",
    "jump": lambda about: f"jump {about['target']}",
    "goto": lambda about: f"goto {about['target']}",
    "payload": lambda about: f"{about['protocol']} {about['field']}",
    "meta": _meta,
    "ct": lambda about: f"ct {about['key']}",
    "fib": lambda about: f"fib {' . '.join(_several(about['flags']))} {about['result']}",
    "concat": lambda about: " . ".join(map(_expression, about)),
    "prefix": lambda about: f"{_expression(about['addr'])}/{about['len']}",
    "range": lambda about: "-".join(map(_expression, about)),
    "set": lambda about: f"{{ {', '.join(map(_element, about))} }}",
    "map": lambda about: f"{_expression(about['key'])} map {_expression(about['data'])}",
    "numgen": _numgen,
    "elem": _elem,
    "|": _bitwise("|"),
    "&": _bitwise("&"),
    "^": _bitwise("^"),
}
