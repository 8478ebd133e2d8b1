"""The tool `search`: finds passages in a local index, or on the web with Tavily."""

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rmas.errors import InputError
from rmas.tools.index import Index, Passage
from rmas.tools.toolbox import ToolError

KEY = "TAVILY_API_KEY"
"""The environment variable with the key for Tavily."""
_URL = "https://api.tavily.com"


class Engine(Protocol):
    """A search engine for passages."""

    def search(self, query: str, count: int, seconds: float) -> list[Passage]:
        """At most `count` passages, best first; raises `ToolError` if the search fails."""


@dataclass(frozen=True)
class SearchTool:
    """Searches for a query and returns titles and passages.

    Attributes:
      engine: an `Index` or `Tavily`.
      count: the largest number of passages, from 1 to 100.
      seconds: the time limit of a search.
      name: the tag of the tool.
    """

    engine: Engine
    count: int = 5
    seconds: float = 10.0
    name: str = "search"

    def __post_init__(self):
        if not 1 <= self.count <= 100:
            raise InputError(f"search count is {self.count}; it must be between 1 and 100")
        if not (self.seconds > 0 and math.isfinite(self.seconds)):
            raise InputError(f"search seconds is {self.seconds}; it must be a positive number")

    @property
    def description(self) -> str:
        """As `Tool.description`."""
        return (
            f"a query in a few words; titles and texts of up to {self.count} matching passages "
            f"come back."
        )

    def __call__(self, body: str) -> str:
        """Numbered titles and passages for the query `body`."""
        found = self.engine.search(" ".join(body.split()), self.count, self.seconds)
        if not found:
            return "nothing found; try other words"
        return "\n\n".join(
            f"[{number}] {passage.title}\n{passage.text}" for number, passage in enumerate(found, 1)
        )


def open_search(index: str | Path | None = None, tavily: bool = False) -> Engine:
    """Opens an index file, or checks that Tavily can be used.

    Raises:
      InputError: neither or both are given; and as `Index` and `Tavily`.
    """
    if index is not None and not tavily:
        return Index(index)
    if tavily and index is None:
        return Tavily()
    raise InputError(
        "the search tool needs either an index (made with `python -m "
        f"experiments.build_search_index`) or Tavily (with {KEY} in the environment), "
        f"{'not both' if tavily else 'and has neither'}"
    )


class Tavily:
    """Web search with Tavily (https://docs.tavily.com), with the key from the environment.

    It needs `pip install 'rmas[tavily]'`. Making it checks the key, with a free request to the
    service, because the client would work without a key.

    Raises:
      InputError: the package or the key is missing, the key is refused, or the service cannot be
        reached.
    """

    def __init__(self, url: str = _URL):
        key = os.environ.get(KEY, "").strip()
        if not re.fullmatch(r"[!-~]+", key):
            raise InputError(f"{KEY} {'is not a key' if key else 'is not set'}; Tavily needs one")
        try:
            import requests
            import tavily
        except ImportError:
            raise InputError(
                "search with Tavily needs the package tavily-python; install it with "
                "`pip install 'rmas[tavily]'`"
            ) from None
        try:
            headers = {"Authorization": f"Bearer {key}"}
            status = requests.get(f"{url}/usage", headers=headers, timeout=10).status_code
        except requests.RequestException as error:
            raise InputError(
                f"Tavily cannot be reached ({type(error).__name__}); without a network search "
                f"needs an index"
            ) from None
        if status in (401, 403):
            raise InputError(f"Tavily refuses the key in {KEY} (status {status})")
        self._client = tavily.TavilyClient(api_key=key, api_base_url=url)

    def search(self, query: str, count: int, seconds: float) -> list[Passage]:
        """As `Engine.search`; titles include the address of the page."""
        try:
            answer = self._client.search(query, max_results=count, timeout=seconds)
            found = answer["results"]
            return [Passage(f"{p['title']} ({p['url']})", str(p["content"])) for p in found]
        except Exception as error:  # the client's errors have no common type
            raise ToolError(f"Tavily: {type(error).__name__}: {error}") from None
