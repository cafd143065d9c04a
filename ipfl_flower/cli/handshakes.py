"""Failed TLS handshakes, as gRPC's tracers tell of them.

A server that turns a client away during the handshake never learns more of it, and Flower logs
nothing. gRPC prints the steps when ``GRPC_TRACE`` names `TRACERS`: some twenty lines a connection,
of which there are few, since a SuperNode keeps its own.
"""

import re

from ipfl_flower.cli.refusals import Kind, Refusal

TRACERS = ("handshaker", "tsi")

_SOURCES = (
    "handshaker.cc:",
    "channel_trace.h:",
    "ssl_transport_security.cc:",
    "status_helper.cc:",
    "trace.cc:",
    "log.cc:",
)
_GRPC_LINE = re.compile(r"[IWE]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ ([\w.]+:)\d+\] ?(.*)")
_FAILED = re.compile(r"CallNextHandshakerLocked: error=(?!OK )(.*)")
_PEER = re.compile(r"endpoint_peer_address=(?:ipv4:|ipv6:)?([^,}\s]+)")
_CONTINUED = ("=== Source Location Trace", "src/core/", " shutdown=")

_NOT_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST")
_HUNG_UP = ("Socket closed", "Connection reset")


class Handshakes:
    """Follows the server's handshakes, and tells of those that failed.

    Somebody who hangs up after our certificate came did not like it; who hangs up before he said
    anything has only looked whether the port is open, as health checks do, and is not refused.
    """

    def __init__(self) -> None:
        # Who has our certificate and hasn't answered it. gRPC doesn't say in these lines which
        # connection it is: with several at a time a host may be named for another's handshake.
        self._shown = 0
        self._error: str | None = None
        self._continues = False

    def is_trace(self, line: str) -> bool:
        """Return whether gRPC's tracers printed this line."""
        found = _GRPC_LINE.match(line)
        if found is not None:
            self._continues = found[1] in _SOURCES
            return self._continues
        # What an error says further: its source's lines, an empty one.
        self._continues = self._continues and (line.startswith(_CONTINUED) or not line.strip())
        return self._continues

    def read(self, line: str) -> Refusal | None:
        """Read a line of the tracers; return the refusal that it completes."""
        text = found[2] if (found := _GRPC_LINE.match(line)) else line
        if "server cert_callback" in text:
            self._shown += 1
        elif "HANDSHAKE DONE" in text:
            self._shown = max(0, self._shown - 1)
        elif failed := _FAILED.match(text):
            self._error = failed[1]
        peer = _PEER.search(text)
        if self._error is None or peer is None:
            return None
        error, self._error = self._error, None
        return self._refusal(error, peer[1])

    def _refusal(self, error: str, peer: str) -> Refusal | None:
        if any(sign in error for sign in _NOT_TLS):
            return Refusal(Kind.NOT_TLS, peer)
        if self._shown > 0:
            # Whatever went wrong then: in TLS 1.3 the client's reason doesn't reach us readably.
            self._shown -= 1
            return Refusal(Kind.CERTIFICATE, peer)
        if any(sign in error for sign in _HUNG_UP):
            return None
        return Refusal(Kind.HANDSHAKE, peer, error[:200])
