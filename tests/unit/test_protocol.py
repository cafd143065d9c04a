import io

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from ipfl_flower.compatibility import VERSION
from ipfl_flower.market import Terms
from ipfl_flower.protocol import METRICS_MAX, PROTOCOL, ProtocolError, Reply, Request

MODEL = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(1.5, dtype=np.float64)}


def a_request(**changes):
    values = {
        "round": 3,
        "train": True,
        "role": "centre",
        "arrays": MODEL,
        "coefficient": 0.025,
        "start": "centre",
        "statement": {"round": 2, "bought": {"elm": 5}},
    }
    return Request(**{**values, **changes})


def a_reply(**changes):
    values = {
        "round": 3,
        "arrays": MODEL,
        "terms": Terms(40, 0.05, 1e4, 7.0),
        "leaving": False,
        "metrics": {"test_accuracy": 0.75},
    }
    return Reply(**{**values, **changes})


def delivered(records: RecordDict) -> Message:
    """A reply as the server gets it."""
    asked = Message(RecordDict(), dst_node_id=7, message_type="train")
    asked.metadata.__dict__["_message_id"] = "m1"
    return Message(records, reply_to=asked)


def speaking(records: RecordDict, **said) -> RecordDict:
    """Records that say another protocol or version; None: say nothing of it."""
    config = {**dict(records["config"]), **said}
    records["config"] = ConfigRecord({k: v for k, v in config.items() if v is not None})
    return records


def same(left, right):
    assert list(left) == list(right)
    for name, value in left.items():
        assert value.dtype == right[name].dtype
        assert value.tobytes() == right[name].tobytes()


def test_a_request_survives_the_way_there():
    read = Request.from_records(a_request().to_records())
    same(read.arrays, MODEL)
    assert read.statement == {"round": 2, "bought": {"elm": 5}}
    assert (read.round, read.train, read.role) == (3, True, "centre")
    assert (read.coefficient, read.start) == (0.025, "centre")


def test_a_reply_survives_the_way_back():
    read = Reply.from_message(delivered(a_reply().to_records()), round_number=3)
    same(read.arrays, MODEL)
    assert read.terms == Terms(40, 0.05, 1e4, 7.0)
    assert read.metrics == {"test_accuracy": 0.75}
    assert not read.leaving


def test_infinite_cost_and_budget_travel():
    terms = Terms(40, float("inf"), 0.0)
    read = Reply.from_message(delivered(a_reply(terms=terms).to_records()), round_number=3)
    assert read.terms == terms


def test_both_directions_carry_one_array_record_and_one_config_record_of_the_same_keys():
    there, back = a_request().to_records(), a_reply().to_records()
    assert list(there.array_records) == list(back.array_records) == ["arrays"]
    assert list(there.config_records) == list(back.config_records) == ["config"]


def test_both_directions_say_protocol_and_version():
    for records in (a_request().to_records(), a_reply().to_records()):
        config = records["config"]
        assert (config["protocol"], config["version"]) == (PROTOCOL, VERSION)


def test_a_newer_server_is_refused_and_the_institution_told_to_upgrade():
    records = speaking(a_request().to_records(), protocol=PROTOCOL + 1, version="9.1")
    with pytest.raises(ProtocolError) as caught:
        Request.from_records(records)
    assert str(caught.value) == (
        f"server speaks protocol {PROTOCOL + 1} (ipfl-flower 9.1), this institution protocol "
        f"{PROTOCOL} (ipfl-flower {VERSION}): upgrade the SuperNode's bundle "
        "(ipfl allow DIR HASH, with the hash that ipfl run prints)"
    )


def test_a_server_from_before_protocols_were_numbered_is_refused():
    records = speaking(a_request().to_records(), protocol=None, version=None)
    with pytest.raises(ProtocolError, match=r"no numbered protocol .*: upgrade the server"):
        Request.from_records(records)


@pytest.mark.parametrize(
    ("protocol", "behind"),
    [(PROTOCOL + 1, "upgrade the server"), (None, "upgrade the SuperNode's bundle")],
)
def test_a_reply_of_another_protocol_is_refused_before_anything_else(protocol, behind):
    records = speaking(a_reply().to_records(), protocol=protocol, samples=-1)
    with pytest.raises(ProtocolError, match=rf"^the institution speaks .*: {behind}"):
        Reply.from_message(delivered(records), round_number=3)
    assert not records["arrays"]


def test_another_version_of_the_same_protocol_is_welcome():
    Request.from_records(speaking(a_request().to_records(), version="9.1"))
    reply = delivered(speaking(a_reply().to_records(), version="9.1"))
    assert Reply.from_message(reply, round_number=3).terms == a_reply().terms


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("samples", -1, "samples"),
        ("samples", 1.5, "field 'samples' must be int, is 1.5"),
        ("samples", True, "field 'samples' must be int, is True"),
        ("cost", -0.5, "cost"),
        ("cost", float("nan"), "cost"),
        ("cost", 1, "field 'cost' must be float, is 1"),
        ("eagerness", float("inf"), "eagerness"),
        ("budget", -2.0, "budget"),
        ("leaving", "no", "field 'leaving' must be bool"),
        ("round", 2, "reply of round 2, asked was round 3"),
    ],
)
def test_a_reply_with_a_wrong_field_is_refused_by_name(field, value, said):
    records = a_reply().to_records()
    records["config"] = ConfigRecord({**dict(records["config"]), field: value})
    with pytest.raises(ProtocolError, match=said):
        Reply.from_message(delivered(records), round_number=3)


