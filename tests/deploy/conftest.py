"""What the tests of the Kubernetes manifests share."""

import pytest
import yaml
from support.manifests import KUBERNETES, OVERLAYS, find_kubectl, render


@pytest.fixture(scope="session")
def rendered():
    """Give every overlay's objects, and the pod that fills an institution's data volume."""
    kubectl = find_kubectl()
    if kubectl is None:
        pytest.skip("no kubectl of 1.27 or newer here: make kubectl")
    found = {overlay: render(kubectl, overlay) for overlay in OVERLAYS}
    loader = yaml.safe_load((KUBERNETES / "data-loader.yaml").read_text())
    loader["metadata"]["namespace"] = "alder"
    return found | {"data-loader": [*found["institution"], loader]}
