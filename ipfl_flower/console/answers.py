"""Answers that were made once are kept: who asks again gets the same bytes, or "not modified"."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final

from fastapi import Request, Response
from pydantic import BaseModel

KEPT_MAX: Final = 256
BYTES_MAX: Final = 64 * 2**20


class Answers:
    """Keeps the newest answers, in at most `KEPT_MAX` entries and `BYTES_MAX` bytes."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, tuple[str, bytes]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def give(self, request: Request, key: Hashable, make: Callable[[], BaseModel]) -> Response:
        """Answer a request.

        Parameters
        ----------
        request : Request
        key : hashable
            All that the answer depends on, who asks included.
        make : callable
            Makes the answer if it is not there.
        """
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
        if found is None:
            body = make().model_dump_json().encode()
            found = f'"{hashlib.sha256(body).hexdigest()[:32]}"', body
            self._keep(key, found)
        tag, body = found
        headers = {
            "ETag": tag,
            "Cache-Control": "private, no-cache",
            "Vary": "Cookie, Authorization",
        }
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(body, media_type="application/json", headers=headers)

    def _keep(self, key: Hashable, answer: tuple[str, bytes]) -> None:
        with self._lock:
            before = self._kept.pop(key, None)
            self._bytes += len(answer[1]) - (len(before[1]) if before else 0)
            self._kept[key] = answer
            while len(self._kept) > KEPT_MAX or (self._bytes > BYTES_MAX and len(self._kept) > 1):
                _, (_, body) = self._kept.popitem(last=False)
                self._bytes -= len(body)
