"""The trainer's service in a process of its own, over a real socket, with friend and foe."""

import itertools
import queue
import re
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.device import DEVICE
from support.trainers import MEASURED, institution_file, trainer_process

from ipfl_flower.trainer import FitRequest, Institution, Trainer
from ipfl_flower.trainer.initial import initial_model
from ipfl_flower.trainer_api import FitCall, Spec, TrainerRefusedError
from ipfl_flower.trainer_api import trainer_pb2 as pb
from ipfl_flower.trainer_api.speaker import PROTOCOL, speaker
from ipfl_flower.trainer_api.tensors import Outbox, layout_message, layout_of
from ipfl_flower.trainer_api.trainer_pb2_grpc import TrainerStub

pytestmark = pytest.mark.timeout(300)

THETA_0 = initial_model({"name": "digits"}, 0)
WAITING_MAX = 4
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return institution_file(tmp_path_factory.mktemp("alder"))


@pytest.fixture(scope="module")
def trainer(file):
    with trainer_process(file, "--progress-s=0.1", f"--waiting-max={WAITING_MAX}") as running:
        yield running


@pytest.fixture(scope="module")
def client(trainer):
    with trainer.client() as opened:
        yield opened


@pytest.fixture(scope="module")
def stub(trainer):
    with grpc.insecure_channel(trainer.address) as channel:
        yield TrainerStub(channel)


@pytest.fixture(scope="module")
def rounds(client):
    """Give round numbers: a trainer takes them in rising order alone. The first are over."""
    numbers = itertools.count()
    for number in (next(numbers), next(numbers)):
        client.fit(call(number), deadline_s=DEADLINE_S)
    return numbers


@pytest.fixture(autouse=True)
def _still_serves(client, rounds):
    """After each test, whatever it did, the same process serves the next request."""
    yield
    answer = client.fit(call(next(rounds)), deadline_s=DEADLINE_S)
    assert answer.arrays.keys() == THETA_0.keys()


def call(number, role="initial", arrays=THETA_0, **others):
    return FitCall(round=number, role=role, arrays=arrays if role != "none" else {}, **others)


def same(left, right):
    return left.keys() == right.keys() and all(np.array_equal(left[n], right[n]) for n in left)


class Upload:
    """A client that sends what the test puts in, when it does."""

    def __init__(self, stub):
        self._parts = queue.Queue()
        self.replies = stub.Fit(iter(self._parts.get, None), timeout=DEADLINE_S)

    def send(self, *parts):
        for part in parts:
            self._parts.put(part)

    def close(self):
        self._parts.put(None)


def parts(asked):
    """Return all messages of a request."""
    outbox = Outbox(asked.arrays)
    chunks = [pb.FitRequest(chunk=chunk) for chunk in outbox]
    return [pb.FitRequest(header=asked.header()), *chunks, pb.FitRequest(end=outbox.end)]


def health(trainer, service=""):
    with grpc.insecure_channel(trainer.address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        reply = check(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE_S)
    return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)


def test_rounds_over_the_wire_are_those_in_process_to_the_bit(tmp_path):
    here = Trainer(Institution.load(institution_file(tmp_path / "here")))
    centre = {name: array * 0.5 for name, array in THETA_0.items()}
    with (
        trainer_process(institution_file(tmp_path / "there")) as running,
        running.client() as there,
    ):
        for number, role in enumerate(("initial", "none", "centre", "centre")):
            arrays = {"initial": THETA_0, "none": {}, "centre": centre}[role]
            last = number == 3
            expected = here.fit(
                FitRequest(
                    round=number,
                    initial=arrays if role == "initial" else None,
                    centre=arrays if role == "centre" else None,
                    coefficient=0.3,
                    train=not last,
                    receipt={},
                )
            )
            answer = there.fit(
                call(number, role, arrays, coefficient=0.3, train=not last),
                deadline_s=DEADLINE_S,
            )
            assert same(answer.arrays, expected.arrays)
            assert (answer.terms, answer.leaving) == (expected.terms, expected.leaving)
            for metrics in (answer.metrics, expected.metrics):
                for measured in MEASURED & metrics.keys():
                    metrics.pop(measured)
            assert answer.metrics == expected.metrics
            assert bool(answer.arrays) is not last


