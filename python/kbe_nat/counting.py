"""Numbers with the noun that they count, for people."""


def counted(number: int, noun: str) -> str:
    """So many things, in one word for one of them and with an s for others."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
