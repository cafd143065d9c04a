"""An institution's request, an operator's certificates and a SuperLink's register, made up."""

from dataclasses import replace
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ipfl_flower.cli.authority import Authority, certificate_pem
from ipfl_flower.cli.flower import UNREGISTERED, RegisteredNode
from ipfl_flower.cli.kit import Kit
from ipfl_flower.cli.node_keys import flower_bytes, load_or_make_node_key, load_public_key, openssh
from ipfl_flower.cli.versions import own_versions

BUNDLE = "0a" * 32


class FakeRegister:
    """What `FlowerCli` says of a SuperLink's register, which takes no key twice."""

    def __init__(self):
        self.known = []

    def nodes(self):
        return list(self.known)

    def register(self, name, public_key):
        key = flower_bytes(load_public_key(public_key.read_text()))
        assert all(node.public_key != key for node in self.known), "Public key already in use."
        self.known.append(RegisteredNode(100 + len(self.known), name, "registered", key))

    def unregister(self, number):
        self.known = [
            replace(node, status=UNREGISTERED) if node.node == number else node
            for node in self.known
        ]


def make_kit(folder, operator=None, **fields):
    """Make a kit for the node key in `folder`, which is made if need be."""
    key, _ = load_or_make_node_key(folder)
    values = {
        "name": "alder",
        "public_key": openssh(key.public_key()),
        "fleet": "market.example:9092",
        "ca": certificate_pem(Authority.make("a market's").certificate).decode(),
        "bundles": [BUNDLE],
        "terms": {"distance-weight": 5.0, "task": "digits"},
        "versions": own_versions(),
        "issued": datetime.now(UTC).replace(microsecond=0),
        **fields,
    }
    return Kit.signed(operator or Ed25519PrivateKey.generate(), **values)
