"""Pages some of whose parts are printed by code: between the marks `<!-- name:begin -->` and `<!-- name:end -->`."""

from __future__ import annotations

import re
from collections.abc import Mapping


def page_with(page: str, wanted: Mapping[str, str]) -> str:
    """The page with every part between its marks.

    Raises:
        ValueError: a mark is missing, is there twice, or names no part.
    """
    found = re.findall(r"<!-- (\w+):begin -->", page)
    if sorted(found) != sorted(wanted):
        raise ValueError(f"the page has marks for {found}; expected one each of {list(wanted)}")
    for name, part in wanted.items():
        begin, end = (f"<!-- {name}:{mark} -->\n" for mark in ("begin", "end"))
        head, _, rest = page.partition(begin)
        _, closed, tail = rest.partition(end)
        if not closed:
            raise ValueError(f"the mark {begin.strip()} has no {end.strip()} after it")
        page = f"{head}{begin}{part}\n{end}{tail}"
    return page


def fenced(text: str, language: str = "") -> str:
    """Text as a box of code."""
    return f"```{language}\n{text.rstrip()}\n```"