@pytest.mark.parametrize(
    ("protocol", "behind"),
    [(0, "the bundle is the operator's"), (PROTOCOL + 1, "upgrade ipfl-flower at the trainer")],
)
def test_a_bridge_of_another_protocol_is_refused_and_told_which_side_is_behind(
    stub, rounds, protocol, behind
):
    other = pb.Speaker(protocol=protocol, version="9.1")
    header, *model = parts(call(next(rounds)))
    header.header.speaker.CopyFrom(other)
    for ask in (
        lambda: stub.Describe(pb.DescribeRequest(speaker=other), timeout=DEADLINE_S),
        lambda: list(stub.Fit(iter([header, *model]), timeout=DEADLINE_S)),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            ask()
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "(ipfl-flower 9.1), this trainer protocol" in caught.value.details()
        assert behind in caught.value.details()


def test_both_of_its_answers_say_which_protocol_it_speaks(stub, rounds):
    described = stub.Describe(pb.DescribeRequest(speaker=speaker()), timeout=DEADLINE_S)
    replies = stub.Fit(iter(parts(call(next(rounds)))), timeout=DEADLINE_S)
    (header,) = [reply.header for reply in replies if reply.WhichOneof("part") == "header"]
    assert described.speaker == header.speaker == speaker()


def test_it_describes_itself(client, file):
    description = client.describe()
    assert (description.name, description.task, description.device) == ("alder", "digits", DEVICE)
    assert description.layout == layout_of(THETA_0)
    assert description.terms == Institution.load(file).terms
    assert set(description.versions) == {"ipfl-flower", "torch"}


@pytest.mark.parametrize("service", ["", "ipfl.trainer.v1.Trainer"])
def test_its_health_is_served_in_the_standard_way(trainer, service):
    assert health(trainer, service) == "SERVING"


def test_a_round_asked_twice_is_answered_from_disk(client, rounds):
    asked = call(next(rounds))
    first = client.fit(asked, deadline_s=DEADLINE_S)
    again = client.fit(asked, deadline_s=DEADLINE_S)
    assert same(first.arrays, again.arrays)
    assert first.metrics == again.metrics  # fit_seconds, too: it was not trained again


def test_another_task_is_refused(client, rounds):
    with pytest.raises(TrainerRefusedError, match="asks for task 'cifar', and only 'digits'"):
        client.fit(call(next(rounds), task="cifar"), deadline_s=DEADLINE_S)
    client.fit(call(next(rounds), task="digits"), deadline_s=DEADLINE_S)


def test_a_client_that_goes_mid_upload_costs_nothing(stub, client, rounds):
    """The next one waits while it uploads, gets the turn when it goes, and trains the round."""
    number = next(rounds)
    first, model, *_ = parts(call(number))
    upload = Upload(stub)
    upload.send(first, chunk(model.chunk[:1000]))
    while next(upload.replies).progress.phase != "receiving":
        pass

    def go(progress):
        phases.append(progress.phase)
        upload.replies.cancel()
        upload.close()

    phases = []
    answer = client.fit(call(number), deadline_s=DEADLINE_S, on_progress=go)
    assert phases[0] == "waiting"
    assert answer.metrics["samples_train"] == 60


def test_a_hundred_requests_at_once(trainer, stub, client, rounds):
    """While one has the turn, as many wait as may, and the others are refused at once."""
    number = next(rounds)
    header, *model = parts(call(number))
    slow = Upload(stub)
    slow.send(header, model.pop(0))
    while next(slow.replies).progress.phase != "receiving":
        pass
    ready = threading.Event()
    states = queue.Queue()

    def ask():
        ready.wait(DEADLINE_S)
        with trainer.client() as own:
            try:
                answer = own.fit(
                    call(number),
                    deadline_s=DEADLINE_S,
                    on_progress=lambda progress: states.put(progress.phase),
                )
            except TrainerRefusedError as error:
                states.put(error.code)
                return error.code, str(error)
            else:
                return None, answer

    with ThreadPoolExecutor(100) as pool:
        asked = [pool.submit(ask) for _ in range(100)]
        ready.set()
        seen = Counter()
        while seen[grpc.StatusCode.RESOURCE_EXHAUSTED] < 100 - WAITING_MAX or not seen["waiting"]:
            seen[states.get(timeout=DEADLINE_S)] += 1
        assert health(trainer) == "SERVING"
        slow.send(*model)
        slow.close()
        assert [reply.WhichOneof("part") for reply in slow.replies][-1] == "end"
        outcomes = [job.result(DEADLINE_S) for job in asked]
    answers = [answer for code, answer in outcomes if code is None]
    assert len(answers) == WAITING_MAX
    assert all(same(answer.arrays, answers[0].arrays) for answer in answers)
    assert "busy, and 4 more requests are waiting" in next(text for code, text in outcomes if code)
    assert seen.keys() == {grpc.StatusCode.RESOURCE_EXHAUSTED, "waiting"}


# --- a file that changes --------------------------------------------------------------------------


def test_a_changed_file_is_read_again_and_a_wrong_one_named(client, file, rounds):
    try:
        institution_file(file.parent, cost=0.75, leaving="true")
        answer = client.fit(call(next(rounds)), deadline_s=DEADLINE_S)
        assert (answer.terms.cost, answer.leaving) == (0.75, True)
        for wrong, message in [
            ({"cost": -1}, r"institution\.toml: terms\.cost must be ≥ 0, is -1"),
            ({"cost": "?"}, r"institution\.toml is not a TOML file"),
            ({"name": "birch"}, r"name can't change while the trainer runs: start it again"),
        ]:
            institution_file(file.parent, **wrong)
            for ask in (
                lambda: client.fit(call(next(rounds)), deadline_s=DEADLINE_S),
                client.describe,
            ):
                with pytest.raises(TrainerRefusedError, match=message) as caught:
                    ask()
                assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION
        institution_file(file.parent, cost=0.5, iterations=2)
        assert client.fit(call(next(rounds)), deadline_s=DEADLINE_S).terms.cost == 0.5
        assert client.describe().terms.cost == 0.5
    finally:
        institution_file(file.parent)


def test_new_training_settings_count(client, file, rounds, tmp_path):
    start = client.fit(call(next(rounds)), deadline_s=DEADLINE_S).arrays
    try:
        institution_file(file.parent, iterations=3)
        number = next(rounds)
        answer = client.fit(call(number, "none"), deadline_s=DEADLINE_S)
    finally:
        institution_file(file.parent)
    twin = Trainer(Institution.load(institution_file(tmp_path / "twin", iterations=3)))
    expected = twin.fit(FitRequest(round=number, initial=start))
    assert same(answer.arrays, expected.arrays)


# --- hostile requests -----------------------------------------------------------------------------

HEADER = call(10**6).header()
MODEL = b"".join(Outbox(THETA_0))
END = pb.FitRequest(end=pb.End(crc32=7))  # not that of MODEL, nor that of nothing


def header(**changes):
    changed = pb.FitHeader.FromString(HEADER.SerializeToString())
    for name, value in changes.items():
        setattr(changed, name, value)
    return pb.FitRequest(header=changed)


def layout(**changes):
    return layout_message(layout_of(THETA_0) | changes).SerializeToString()


def chunk(content):
    return pb.FitRequest(chunk=content)


INVALID = grpc.StatusCode.INVALID_ARGUMENT
HOSTILE = {
    "nothing": ([], INVALID, "ended before its header came"),
    "an empty message": ([pb.FitRequest()], INVALID, "None came where the header should"),
    "no header": ([chunk(b"x")], INVALID, "chunk came where the header should"),
    "an unknown role": ([header(role="thief")], INVALID, "role must be 'initial'"),
    "an unknown start": ([header(start="best")], INVALID, "start must be 'own' or 'centre'"),
    "a coefficient below 0": ([header(coefficient=-1)], INVALID, "must be finite and ≥ 0, is -1"),
    "no coefficient": ([header(coefficient=float("nan"))], INVALID, "finite and ≥ 0, is nan"),
    "no statement": ([header(statement="")], INVALID, "the statement is no JSON"),
    "a statement of a list": ([header(statement="[]")], INVALID, "must be a JSON object"),
    "a deep statement": ([header(statement="[" * 10**5)], INVALID, "the statement is no JSON"),
    "a long statement": ([header(statement=" " * (2 << 20))], INVALID, "longer than 1048576 char"),
    "no layout": ([header(layout=b"")], INVALID, r"tensor '0\.weight' is missing"),
    "a layout of noise": ([header(layout=b"\xff" * 99)], INVALID, "the layout can't be read"),
    "a giant layout": ([header(layout=b"\n\0" * 10**6)], INVALID, r"has 2000000 bytes, at most 1"),
    "a tensor twice": ([header(layout=layout() * 2)], INVALID, "a tensor comes twice"),
    "an unknown tensor": ([header(layout=layout(x=Spec("int8", (1,))))], INVALID, "'x' is unknown"),
    "a giant shape": (
        [header(layout=layout(**{"0.bias": Spec("float32", (2**62, 2**62))}))],
        INVALID,
        r"tensor '0\.bias' must be float32 \(64,\), is",
    ),
    "another dtype": (
        [header(layout=layout(**{"0.bias": Spec("float64", (64,))}))],
        INVALID,
        r"'0\.bias' must be float32 \(64,\), is 'float64 \(64,\)'",
    ),
    "a model with role none": ([header(role="none")], INVALID, "a model came with role 'none'"),
    "an empty chunk": ([header(), chunk(b"")], INVALID, "a chunk has 1 to 1048576 bytes, not 0"),
    "a long chunk": ([header(), chunk(b"x" * (1 << 21))], INVALID, "1 to 1048576 bytes, not 2097"),
    "too many bytes": ([header(), chunk(MODEL + b"x")], INVALID, "more than the model's 19240 byt"),
    "too few bytes": ([header(), chunk(MODEL[:-1])], INVALID, "ended before its chunk came"),
    "an end too early": ([header(), chunk(MODEL[:-1]), END], INVALID, "end came where the chunk"),
    "no end": ([header(), chunk(MODEL)], INVALID, "ended before its end came"),
    "a wrong checksum": ([header(), chunk(MODEL), END], INVALID, "its checksum does not fit"),
    "two headers": ([header(), header()], INVALID, "header came where the chunk should"),
    "values that aren't finite": (
        parts(call(10**6, "centre", {n: a * np.nan for n, a in THETA_0.items()})),
        INVALID,
        "the centre sent to alder doesn't fit its task: array '0.weight' holds a NaN",
    ),
    "a round that is over": (parts(call(0)), INVALID, "round 0 was asked for, but alder has tra"),
    "a giant message": (
        [header(), chunk(b"x" * (5 << 20))],
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "larger than max",
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_request_is_refused_and_takes_no_memory(what, trainer, stub):
    messages, code, text = HOSTILE[what]
    process = psutil.Process(trainer.process.pid)
    before = process.memory_info().rss
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.Fit(iter(messages), timeout=DEADLINE_S))
    assert caught.value.code() is code, caught.value.details()
    assert "\n" not in caught.value.details()
    assert re.search(text, caught.value.details()), caught.value.details()
    assert process.memory_info().rss - before < 64 << 20


part = st.one_of(
    st.builds(
        lambda changes: header(**changes),
        st.fixed_dictionaries(
            {},
            optional={
                "round": st.integers(0, 2**64 - 1),
                "role": st.sampled_from(["initial", "centre", "none", "", "x"]),
                "coefficient": st.floats(),
                "start": st.sampled_from(["own", "centre", ""]),
                "statement": st.sampled_from(["{}", "null", '{"receipt": 1}', "{"]),
                "layout": st.binary(max_size=200),
                "task": st.text(max_size=20),
            },
        ),
    ),
    st.builds(chunk, st.one_of(st.binary(max_size=64), st.just(MODEL))),
    st.just(END),
    st.just(pb.FitRequest()),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(messages=st.lists(part, max_size=4))
def test_no_order_of_parts_breaks_it(stub, messages):
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.Fit(iter(messages), timeout=DEADLINE_S))
    assert caught.value.code() in (INVALID, grpc.StatusCode.FAILED_PRECONDITION)
