"""Who may connect to whom, by NetworkPolicies: what they mean, as far as the manifests use them."""

from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

from support.manifests import kind, matches, space, workloads


@dataclass(frozen=True)
class End:
    """A pod, or with an address somebody outside of the cluster."""

    name: str
    namespace: str = ""
    labels: dict = field(default_factory=dict, compare=False)
    address: str | None = None


def ends(objects):
    return [
        End(f"{pod.namespace}/{pod.name}", pod.namespace, pod.labels) for pod in workloads(objects)
    ]


def may_connect(objects, source, target, port, protocol="TCP"):
    """Tell whether `source` may open a connection to `target`: both sides' policies must let it."""
    policies = kind(objects, "NetworkPolicy")
    spaces = {
        item["metadata"]["name"]: item["metadata"].get("labels", {})
        for item in kind(objects, "Namespace")
    }
    wanted = (port, protocol)
    return _lets(policies, spaces, "Egress", source, target, wanted) and _lets(
        policies, spaces, "Ingress", target, source, wanted
    )


def _lets(policies, spaces, direction, mine, other, wanted):
    if mine.address is not None:
        return True  # no policy of the cluster holds there
    of_mine = [
        policy["spec"]
        for policy in policies
        if space(policy) == mine.namespace
        and direction in policy["spec"]["policyTypes"]
        and matches(policy["spec"]["podSelector"], mine.labels)
    ]
    rules = [rule for spec in of_mine for rule in spec.get(direction.lower()) or []]
    return not of_mine or any(
        _is_port(rule, wanted) and _is_peer(rule, direction, mine, other, spaces) for rule in rules
    )


def _is_port(rule, wanted):
    ports = rule.get("ports")
    assert not ports or all(port.keys() <= {"port", "protocol"} for port in ports), ports
    return not ports or any(
        wanted == (port.get("port", wanted[0]), port.get("protocol", "TCP")) for port in ports
    )


def _is_peer(rule, direction, mine, other, spaces):
    peers = rule.get("from" if direction == "Ingress" else "to")
    return not peers or any(_matches_peer(peer, mine, other, spaces) for peer in peers)


def _matches_peer(peer, mine, other, spaces):
    if "ipBlock" in peer:
        assert peer["ipBlock"].keys() == {"cidr"}, peer
        inside = other.address and ip_address(other.address) in ip_network(peer["ipBlock"]["cidr"])
        return bool(inside)
    if other.address is not None:
        return False
    if "namespaceSelector" in peer:
        own = {"kubernetes.io/metadata.name": other.namespace, **spaces.get(other.namespace, {})}
        if not matches(peer["namespaceSelector"], own):
            return False
    elif other.namespace != mine.namespace:
        return False
    return matches(peer.get("podSelector", {}), other.labels)
