"""What a text means: YAML as sigs.k8s.io/yaml (go-yaml v2) reads it, JSON as Go's decoder does; and
what is no text that anybody could read to its end.
"""

import contextlib
import json
import math
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kbe_nat.errors import FileError
from kbe_nat.sources.manifests import files
from kbe_nat.sources.manifests.documents import documents, parse_documents


def values(text: str | bytes) -> list[Any]:
    return parse_documents(text if isinstance(text, bytes) else text.encode(), "a text")


def value(text: str | bytes) -> Any:
    [only] = values(text)
    return only


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        # Logical values and nothing: those of YAML 1.1, in three ways of writing.
        *(
            (text, True)
            for text in ("true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON", "y", "Y")
        ),
        *((text, False) for text in ("false", "FALSE", "no", "No", "off", "OFF", "n", "N")),
        *((text, text) for text in ("tRue", "yEs", "oN", "nope", "None", "nil", "t", "f", "o")),
        *((text, None) for text in ("", "~", "null", "Null", "NULL", "!!null ''")),
        # Whole numbers.
        ("0", 0),
        ("-0", 0),
        ("+12", 12),
        ("017", 15),
        ("0o17", 15),
        ("0O17", 15),
        ("-017", -15),
        ("00", 0),
        ("08", 8),
        ("0x1F", 31),
        ("0X1f", 31),
        ("0x_1f", 31),
        ("0b101", 5),
        ("-0b11", -3),
        ("1_000", 1000),
        ("1__0_", 10),
        ("18446744073709551615", 18446744073709551615),
        ("-9223372036854775808", -9223372036854775808),
        ("18446744073709551616", 18446744073709551616),
        ("0x", "0x"),
        ("0o8", "0o8"),
        ("0b2", "0b2"),
        ("1a", "1a"),
        ("_1", "_1"),
        ("+", "+"),
        ("-", [None]),
        ("0x1F:80", "0x1F:80"),
        # Numbers with a point or an exponent: JSON writes whole ones without.
        ("1.5", 1.5),
        (".5", 0.5),
        ("-.5", -0.5),
        ("1.", 1),
        ("80.0", 80),
        ("1e3", 1000),
        ("1E3", 1000),
        ("12e03", 12000),
        ("1_0.5", 10.5),
        ("1e-2", 0.01),
        ("1e400", "1e400"),
        ("1e22", 1e22),
        (".", "."),
        ("._5", "._5"),
        ("1.2.3", "1.2.3"),
        ("10.0.0.1", "10.0.0.1"),
        ("1e", "1e"),
        ("0x1p-2", "0x1p-2"),
        ("inf", "inf"),
        (".Infinity", ".Infinity"),
        # No numbers to base 60, no dates, and an equals sign is itself.
        ("22:30", "22:30"),
        ("1:30.5", "1:30.5"),
        ("-1:30", "-1:30"),
        ("52:54:00:12:34:56", "52:54:00:12:34:56"),
        ("2001:10:20:30:10:10:10:5", "2001:10:20:30:10:10:10:5"),
        ("2001-12-14", "2001-12-14"),
        ("2001-12-14t21:59:43.10-05:00", "2001-12-14t21:59:43.10-05:00"),
        ("2001-12-14 21:59:43", "2001-12-14 21:59:43"),
        ("=", "="),
        ("=~", "=~"),
        ("<<", "<<"),
        ("'!='", "!="),
        # What is quoted is a text, but for what is tagged.
        ("'yes'", "yes"),
        ('"12"', "12"),
        ("|\n  12\n", "12\n"),
        ("!!str 12", "12"),
        ("!!int '12'", 12),
        ("!!float 1", 1),
        ("!!bool 'on'", True),
        ("!!timestamp '2001-01-01'", "2001-01-01"),
        ("!!binary aGVsbG8=", "hello"),
        ("! 12", "12"),
        ("!our 12", "12"),
        ("!our [1]", [1]),
        ("!!set {a, b}", {"a": None, "b": None}),
        # Keys are texts.
        ("1: a", {"1": "a"}),
        ("on: a", {"true": "a"}),
        ("n: a", {"false": "a"}),
        ("1.5: a", {"1.5": "a"}),
        ("1e36: a", {"1e+36": "a"}),
        ("0x10: a", {"16": "a"}),
        ("2001-01-01: a", {"2001-01-01": "a"}),
        ("22:30: a", {"22:30": "a"}),
        # Of two the last one counts.
        ("{a: 1, b: 2, a: 3}", {"a": 3, "b": 2}),
        ("{1: a, '1': b}", {"1": "b"}),
        # Merging, in the order in which it is written.
        ("{x: &x {a: 1, b: 2}, r: {<<: *x, b: 3}}", {"x": {"a": 1, "b": 2}, "r": {"a": 1, "b": 3}}),
        ("{x: &x {b: 2}, r: {b: 3, <<: *x}}", {"x": {"b": 2}, "r": {"b": 2}}),
        ("<<: [{a: 1}, {a: 2, b: 2}]", {"a": 1, "b": 2}),
        ("<<: {a: 1}", {"a": 1}),
        ("'<<': {a: 1}", {"<<": {"a": 1}}),
        ("[<<]", ["<<"]),
        # Aliases, and anchors that are given twice.
        ("[&a x, *a]", ["x", "x"]),
        ("[&a x, *a, &a z, *a]", ["x", "x", "z", "z"]),
        ("{&k a: 1, b: *k}", {"a": 1, "b": "a"}),
    ],
)
def test_yaml_as_kubectl_reads_it(text: str, meant: object) -> None:
    read = value(text or "# nothing\n---\n")
    assert read == meant and type(read) is type(meant)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (".inf", "line 1, column 1: not YAML: .inf is no number of JSON"),
        ("a:\n- -.Inf", "line 2, column 3: not YAML: -.Inf is no number of JSON"),
        (".nan", ".nan is no number of JSON"),
        ("~: a", "null is no key"),
        ("[1]: a", "a sequence is no key"),
        ("? {a: b}\n: c", "a mapping is no key"),
        ("<<: 1", "<< wants a mapping or a sequence of mappings"),
        ("<<: [1]", "<< wants a mapping or a sequence of mappings"),
        ("*a", "unknown anchor 'a'"),
        ("&a x\n---\n*a", "line 3, column 1: not YAML: unknown anchor 'a'"),
        ("!!int x", "'x' is no !!int"),
        ("!!int 1.5", "'1.5' is no !!int"),
        ("!!bool 1", "'1' is no !!bool"),
        ("!!binary '***", "not YAML"),
        ("!!binary é", "not YAML"),
        ("!!python/object/apply:os.abort []", "line 1, column 1: not YAML: the tag"),
        ("a: b: c", "line 1, column 5: not YAML"),
        ("a\tb: [", "not YAML"),
    ],
)
def test_what_is_no_yaml(text: str, message: str) -> None:
    with pytest.raises(FileError) as raised:
        values(text)
    assert str(raised.value).startswith("a text") and message in str(raised.value)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ('{"a": "\\ud83d\\ude80", "b": "\U0001f680"}', [{"a": "\U0001f680", "b": "\U0001f680"}]),
        ('{"a": "\\ud83d"}', [{"a": "\ufffd"}]),
        ('{"\\ude80": ["\\ud83dx"]}', [{"\ufffd": ["\ufffdx"]}]),
        ('{"a": "x\\/y\\t\\u0001"}', [{"a": "x/y\t\x01"}]),
        ('{"a": 1}\n{"b": 2}\n', [{"a": 1}, {"b": 2}]),
        ('{"a": 1}{"b": 2}', [{"a": 1}, {"b": 2}]),
        ('{"a": 1}\n---\n{"b": 2}\n---\n', [{"a": 1}, {"b": 2}]),
        ('  \n\t[{"a": 1}]', [[{"a": 1}]]),
        ('{\n\t"a":\t1\n}', [{"a": 1}]),
        ('{"a": 1, "a": 2}', [{"a": 2}]),
        ('{"a": "22:30", "b": 1e3, "c": 1.5}', [{"a": "22:30", "b": 1000.0, "c": 1.5}]),
        ('{"a": "=", "yes": "no", "n": null}', [{"a": "=", "yes": "no", "n": None}]),
        ('\ufeff{"a": 1}', [{"a": 1}]),
        # A bracket opens YAML in flow style, too.
        ("{a: 1, b: [yes, 017]}", [{"a": 1, "b": [True, 15]}]),
        ('[{from: 10.0.0.1, to: "10.0.0.2:80"}]', [[{"from": "10.0.0.1", "to": "10.0.0.2:80"}]]),
        ('{a: "1",} # not JSON', [{"a": "1"}]),
        ('{"a": 1}\n---\nb: 2\n', [{"a": 1}, {"b": 2}]),
        # KYAML, as kubectl 1.34 writes it.
        ('---\n{\n  a: "1",\n  # b\n  b: [{\n    c: 2,\n  }],\n}\n', [{"a": "1", "b": [{"c": 2}]}]),
        ("{}", [{}]),
    ],
)
def test_json_as_kubectl_reads_it(text: str, meant: object) -> None:
    assert values(text) == meant


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{\n  "a" 1\n}', "a text, line 2, column 7: not JSON: expecting ':' delimiter"),
        ('{"a": 1}\n{"b": ', "line 2, column 7: not JSON: expecting value"),
        ('{"a": NaN}', "a text: not JSON: NaN is no number of JSON"),
        ('[{"a": -Infinity}]', "-Infinity is no number of JSON"),
        ('{"a": 1e999}', "the number 1e999 is too large"),
        # In YAML the first three would be other keys, and what they stand for be lost.
        ('{"a": 1, /* b */ "b": 2}', "line 1, column 10: not JSON"),
        ('{"a": 1, // b\n"b":2}', "line 1, column 10: not JSON"),
        ('{ // a\n "a": 1}', "line 1, column 3: not JSON"),
        ('{"a": 1, ... }', "line 1, column 10: not JSON"),
        ('{"a": 1,}', "not JSON"),
        ('{"a": 017}', "not JSON"),
        ('{"a": "x\ny"}', "not JSON: invalid control character"),
        ('{"a": 1}\n---\n{"b": 2, // c\n"c":3}', "line 3, column 10: not JSON"),
        ('{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_json(text: str | bytes, message: str) -> None:
    with pytest.raises(FileError) as raised:
        values(text)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        # What is no UTF-8 becomes U+FFFD, as in Go.
        ("# Ge\xe4ndert\r\na: 1\r\n".encode("latin-1"), [{"a": 1}]),
        (b"a: \x93x\x94\n", [{"a": "\ufffdx\ufffd"}]),
        (b'{"a": "\xff"}', [{"a": "\ufffd"}]),
        (b"\xef\xbb\xbfa: \xff\n", [{"a": "\ufffd"}]),
        # Files that were put together bring their marks along.
        ("\ufeffa: 1\n---\n\ufeffb: 2\n", [{"a": 1}, {"b": 2}]),
        ("a: 1\r\n---\r\n\ufeffb: 2\r\n", [{"a": 1}, {"b": 2}]),
        ("a: 1\n\ufeff---\nb: 2\n", [{"a": 1}, {"b": 2}]),
        ('a: "\ufeff"\n', [{"a": "\ufeff"}]),
        *(
            (mark + '{"a": "\U0001f600"}'.encode(code), [{"a": "\U0001f600"}])
            for mark, code in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
        ),
    ],
)
def test_characters_as_kubectl_reads_them(text: str | bytes, meant: object) -> None:
    assert values(text) == meant


