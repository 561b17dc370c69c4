"""Asking a served homepage for pages."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

import httpx

from serving.answers import Page


class PageRefused(RuntimeError):
    """The service answered a page request with an error; `status` is HTTP's."""

    def __init__(self, user_id: int, status: int, body: str) -> None:
        self.status = status
        super().__init__(f"no page for user {user_id}: HTTP {status}, {body}")


class PageClient:
    """A client that keeps its connections; safe to use from many threads."""

    def __init__(self, base_url: str, *, timeout: float = 10.0) -> None:
        """Ask the service at `base_url`, waiting up to `timeout` seconds for an answer."""
        self._http = httpx.Client(base_url=base_url, timeout=timeout)

    def page(self, user_id: int, size: int = 40) -> Page:
        """One user's page.

        Raises:
            PageRefused: the service answered, but with an error.
            httpx.HTTPError: it did not answer.
        """
        answer = self._http.post("/page", json={"user_id": user_id, "size": size})
        if answer.status_code != httpx.codes.OK:
            raise PageRefused(user_id, answer.status_code, answer.text)
        return Page.model_validate_json(answer.content)

    def pages(self, user_ids: Iterable[int], size: int = 40, *, concurrency: int = 4) -> list[Page]:
        """The pages of many users, in their order, `concurrency` asked for at a time."""
        with ThreadPoolExecutor(concurrency) as pool:
            return list(pool.map(lambda user_id: self.page(user_id, size), user_ids))

    def close(self) -> None:
        """Drop the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
