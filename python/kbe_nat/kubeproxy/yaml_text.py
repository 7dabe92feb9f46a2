"""Values as YAML that every reader takes for the same values.

Readers differ in what a plain word means: to some `22:30` is a number, `on` a truth value, `0o17`
fifteen. So a text stands in quotation marks unless it is a plain name, path or duration.
"""

import re
from typing import Any, Final

import yaml


def yaml_text(value: Any) -> str:  # noqa: ANN401
    """One document, fields in their order."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=WIDTH)
    return text


class _Dumper(yaml.SafeDumper):
    """With its own way to write texts and null."""

    def ignore_aliases(self, data: object) -> bool:
        """An equal value is written again."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    is_plain = _PLAIN.fullmatch(text) and text.lower() not in _WORDS
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, None if is_plain else '"')


_Dumper.add_representer(str, _text)
WIDTH: Final = 1 << 20
"""Characters: lines are not folded."""
_PLAIN: Final = re.compile(
    r"[A-Za-z/][\w./-]*(?::\w[\w./-]*)*|[0-9]+h[0-9]+m[0-9.]+s|[0-9]+m[0-9.]+s|[0-9.]+m?s", re.ASCII
)
_WORDS: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
"""Plain words that are no texts to some readers."""
