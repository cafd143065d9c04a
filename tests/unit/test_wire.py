"""Tensors in messages: in packs and in pieces, which nobody but the wire sees."""

import json

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp.mod import LocalDpMod
from support.institutions import FakeInstitution

from ipfl_flower import wire
from ipfl_flower.protocol import Reply, Request
from ipfl_flower.wire import ProtocolError, array_record, read_arrays

MODEL = {
    "embedding": np.arange(50, dtype=np.float32).reshape(10, 5),
    "bias": np.arange(3, dtype=np.float64),
    "half": np.arange(40, dtype=np.int16),
    "turned": np.asfortranarray(np.arange(60, dtype=np.float32).reshape(6, 10)),
    "one row": np.arange(10, dtype=np.float32).reshape(1, 10),
    "scalar": np.array(2.5, np.float32),
    "empty": np.zeros((0, 4), np.float32),
    "gain": np.arange(4, dtype=np.float32),
    "offset": np.arange(5, dtype=np.float64),
    "shift": np.arange(6, dtype=np.float32).reshape(2, 3),
}
PIECES = {"embedding": 4, "half": 2, "turned": 6}
PACKS = [
    [[4, "one row", [1, 10]]],
    [[5, "scalar", []], [6, "empty", [0, 4]], [7, "gain", [4]]],
    [[1, "bias", [3]]],
    [[8, "offset", [5]]],
    [[9, "shift", [2, 3]]],
]


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch):
    monkeypatch.setattr(wire, "PIECE_BYTES", 60)
    monkeypatch.setattr(wire, "PACK_BYTES", 40)


def same(left, right):
    assert list(left) == list(right)
    for name, value in right.items():
        assert (left[name].dtype, left[name].shape) == (value.dtype, value.shape)
        assert left[name].tobytes() == value.tobytes()


@pytest.mark.parametrize("keep", [True, False])
def test_tensors_travel_in_packs_and_pieces_and_come_out_as_they_were(keep):
    record = array_record(MODEL)
    for name, count in PIECES.items():
        assert [key for key in record if key.startswith(name)] == [
            f"{name}#{k}/{count}" for k in range(count)
        ]
    packs = [json.loads(key[1:]) for key in record if key.startswith("#[")]
    assert sorted(packs) == sorted(PACKS)
    assert len(record) == sum(PIECES.values()) + len(packs)
    before = list(record)
    same(read_arrays(record, keep=keep), MODEL)
    assert list(record) == (before if keep else [])


def test_a_record_of_somebody_else_is_read_as_well():
    same(
        read_arrays(ArrayRecord({"w": Array(MODEL["embedding"])}), keep=True),
        {"w": MODEL["embedding"]},
    )


def test_the_small_tensors_of_a_model_are_one_array(monkeypatch):
    monkeypatch.undo()
    model = {f"layer{k}": np.full((k, 3), k, np.float32) for k in range(200)}
    record = array_record(model)
    assert len(record) == 1
    same(read_arrays(record, keep=False), model)
    assert len(array_record({})) == 0


@pytest.mark.parametrize("name", ["w#0/2", '#[[0, "w", [3]]]', "#["])
def test_a_tensor_may_not_be_named_like_a_pack_or_a_piece(name):
    with pytest.raises(ProtocolError, match=r"is named like a pack or a piece: rename it"):
        array_record({name: MODEL["bias"]})


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([[0, "w", [2]]], r"has shape \(3,\), not \(2,\)"),
        ([[0, "w", [4]]], "can't be read"),
        ([[0, "w", [2**62, 4, 0]], [1, "v", [3]]], "can't be read"),
        ([[0, "w", [0] * 99], [1, "v", [3]]], "can't be read"),
        ([[0, "w", [-3]]], "a shape is"),
        ([[0, "w", [3.0]]], "a shape is"),
        ([[0, "w", [True, 3]]], "a shape is"),
        ([[0, 7, [3]]], "a position, a name and a shape"),
        ([["0", "w", [3]]], "a position, a name and a shape"),
        ([[0, "w", 3]], "a position, a name and a shape"),
        ([[0, "w"]], "can't be read"),
        ([5], "can't be read"),
        ([[1, "w", [3]]], "no tensor is number 0 of 1"),
        ([[-1, "w", [3]]], "a position is -1"),
        ([[10**4000, "w", [3]]], "a position is 1000"),
        ([[0, "w", [10**4000] * 200]], "a shape is"),
        ([[0, "w", [2**63, 0]]], "a shape is"),
        ([[k, f"w{k}", [0]] for k in range(501)], "holds 501 tensors, at most 500"),
        ([[0, "w" * 2**20, [3]]], "its name has 1048"),
        ([[0, "w", [1]], [0, "v", [2]]], "two tensors are said to be number 0"),
        ([[0, "w", [1]], [1, "w", [2]]], "'w' comes twice"),
    ],
)
def test_a_pack_that_is_not_what_it_says_is_refused(entries, said):
    record = ArrayRecord({"#" + json.dumps(entries): Array(np.float32([1, 2, 3]))})
    with pytest.raises(ProtocolError, match=said):
        read_arrays(record, keep=False)


@pytest.mark.parametrize("key", ["#[", "#[[[", "#[" * 50_000, f"#[{'9' * 5000}]", "#[]"])
def test_a_pack_whose_name_says_nothing_is_refused(key):
    with pytest.raises(ProtocolError, match="can't be read"):
        read_arrays(ArrayRecord({key: Array(np.float32([1, 2, 3]))}), keep=False)


