"""Prints which nodes a SuperLink knows, with their keys: ``flwr supernode list`` leaves keys out.

Started as a program of its own, so that no other command loads Flower.
"""

import json
import sys

import click
from flwr.cli.flower_config import read_superlink_connection
from flwr.cli.utils import flwr_cli_exc_handler, init_http_client_from_connection
from flwr.proto.control_pb2 import ListNodesRequest


def main(connection: str) -> None:
    """Print the nodes as one line of JSON, those that were unregistered included.

    Parameters
    ----------
    connection : str
        The SuperLink's name in Flower's ``config.toml``.
    """
    try:
        client = init_http_client_from_connection(read_superlink_connection(connection))
        try:
            with flwr_cli_exc_handler():
                answer = client.ListNodes(ListNodesRequest())
        finally:
            client.close()
    except click.ClickException as error:
        sys.exit(" ".join(error.format_message().split()))
    nodes = [
        {
            "node": node.node_id,
            "name": node.name,
            "status": node.status,
            "public_key": node.public_key.decode("ascii", "replace"),
        }
        for node in answer.nodes_info
    ]
    print(json.dumps(nodes))  # noqa: T201  # the answer to who started this


if __name__ == "__main__":
    main(*sys.argv[1:])