@pytest.mark.parametrize("field", ["samples", "cost", "eagerness", "budget", "leaving", "round"])
def test_a_reply_without_a_field_is_refused_by_name(field):
    records = a_reply().to_records()
    config = dict(records["config"])
    del config[field]
    records["config"] = ConfigRecord(config)
    with pytest.raises(ProtocolError, match=f"field '{field}' must be .*, is None"):
        Reply.from_message(delivered(records), round_number=3)


@pytest.mark.parametrize(
    ("key", "kind"),
    [("arrays", "ArrayRecord"), ("config", "ConfigRecord"), ("metrics", "MetricRecord")],
)
def test_a_reply_without_a_record_is_refused(key, kind):
    records = a_reply().to_records()
    del records[key]
    with pytest.raises(ProtocolError, match=f"no {kind} '{key}'"):
        Reply.from_message(delivered(records), round_number=3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [0.5, 0.5]])
def test_a_metric_that_is_no_finite_number_is_refused(value):
    records = a_reply().to_records()
    records["metrics"] = MetricRecord({"test_accuracy": value})
    with pytest.raises(ProtocolError, match="metric 'test_accuracy' must be one finite number"):
        Reply.from_message(delivered(records), round_number=3)


def test_too_many_metrics_are_refused():
    metrics = {f"m{i}": 0.0 for i in range(METRICS_MAX + 1)}
    with pytest.raises(ProtocolError, match="65 metrics, at most 64"):
        Reply.from_message(delivered(a_reply(metrics=metrics).to_records()), round_number=3)


def test_a_torn_tensor_is_refused_by_name():
    records = a_reply().to_records()
    array = next(iter(records["arrays"].values()))
    array.data = array.data[:-3]
    with pytest.raises(ProtocolError, match=r"tensor .*\"w\".* can't be read"):
        Reply.from_message(delivered(records), round_number=3)


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("<class 'ipfl_flower.x.TrainingError'>:<'it\n diverged'>", "TrainingError: it diverged"),
        ("Node unavailable", "Node unavailable"),
        ("x" * 2000, "x" * 500),
        ("\x1b[31mred\u202e", r"\x1b[31mred\u202e"),
        ("", "no reason given"),
    ],
)
def test_an_error_reply_is_said_in_one_line(reason, said):
    asked = Message(RecordDict(), dst_node_id=7, message_type="train")
    with pytest.raises(ProtocolError) as refused:
        Reply.from_message(Message(Error(2, reason), reply_to=asked), round_number=3)
    assert str(refused.value) == f"the institution failed: {said}"


def npy(header, data=b""):
    """A .npy file with a header of our own making."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def an_npz():
    buffer = io.BytesIO()
    np.savez(buffer, w=np.zeros(3))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04 no archive",
        an_npz(),
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000,), }"),
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (10**30,), }"),
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -4), }", b"0123456789abcdef"),
        npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"cos\nsystem\n"),
        npy(b"((("),
        b"\x93NUMPY\x09\x00",
    ],
)
def test_a_hostile_tensor_is_refused_by_name(data):
    records = a_reply().to_records()
    records["arrays"] = ArrayRecord({"w": Array("float32", (2, 3), "numpy.ndarray", data)})
    with pytest.raises(ProtocolError, match="tensor 'w' can't be read"):
        Reply.from_message(delivered(records), round_number=3)


def test_a_tensor_in_fortran_order_keeps_its_values():
    model = {"w": np.asfortranarray(np.arange(6.0).reshape(2, 3))}
    read = Reply.from_message(delivered(a_reply(arrays=model).to_records()), round_number=3)
    np.testing.assert_array_equal(read.arrays["w"], model["w"])


def test_a_request_of_another_version_is_refused_at_the_institution():
    with pytest.raises(ProtocolError, match="role 'gift'"):
        Request.from_records(a_request(role="gift").to_records())
    records = a_request().to_records()
    records["config"]["statement"] = "[1]"
    with pytest.raises(ProtocolError, match="'statement' must be a JSON object"):
        Request.from_records(records)
    records["config"]["statement"] = "{"
    with pytest.raises(ProtocolError, match="'statement' is no JSON"):
        Request.from_records(records)


def test_what_a_request_says_for_logs_travels_and_may_be_missing_or_unusable():
    """An older server says nothing of it, and nothing that it may say is a reason to refuse."""
    there = {"market": "9f1c0a6be2d4c871", "institution": "alder"}
    read = Request.from_records(a_request(**there).to_records())
    assert (read.market, read.institution) == tuple(there.values())
    records = speaking(a_request(**there).to_records(), market=None, institution=None)
    read = Request.from_records(records)
    assert (read.market, read.institution) == ("", "")
    records = speaking(a_request().to_records(), market="a\nb", institution=7)
    read = Request.from_records(records)
    assert (read.market, read.institution) == ("", "")


def test_an_empty_model_travels():
    records = a_request(arrays={}, role="none").to_records()
    assert isinstance(records["arrays"], ArrayRecord)
    assert Request.from_records(records).arrays == {}
