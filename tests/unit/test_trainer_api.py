"""The protocol's parts: generated stubs, addresses, and a model in chunks."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ipfl_flower import trainer_api
from ipfl_flower.trainer_api import Address, AddressError, Spec, Tls, WireError
from ipfl_flower.trainer_api import trainer_pb2 as pb
from ipfl_flower.trainer_api.tensors import (
    CHUNK_BYTES_MAX,
    Inbox,
    Outbox,
    layout_message,
    layout_of,
    read_layout,
)

FOLDER = Path(trainer_api.__file__).parent
DTYPES = ("float16", "float32", "float64", "int16", "uint8", "bool")


def test_the_stubs_in_the_tree_are_those_of_the_proto(tmp_path):
    """``make proto`` with the pinned tools makes the files that are kept."""
    tools = importlib.metadata.version("grpcio-tools")
    assert f"GRPC_GENERATED_VERSION = '{tools}'" in (FOLDER / "trainer_pb2_grpc.py").read_text()
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", f"-I{FOLDER.parents[1]}"),
            *(f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", f"--grpc_python_out={tmp_path}"),
            "ipfl_flower/trainer_api/trainer.proto",
        ],
        check=True,
        timeout=60,
        cwd=FOLDER.parents[1],
    )
    made = tmp_path / "ipfl_flower" / "trainer_api"
    names = sorted(path.name for path in made.iterdir())
    assert names == ["trainer_pb2.py", "trainer_pb2.pyi", "trainer_pb2_grpc.py"]
    for name in names:
        assert (made / name).read_text() == (FOLDER / name).read_text(), "run make proto"


# --- addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("unix:///run/ipfl/trainer.sock", True),
        ("127.0.0.1:9095", True),
        ("127.9.9.9:1", True),
        ("localhost:9095", True),
        ("[::1]:9095", True),
        ("0.0.0.0:9095", False),
        ("[::]:9095", False),
        ("192.168.1.7:9095", False),
        ("trainer.example:9095", False),
        ("localhost.example:9095", False),
        ("127.0.0.1.example:9095", False),
    ],
)
def test_an_address_is_read_and_known_to_be_local_or_not(text, local):
    address = Address.parse(text)
    assert address.local is local
    assert str(address) == text
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "neither unix:///path nor host:port"),
        ("trainer.example", "neither unix:///path nor host:port"),
        ("::1:9095", "neither unix:///path nor host:port"),
        ("host:65536", "neither unix:///path nor host:port"),
        ("host:-1", "neither unix:///path nor host:port"),
        ("https://host:1", "neither unix:///path nor host:port"),
        ("unix://trainer.sock", "give an absolute path"),
        ("unix:///" + "x" * 107, "has at most 107 bytes: put it into a folder with a shorter"),
    ],
)
def test_what_is_no_address_is_named(text, message):
    with pytest.raises(AddressError, match=message):
        Address.parse(text)


def test_a_file_of_tls_that_is_none_is_named(tmp_path):
    file = tmp_path / "ca.pem"
    with pytest.raises(AddressError, match=r"ca\.pem can't be read: No such file"):
        Tls(file, file, file).read()
    file.write_text("hello")
    with pytest.raises(AddressError, match=r"ca\.pem is not a PEM file"):
        Tls(file, file, file).read()


# --- a model in chunks ----------------------------------------------------------------------------

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def model_of(specs, seed):
    """Fill tensors with any bits, NaNs and all."""
    rng = np.random.default_rng(seed)
    arrays = {name: np.empty(shape, dtype) for name, (dtype, shape) in specs.items()}
    for name, array in arrays.items():
        bits = rng.integers(0, 256, array.nbytes, np.uint8)
        arrays[name] = (
            (bits % 2).view(bool).reshape(array.shape)
            if array.dtype == bool
            else (bits.view(array.dtype).reshape(array.shape))
        )
    return arrays


models = st.builds(
    model_of,
    st.dictionaries(
        st.text(max_size=5),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 6), max_size=3).map(tuple)),
        max_size=4,
    ),
    st.integers(0, 2**32 - 1),
)


def receive(model, chunks, end):
    layout = read_layout(pb.Layout.FromString(layout_message(layout_of(model)).SerializeToString()))
    inbox = Inbox(layout)
    for chunk in chunks:
        inbox.take(chunk)
    return inbox.close(end)


@unhurried
@given(model=models, data=st.data())
def test_a_model_arrives_as_it_was_sent_however_it_is_cut(model, data):
    outbox = Outbox(model)
    content = b"".join(outbox)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(content) - 1)), max_size=4)))
    pieces = [content[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]
    came = receive(model, [piece for piece in pieces if piece], outbox.end)
    assert list(came) == list(model)
    for name, array in model.items():
        assert came[name].dtype == array.dtype
        assert came[name].shape == array.shape
        assert came[name].tobytes() == array.tobytes()


def test_a_long_tensor_is_cut_and_a_strange_order_of_memory_is_put_right():
    rng = np.random.default_rng(0)
    long = rng.standard_normal(CHUNK_BYTES_MAX // 2)
    model = {
        "long": long,
        "columns first": np.asfortranarray(rng.standard_normal((30, 40))),
        "big-endian": np.arange(7, dtype=">f4"),
        "every other": np.arange(20.0)[::2],
        "number": np.array(3.5, np.float32),
    }
    outbox = Outbox(model)
    chunks = list(outbox)
    assert max(map(len, chunks)) == CHUNK_BYTES_MAX
    came = receive(model, chunks, outbox.end)
    for name, array in model.items():
        np.testing.assert_array_equal(came[name], array)


@unhurried
@given(model=models.filter(lambda model: sum(a.nbytes for a in model.values())), data=st.data())
def test_a_byte_that_changes_on_the_way_is_noticed(model, data):
    outbox = Outbox(model)
    content = bytearray(b"".join(outbox))
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(WireError, match="damaged on the way"):
        receive(model, [bytes(content)], outbox.end)


@pytest.mark.parametrize("dtype", ["object", "O", "f4", "str", "float128x", "complex64", "", "V8"])
def test_a_model_cannot_travel_as_anything(dtype):
    with pytest.raises(WireError, match="can't travel as"):
        Inbox({"w": Spec(dtype, (1,))})
