"""Regular expressions in the syntax of RE2 (https://github.com/google/re2/wiki/Syntax), found in linear time."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import re2

_options = re2.Options()
_options.log_errors = False

Finder = Callable[[str], bool]
"""Whether a text contains what is looked for."""


@lru_cache(maxsize=32)
def finder(pattern: str) -> Finder | None:
    """What looks for a pattern anywhere in a text; None if it is no regular expression."""
    try:
        search = re2.compile(pattern, _options).search
    except re2.error:
        return None
    return lambda text: search(text) is not None
