"""Posting to an endpoint over HTTP: what it answered, or why it did not."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from functools import cached_property

import httpx

from registry.delivery import POST_SECONDS, Outcome


class Poster:
    """Posts with httpx, and believes nothing it gets back but the status.

    A post has `seconds` in all: resolving the name, connecting, sending, and waiting for the status. Redirects are not
    followed, the body of an answer is not read, and neither proxies nor passwords are taken from the environment.
    """

    def __init__(self, seconds: float = POST_SECONDS) -> None:
        self._seconds = seconds

    async def __call__(self, url: str, headers: Mapping[str, str], body: bytes) -> Outcome:
        """Post once."""
        sent = {"content-type": "application/json", "user-agent": "matinee-registry", **headers}
        try:
            async with (
                asyncio.timeout(self._seconds),
                httpx.AsyncClient(
                    verify=self._trusted if url.startswith("https:") else False,
                    trust_env=False,
                    follow_redirects=False,
                    timeout=None,  # noqa: S113 - the whole of it has one, above
                ) as client,
                client.stream("POST", url, content=body, headers=sent) as answer,
            ):
                return Outcome(answer.status_code)
        except TimeoutError:
            return Outcome(None, f"no answer within {self._seconds:g} s")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return Outcome(None, f"{type(error).__name__}: {error}")

    @cached_property
    def _trusted(self) -> ssl.SSLContext:
        """Whose certificates are good; loaded when the first https endpoint is posted to."""
        return httpx.create_ssl_context()