def test_a_model_of_very_many_tensors_travels_in_several_packs_or_not_at_all(monkeypatch):
    monkeypatch.undo()
    model = {f"w{k}": np.float32([k]) for k in range(1201)}
    record = array_record(model)
    assert len(record) == 3
    same(read_arrays(record, keep=True), model)
    monkeypatch.setattr(wire, "TENSORS_MAX", 1200)
    with pytest.raises(ProtocolError, match="has 1201 tensors, at most 1200 travel"):
        array_record(model)
    with pytest.raises(ProtocolError, match="a position is 1200"):
        read_arrays(record, keep=True)
    with pytest.raises(ProtocolError, match="more than 1200 tensors came"):
        read_arrays(ArrayRecord({name: Array(value) for name, value in model.items()}), keep=True)


@pytest.mark.parametrize("name", ["w" * 1001, "w\n"])
def test_a_tensor_of_too_long_a_name_does_not_travel(name):
    with pytest.raises(ProtocolError, match="characters: at most 1000 printable ones are taken"):
        array_record({name: MODEL["bias"]})


@pytest.mark.parametrize("letter", ['"', "\U0001f41d"])
def test_long_names_of_many_tensors_are_read_back(letter):
    model = {letter * 996 + f"{k:04}": np.zeros((0, 12345), np.int16) for k in range(1000)}
    same(read_arrays(array_record(model), keep=True), model)


def test_a_tensor_may_not_come_in_a_pack_and_beside_it():
    record = array_record({"w": MODEL["bias"]})
    record["w"] = Array(MODEL["bias"])
    with pytest.raises(ProtocolError, match="'w' comes twice"):
        read_arrays(record, keep=False)


def without(record, key):
    del record[key]


def swapped(record, left, right):
    record[left], record[right] = record[right], record[left]


def as_named(record, key, name):
    record[name] = record.pop(key)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda r: without(r, "embedding#2/4"), "'embedding' did not come whole"),
        (lambda r: without(r, "embedding#3/4"), "'embedding' did not come whole"),
        (lambda r: as_named(r, "embedding#3/4", "embedding#7/4"), "'embedding' did not come whole"),
        (lambda r: as_named(r, "embedding#0/4", "embedding#0/4"), "'embedding' did not come whole"),
        (lambda r: as_named(r, "half#0/2", "embedding"), "'embedding' did not come whole"),
        (lambda r: r.update({"half#1/2": Array(np.float64([1, 2]))}), "'half#1/2' does not fit"),
        (lambda r: r.update({"half#1/2": Array(np.int16([[1]]))}), "'half#1/2' does not fit"),
        (lambda r: r.update({"half#1/2": Array(np.array(1, np.int16))}), "'half#1/2' does not fit"),
        (
            lambda r: r.update({"half#1/2": Array("int16", (1,), "numpy.ndarray", b"\x93NUMPY")}),
            "'half#1/2' can't be read",
        ),
    ],
)
def test_pieces_that_do_not_make_a_tensor_are_refused(damage, said):
    record = array_record(MODEL)
    damage(record)
    with pytest.raises(ProtocolError, match=said):
        read_arrays(record, keep=False)


def header(shape, descr="<f4"):
    """Return the bytes of an .npy file without values: its header alone."""
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (-(len(text) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def named(shape, descr="<f4", key="w"):
    return {key: Array("float32", (0,), "numpy.ndarray", header(shape, descr))}


@pytest.mark.parametrize(
    "arrays",
    [
        named("(18446744073709551616, 0)"),
        named("(0, 1099511627776, 1099511627776, 1099511627776)"),
        named("(" + "0, " * 70 + ")"),
        named("(True,)", "|S0"),
        named("(3,)", "|S0"),
        named("(0,)", "|O"),
        named("(-1, 0)"),
        named("(0,)", "(2,)<f4"),
        named("(4611686018427387904, 0)", key="w#0/2")
        | named("(4611686018427387904, 0)", key="w#1/2"),
    ],
)
def test_whatever_a_header_claims_it_is_refused(arrays):
    record = ArrayRecord(arrays)
    with pytest.raises(ProtocolError, match=r"'w.*can't be read"):
        read_arrays(record, keep=False)


def test_a_reply_that_was_read_or_refused_holds_its_model_no_more():
    institution = FakeInstitution(seed=0)
    request = Request(0, train=True, role="initial", arrays=MODEL, coefficient=0.0, start="own")
    for number, refused in ((0, False), (5, True)):
        asked = Message(request.to_records(), dst_node_id=7, message_type="train")
        asked.metadata.__dict__["_message_id"] = "m1"
        reply = institution(asked)
        assert len(reply.content["arrays"]) > len(MODEL)
        if refused:
            with pytest.raises(ProtocolError, match="reply of round 0, asked was round 5"):
                Reply.from_message(reply, round_number=number)
        else:
            assert list(Reply.from_message(reply, round_number=number).arrays) == list(MODEL)
        assert len(reply.content["arrays"]) == 0


def test_flowers_own_mods_work_on_packs_and_pieces():
    """Local differential privacy compares the keys of the two records, after the ClientApp."""
    model = {name: MODEL[name] for name in ("embedding", "bias")}
    request = Request(0, train=True, role="initial", arrays=model, coefficient=0.0, start="own")
    asked = Message(request.to_records(), dst_node_id=7, message_type="train")
    asked.metadata.__dict__["_message_id"] = "m1"
    context = Context(1, 7, {}, RecordDict(), {})
    mod = LocalDpMod(clipping_norm=1e-3, sensitivity=1e-9, epsilon=1.0, delta=1e-5)
    reply = mod(asked, context, lambda message, _: FakeInstitution(seed=0)(message))
    assert not reply.has_error(), reply.error
    private = Reply.from_message(reply, round_number=0).arrays
    moved = [np.linalg.norm(private[name] - value) ** 2 for name, value in model.items()]
    assert 0 < np.sqrt(sum(moved)) < 2e-3
