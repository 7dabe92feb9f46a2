"""Label selectors, as kubectl reads them."""

import pytest

from kbe_nat.policy.selector import label_map, parse_selector

LABELS = label_map(("app=web", "tier=", "example.com/zone=a.b"))


@pytest.mark.parametrize(
    ("text", "is_selected"),
    [
        ("", True),
        ("app=web", True),
        ("app==web", True),
        ("app = web", True),
        ("app=api", False),
        ("app!=api", True),
        ("app!=web", False),
        ("none!=x", True),
        ("app in (api, web)", True),
        ("app in (api)", False),
        ("app notin (api,db)", True),
        ("none notin (a)", True),
        ("app", True),
        ("none", False),
        ("!none", True),
        ("!app", False),
        ("tier=", True),
        ("example.com/zone=a.b,app in (web,x),!y", True),
        ("app=web,none", False),
    ],
)
def test_what_is_selected(text: str, is_selected: bool) -> None:
    assert parse_selector(text).selects(LABELS) is is_selected


@pytest.mark.parametrize("text", ["a b", "=x", "a in web", "a in (x", "a=b=c", "a=-x", "/a", "a>1"])
def test_what_is_no_selector(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no (requirement|value)"):
        parse_selector(text)