def test_every_json_text_means_the_same_to_both_readers() -> None:
    """JSON is YAML, but for surrogates: what one reader takes for a number the other does."""
    written = {
        "a": [1, -2, 1.5, 1e-7, 0, True, None, "yes", "1:2", "=", "~", ""],
        "b": {"n": "y", "0x1": 2},
    }
    text = json.dumps(written)
    assert value(text) == value(f"---\n{text}") == written
    assert not math.isnan(value(text)["a"][2])


def bomb(levels: int, opening: str = "") -> str:
    """Nine times the last level on each."""
    nodes = ["x0: &x0 [a, b, c]"]
    nodes += [f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]" for n in range(1, levels + 1)]
    return "\n".join([opening, *nodes])


@pytest.mark.parametrize("levels", [6, 9, 200])
def test_f130_aliases_cannot_grow_without_end(levels: int) -> None:
    started = time.process_time()
    with pytest.raises(FileError, match=r"a text, line \d+, column \d+: .*many times as large"):
        values(bomb(levels))
    assert time.process_time() - started < 5


def test_aliases_of_a_sane_document_are_read() -> None:
    shared = "ports: &ports [{port: 80}, {port: 443}]\n" + "\n".join(
        f"p{n}: *ports" for n in range(200)
    )
    assert value(shared)["p199"] == [{"port": 80}, {"port": 443}]


