"""Mistyped words: the sentence about one, and the word that it may have been meant to be."""

from collections.abc import Iterable


def none_of(word: object, words: Iterable[str]) -> str:
    """The reason against a word where only these may stand, with the nearest of them."""
    words = list(words)
    return f"{word!r} is none of {', '.join(words)}{hint(word, words)}"


def hint(word: object, words: Iterable[str], prefix: str = "") -> str:
    """`; did you mean PREFIXWORD?` behind a complaint about a word, or nothing where none of the
    words is near it.
    """
    meant = nearest(word, words)
    return f"; did you mean {prefix}{meant}?" if meant else ""


def nearest(word: object, words: Iterable[str]) -> str | None:
    """The word that is nearest, whatever the case of its letters: by letters too few, too many or
    in the wrong order, or the first one that begins so.
    """
    # It takes milliseconds, and only mistakes are worth them.
    from difflib import get_close_matches

    if not isinstance(word, str) or not word:
        return None
    by_case = {each.lower(): each for each in words}
    near = get_close_matches(word.lower(), by_case, 1)
    near = near or [each for each in by_case if each.startswith(word.lower())]
    return by_case[near[0]] if near else None
