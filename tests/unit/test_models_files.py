"""Model files: whole or not there, and hostile ones."""

import io
import pickle
import zipfile

import numpy as np
import pytest

from ipfl_flower.models import ModelError, load_model, save_model

THETA = {"file": np.arange(6, dtype=np.float32).reshape(2, 3), "a/b.npy": np.array(1.5)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "theta0.npz"


def npy(array, **how):
    data = io.BytesIO()
    np.save(data, array, **how)
    return data.getvalue()


def header(text, version=b"\x01\x00"):
    text = text.encode() + b"\n"
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text


def write_zip(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)


def test_a_model_is_read_as_written_and_the_same_model_gives_the_same_file(path):
    save_model(path, THETA)
    first = path.read_bytes()
    arrays = load_model(path)
    assert list(arrays) == list(THETA)
    for name, array in THETA.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array, strict=True)
    arrays["file"] += 1  # a model that was read can be changed
    save_model(path, THETA)
    assert path.read_bytes() == first
    assert [item.name for item in path.parent.iterdir()] == [path.name]


def test_what_numpy_writes_is_read_in_any_order_and_byte_order(path):
    weights = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.savez(path, w=np.asfortranarray(weights), b=weights.astype(">f4"))
    arrays = load_model(path)
    np.testing.assert_array_equal(arrays["w"], weights)
    np.testing.assert_array_equal(arrays["b"], weights)


def test_a_crash_while_writing_leaves_the_old_model(path, monkeypatch):
    save_model(path, THETA)

    def crash(*_):
        raise OSError("power is off")

    monkeypatch.setattr("ipfl_flower.models.files.os.fsync", crash)
    with pytest.raises(OSError, match="power is off"):
        save_model(path, {"file": np.zeros((2, 3), np.float32)})
    assert list(load_model(path)) == list(THETA)
    assert [item.name for item in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("array", "what"), [(np.zeros(2, np.int64), "is int64"), (np.full(2, np.nan), "not finite")]
)
def test_what_is_no_model_is_neither_written_nor_read(path, array, what):
    with pytest.raises(ModelError, match=what):
        save_model(path, {"w": array})
    assert not path.exists()
    np.savez(path, w=array)
    with pytest.raises(ModelError, match=what) as error:
        load_model(path)
    assert str(path) in str(error.value)


class Payload:
    def __reduce__(self):
        return pytest.fail, ("a model file was executed",)


HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }"
NEGATIVE = "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -1), }"
DEEP = "(" * 5000
OBJECT = "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
LATER = "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }"
EMPTY = "{'descr': '|V0', 'fortran_order': False, 'shape': (3,), }"


@pytest.mark.parametrize(
    ("members", "what"),
    [
        ([], "holds no tensor"),
        ([("w.npy", header(OBJECT) + pickle.dumps(Payload()))], "Python objects"),
        ([("w.pkl", pickle.dumps(Payload()))], "'w.pkl' is no array"),
        ([("w.npy", header(HUGE) + bytes(4))], "not as long as its shape"),
        ([("w.npy", header(NEGATIVE) + bytes(4))], "not as long as its shape"),
        ([("w.npy", header(EMPTY))], "is damaged, or not a model"),
        ([("w.npy", header(DEEP))], "is damaged, or not a model"),
        ([("w.npy", header("__import__('os').abort()"))], "is damaged, or not a model"),
        ([("w.npy", header(LATER, b"\x07\x00") + bytes(4))], r"version \(7, 0\)"),
        ([("w.npy", npy(np.zeros(3, np.float32))[:-1])], "not as long as its shape"),
        ([("w.npy", b"")], "is damaged, or not a model"),
    ],
)
def test_hostile_members_are_refused(path, members, what):
    write_zip(path, members)
    with pytest.raises(ModelError, match=what) as error:
        load_model(path)
    assert str(path) in str(error.value)


def test_a_header_of_version_2_is_read(path):
    data = io.BytesIO()
    np.lib.format.write_array(data, np.ones(2, np.float32), version=(2, 0))
    write_zip(path, [("w.npy", data.getvalue())])
    np.testing.assert_array_equal(load_model(path)["w"], [1, 1])


def test_compressed_and_doubled_members_are_refused(path):
    zeros = npy(np.zeros(10**6, np.float32))
    write_zip(path, [("w.npy", zeros)], zipfile.ZIP_DEFLATED)
    with pytest.raises(ModelError, match=r"'w\.npy' is compressed: write it with numpy\.savez"):
        load_model(path)
    with pytest.warns(UserWarning, match="Duplicate name"):
        write_zip(path, [("w.npy", zeros)] * 2)
    with pytest.raises(ModelError, match="two tensors have one name"):
        load_model(path)


def test_a_member_longer_than_the_file_is_refused(path):
    write_zip(path, [("w.npy", npy(np.zeros(3, np.float32)))])
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")  # its place in the zip's directory
    content[entry + 20 : entry + 28] = b"\xff\xff\xff\x7f" * 2
    path.write_bytes(content)
    with pytest.raises(ModelError, match="longer than the file"):
        load_model(path)


@pytest.mark.parametrize("content", [b"", b"no zip", npy(np.zeros(3, np.float32))])
def test_other_files_are_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(ModelError, match="is damaged, or not a model") as error:
        load_model(path)
    assert str(path) in str(error.value)


def test_a_file_that_is_missing_is_named(path):
    with pytest.raises(ModelError, match="can't be read: No such file") as error:
        load_model(path)
    assert str(path) in str(error.value)
