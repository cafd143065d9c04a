"""Asks a trainer everything that might make it talk, with the institution's own credentials."""

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc

from hostile_app.hunt import canaries
from ipfl_flower.trainer_api import trainer_pb2 as pb
from ipfl_flower.trainer_api.speaker import speaker

DEADLINE_S = 30.0
TRAINER, HEALTH = "/ipfl.trainer.v1.Trainer/", "/grpc.health.v1.Health/"
REFLECTION = [
    f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    for version in ("v1", "v1alpha")
]
METHODS = [
    *(TRAINER + name for name in ("Describe", "Fit", "Data", "Read", "State", "Receipts", "Log")),
    *(HEALTH + name for name in ("Check", "List")),
    *REFLECTION,
    "/grpc.channelz.v1.Channelz/GetServers",
    "/../../institution.toml",
]
BODIES = [
    b"",
    b"\x0a\x00",  # an empty first field
    b"\x3a\x01*",  # reflection's list_services
    b"\x0a\x0a/etc/passwd",
    b"\xff" * 64,
    pb.DescribeRequest(speaker=speaker()).SerializeToString(),
]
ALL_RIGHT = {
    "round": 1,
    "train": True,
    "role": "none",
    "start": "own",
    "statement": "{}",
    "coefficient": 1.0,
    "speaker": speaker(),
}
TEXTS = ["", "records", "../institution.toml", "{0.__class__}", "\x00", "x" * 4096]
ODD = {
    "role": [*TEXTS, "data", "initial", "centre"],
    "start": [*TEXTS, "centre"],
    "statement": [*TEXTS, "[]", '{"round": 0}', '{"file": "/etc/passwd"}', "[" * 4096],
    "task": TEXTS,
    "coefficient": [-1.0, float("nan"), float("inf"), 1e308],
    "layout": [text.encode() for text in TEXTS],
    "train": [False],
    "speaker": [pb.Speaker(), pb.Speaker(protocol=2**32 - 1, version="{0.__class__}" * 999)],
    # The trainer may take them at their word: last.
    "round": [0, 2, 2**63, 2**64 - 1],
}


def ask_everything(config: dict) -> dict:
    """Call what is there and what isn't; return the answers' kinds, and the marks in them."""
    with _channel(config) as channel:
        raw = [_call(channel, method, body) for method in METHODS for body in BODIES]
        fits = [_fit(channel, header) for header in _headers()]
    answers = [*raw, *fits]
    return {
        "raw": dict(Counter(code for code, _ in raw)),
        "fits": dict(Counter(code for code, _ in fits)),
        "bytes": sum(len(content) for _, content in answers),
        "canaries": sorted(set().union(*(canaries(content) for _, content in answers))),
    }


def _channel(config: dict) -> grpc.Channel:
    ca, certificate, key = (
        Path(config[f"trainer-{name}"]).read_bytes() for name in ("ca", "certificate", "key")
    )
    credentials = grpc.ssl_channel_credentials(ca, key, certificate)
    return grpc.secure_channel(config["trainer"], credentials)


def _call(channel: grpc.Channel, method: str, body: bytes) -> tuple[str, bytes]:
    return _answer(channel.stream_stream(method), iter([body]))


def _fit(channel: grpc.Channel, header: pb.FitHeader) -> tuple[str, bytes]:
    requests = [pb.FitRequest(header=header), pb.FitRequest(end=pb.End(crc32=0))]
    call = channel.stream_stream(f"{TRAINER}Fit")
    return _answer(call, iter([request.SerializeToString() for request in requests]))


def _answer(call: grpc.StreamStreamMultiCallable, requests) -> tuple[str, bytes]:
    """Return how a call ended, and every byte that came back."""
    came = []
    replies = call(requests, timeout=DEADLINE_S)
    with suppress(grpc.RpcError):
        came.extend(replies)
    came += [str(replies.details()).encode(), str(replies.trailing_metadata()).encode()]
    came.append(str(replies.initial_metadata()).encode())
    return replies.code().name, b"\n".join(came)


def _headers() -> Iterator[pb.FitHeader]:
    """Make a header of a fit that is all right, and then the same with one thing odd at a time."""
    yield pb.FitHeader(**ALL_RIGHT)
    for name, values in ODD.items():
        for value in values:
            yield pb.FitHeader(**{**ALL_RIGHT, name: value})
