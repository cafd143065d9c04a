"""Who speaks: bridge and trainer say their protocol first, and refuse another one.

The bridge lies in the operator's bundle, the trainer is the institution's own installation: either
may be upgraded before the other.
"""

from typing import Final

from ipfl_flower.compatibility import VERSION, End, mismatch
from ipfl_flower.trainer_api import trainer_pb2 as pb
from ipfl_flower.trainer_api.errors import IncompatibleError

PROTOCOL: Final = 1
"""Of ``trainer.proto``; counts up with every change that the other side must know of."""

_UPGRADE_TRAINER: Final = "upgrade ipfl-flower at the trainer, and restart it"
_UPGRADE_BRIDGE: Final = (
    "the bundle is the operator's: have it upgraded there, or run the older trainer until then"
)


def speaker() -> pb.Speaker:
    """Return what this side says of itself."""
    return pb.Speaker(protocol=PROTOCOL, version=VERSION)


def require_bridge(said: pb.Speaker) -> None:
    """Refuse, at the trainer, a bridge that speaks another protocol.

    Raises
    ------
    IncompatibleError
        Names both protocols, and which side to upgrade.
    """
    bridge = End.heard("the SuperNode's bundle", said.protocol, said.version, _UPGRADE_BRIDGE)
    _require(mismatch(bridge, End("this trainer", PROTOCOL, VERSION, _UPGRADE_TRAINER)))


def require_trainer(said: pb.Speaker) -> None:
    """Refuse, at the bridge, a trainer that speaks another protocol.

    Raises
    ------
    IncompatibleError
        Names both protocols, and which side to upgrade.
    """
    trainer = End.heard("the trainer", said.protocol, said.version, _UPGRADE_TRAINER)
    bridge = End("the SuperNode's bundle", PROTOCOL, VERSION, _UPGRADE_BRIDGE)
    _require(mismatch(trainer, bridge))


def _require(line: str | None) -> None:
    if line is not None:
        raise IncompatibleError(line)