@pytest.mark.parametrize(
    "text",
    [
        "port: " + ":".join(["1"] * 400_000),
        "port: " + "9" * 800_000,
        "port: 0x" + "f" * 800_000,
        "port: 1" + "_" * 800_000,
        "port: 1." + "0" * 800_000,
        '{"port": ' + "9" * 800_000 + "}",
    ],
    ids=["base-60", "digits", "hexadecimal", "underscores", "zeros", "json"],
)
def test_f130_long_numbers_take_no_time(text: str) -> None:
    started = time.process_time()
    with contextlib.suppress(FileError):
        values(text)
    assert time.process_time() - started < 5


@pytest.mark.parametrize("text", ["[" * 200_000, "{a: " * 200_000, "- " * 200_000, "? " * 200_000])
def test_f130_what_is_nested_too_deeply_is_refused(text: str) -> None:
    with pytest.raises(FileError, match="not read: it is nested too deeply"):
        values(text)


def test_f130_only_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.yaml"))
        for name, reason in {
            "fifo": "it is a FIFO, not a file",
            "loop": "Too many levels of symbolic links",
            "folder": "it is a directory, not a file",
            "zero": "it is a device, not a file",
            "socket": "it is a socket, not a file",
            "absent": "No such file or directory",
        }.items():
            with pytest.raises(FileError) as raised:
                documents(str(tmp_path / f"{name}.yaml"))
            assert str(raised.value) == f"{tmp_path}/{name}.yaml: {reason}"
    sparse = tmp_path / "sparse.yaml"
    with sparse.open("wb") as file:
        file.truncate(10 << 30)
    with pytest.raises(FileError, match=r"sparse\.yaml: not read: it is larger than 256 MiB"):
        documents(str(sparse))
    # One that grows while it is read.
    monkeypatch.setattr(files, "MAX_SIZE", 1 << 20)
    growing = tmp_path / "growing.yaml"
    growing.write_text("# a comment\n" * 100_000)
    monkeypatch.setattr(files, "_check", lambda path, status: None)
    with pytest.raises(FileError, match=r"growing\.yaml: not read: it is larger than 1 MiB"):
        documents(str(growing))


READ = (
    "import sys; from kbe_nat.sources.manifests.documents import documents; "
    "print(documents(sys.argv[1]))"
)


@pytest.mark.parametrize("path", ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"])
def test_what_a_shell_hands_over_is_read(path: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", READ, path], input=b"a: 1", capture_output=True, check=True
    )
    assert done.stdout == b"[{'a': 1}]\n"


def test_f130_standard_input_without_end_is_refused() -> None:
    with Path("/dev/zero").open("rb") as endless:
        done = subprocess.run(
            [sys.executable, "-c", READ, "-"],
            stdin=endless,
            capture_output=True,
            timeout=60,
            check=False,
        )
    assert b"standard input: not read: it is larger than 256 MiB" in done.stderr
