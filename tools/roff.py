"""Man pages as text for groff's macros `man` (man(7))."""

import re
from collections.abc import Iterable


class Roff:
    """A page that grows at its end."""

    def __init__(self, name: str, date: str, source: str) -> None:
        """`name` is the page's, of section 1; `source` the software with its version."""
        self.text = f'.TH "{self.escaped(name.upper())}" 1 "{date}" "{source}"\n.nh\n.ad l\n'

    def escaped(self, text: str) -> str:
        """Text in which groff finds no request and no escape, and dashes that can be copied."""
        text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
        # A request begins a line with a dot or an apostrophe.
        return re.sub(r"(?m)^\.", "\\\\&.", text)

    def flags(self, text: str) -> str:
        """Text with flags in bold."""
        return re.sub(r"(?<![\w-])((?:\\-){1,2}\w(?:\w|\\-)*)", r"\\fB\1\\fR", self.escaped(text))

    def raw(self, line: str) -> None:
        """A line as it stands."""
        self.text += f"{line}\n"

    def section(self, title: str) -> None:
        """Begin a section."""
        self.raw(f".SH {title.upper()}")

    def subsection(self, title: str) -> None:
        """Begin a part of a section."""
        self.raw(f".SS {self.escaped(title)}")

    def usage(self, command: str, pieces: str) -> None:
        """A command line."""
        self.raw(f".B {self.escaped(command)}")
        self.raw(self.flags(pieces))

    def paragraphs(self, text: str) -> None:
        """Paragraphs that empty lines part."""
        for paragraph in text.split("\n\n"):
            self.raw(".PP")
            self.raw(self.flags(" ".join(paragraph.split())))

    def terms(self, rows: Iterable[tuple[str, str]]) -> None:
        """A list of words, each with a description."""
        for term, description in rows:
            self.raw(".TP")
            self.raw(self.flags(term) if term.startswith("-") else f"\\fB{self.escaped(term)}\\fR")
            self.raw(self.flags(" ".join(description.split())) or "\\&")

    def lines(self, lines: Iterable[str]) -> None:
        """Lines that are not filled."""
        self.raw(".nf")
        for line in lines:
            self.raw(self.escaped(line))
        self.raw(".fi")

    def pages(self, names: Iterable[str]) -> None:
        """References to pages of section 1."""
        *others, last = names
        for name in others:
            self.raw(f".BR {self.escaped(name)} (1),")
        self.raw(f".BR {self.escaped(last)} (1)")
