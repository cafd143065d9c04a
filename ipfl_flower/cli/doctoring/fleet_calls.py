"""Asks a SuperLink's fleet API for its clock and for a key, without a node's taking notice.

Started as a program of its own, so that no other command loads Flower. Prints a line of JSON.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.common.constant import (
    PUBLIC_KEY_HEADER,
    SIGNATURE_HEADER,
    SYSTEM_TIME_TOLERANCE,
    TIMESTAMP_HEADER,
    TIMESTAMP_TOLERANCE,
)
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest
from flwr.proto.fleet_pb2_grpc import FleetStub
from flwr.supercore.error import ApiErrorCode
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

from ipfl_flower.cli.doctoring.clock import measure_skew

CALL_S = 10.0
_NO_SUCH_NODE = "Invalid node ID"
_WRONG_TIME = "Invalid timestamp"


@dataclass
class Answer:
    """What the SuperLink said.

    Attributes
    ----------
    skew_s : float or None
        See `measure_skew`.
    ahead_s, behind_s : float
        What the SuperLink bears, as Flower's version here does.
    authenticates : bool
        Whether it asks nodes for a key at all.
    registered : bool or None
        Whether it knows the key; None: it wasn't asked for one, or the clocks are too far apart.
    """

    skew_s: float | None
    ahead_s: float
    behind_s: float
    authenticates: bool
    registered: bool | None


class OpenDoorError(Exception):
    """The SuperLink served a key that nobody has registered."""


def main(fleet: str, ca: str, key: str = "") -> None:
    """Print an `Answer`.

    Parameters
    ----------
    fleet : str
        HOST:PORT.
    ca : str
        File, PEM.
    key : str
        File of a node key, OpenSSH; empty: none is asked for.
    """
    credentials = grpc.ssl_channel_credentials(Path(ca).read_bytes())
    ahead_s, behind_s = float(SYSTEM_TIME_TOLERANCE), float(TIMESTAMP_TOLERANCE)
    behind_s += ahead_s
    answer = Answer(None, ahead_s, behind_s, authenticates=True, registered=None)
    with grpc.secure_channel(fleet, credentials) as channel:
        stub = FleetStub(channel)
        try:
            answer.skew_s = measure_skew(_accepts(stub), ahead_s, behind_s)
        except OpenDoorError:
            answer.authenticates = False
        else:
            near = answer.skew_s is not None and -ahead_s < answer.skew_s < behind_s
            if key and near:
                answer.registered = _is_registered(stub, Path(key))
    print(json.dumps(asdict(answer)))  # noqa: T201  # the answer to who started this


def _accepts(stub: FleetStub) -> Callable[[float], bool]:
    # Of a key that nobody knows, the SuperLink checks the time first, and then finds no node.
    stranger = ec.generate_private_key(ec.SECP384R1())

    def accepts(offset_s: float) -> bool:
        error = _ask(stub.PullMessages, PullMessagesRequest(), stranger, offset_s)
        if error is None:
            raise OpenDoorError
        details = error.details()
        if details not in (_NO_SUCH_NODE, _WRONG_TIME):
            sys.exit(" ".join(f"{error.code().name}: {details}".split()))
        return bool(details == _NO_SUCH_NODE)

    return accepts


def _is_registered(stub: FleetStub, file: Path) -> bool:
    """Ask to be let in with an impossible heartbeat: a key that is known is refused for that."""
    key = load_ssh_private_key(file.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        sys.exit(f"{file} holds a key of another kind")
    request = ActivateNodeRequest(
        public_key=public_key_to_bytes(key.public_key()), heartbeat_interval=0.0
    )
    error = _ask(stub.ActivateNode, request, key)
    try:
        code = json.loads(error.details())["code"] if error else None
    except (ValueError, KeyError, TypeError):
        code = None
    if code == ApiErrorCode.FLEET_INVALID_HEARTBEAT_INTERVAL:
        return True
    if code == ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED:
        return False
    sys.exit(f"an answer that this version of Flower does not give: {error}")


def _ask(
    call: Callable[..., Any], request: Any, key: ec.EllipticCurvePrivateKey, offset_s: float = 0.0
) -> Any:
    """Make a call that is signed at another time than now; return its error, if it has one."""
    timestamp = (datetime.now(UTC) + timedelta(seconds=offset_s)).isoformat()
    metadata = [
        (PUBLIC_KEY_HEADER, public_key_to_bytes(key.public_key())),
        (TIMESTAMP_HEADER, timestamp),
        (SIGNATURE_HEADER, sign_message(key, timestamp.encode("ascii"))),
    ]
    try:
        call(request, metadata=metadata, timeout=CALL_S)
    except grpc.RpcError as error:
        return error
    return None


if __name__ == "__main__":
    main(*sys.argv[1:])
