"""A bridge before a trainer of another protocol, over a real socket."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest

from ipfl_flower.trainer_api import FitCall, IncompatibleError, TrainerClient
from ipfl_flower.trainer_api import trainer_pb2 as pb
from ipfl_flower.trainer_api.speaker import PROTOCOL
from ipfl_flower.trainer_api.trainer_pb2_grpc import TrainerServicer, add_TrainerServicer_to_server


class OtherTrainer(TrainerServicer):
    """Answers whatever it is asked, in a protocol of its own."""

    def __init__(self, speaker):
        self._speaker = speaker

    def Describe(self, request, context):  # noqa: N802 - gRPC's name
        return pb.DescribeReply(name="alder", speaker=self._speaker)

    def Fit(self, requests, context):  # noqa: N802 - gRPC's name
        list(requests)
        yield pb.FitReply(header=pb.FitReplyHeader(speaker=self._speaker))
        yield pb.FitReply(end=pb.End())


@contextmanager
def other_trainer(speaker):
    server = grpc.server(ThreadPoolExecutor(2))
    add_TrainerServicer_to_server(OtherTrainer(speaker), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with TrainerClient(f"127.0.0.1:{port}") as client:
            yield client
    finally:
        server.stop(None).wait(10)


@pytest.mark.parametrize(
    ("speaker", "behind"),
    [
        (pb.Speaker(), "upgrade ipfl-flower at the trainer"),
        (pb.Speaker(protocol=PROTOCOL + 1, version="9.1"), "the bundle is the operator's"),
    ],
)
def test_a_trainer_of_another_protocol_is_refused_and_the_side_that_is_behind_named(
    speaker, behind
):
    with other_trainer(speaker) as client:
        for ask in (client.describe, lambda: client.fit(FitCall(0), deadline_s=30.0)):
            with pytest.raises(IncompatibleError, match=rf"^the trainer speaks .*: .*{behind}"):
                ask()


def test_a_trainer_of_the_same_protocol_is_heard_whatever_its_version():
    with other_trainer(pb.Speaker(protocol=PROTOCOL, version="9.1")) as client:
        assert client.fit(FitCall(0), deadline_s=30.0).arrays == {}
        assert client.describe().name == "alder"
