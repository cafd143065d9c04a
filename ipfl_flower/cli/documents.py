"""Files that are handed from one house to another: small, whole, and read with suspicion."""

import errno
import json
import os
import stat
import tempfile
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

SIZE_MAX: Final = 2**18
"""Bytes of the largest request or kit that is read: both have a few thousand."""

_SHOWN: Final = 80

Document = TypeVar("Document", bound=BaseModel)


class KitError(ValueError):
    """A request, a kit or a key can't be read, or doesn't fit; the message is one line."""


def canonical(value: Any) -> bytes:
    """Write a JSON value in the one form that is signed: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def read_file(path: Path, what: str, *, follow: bool = True) -> bytes:
    """Read a small regular file.

    Parameters
    ----------
    path : Path
    what : str
        What the file should be, for the message: "kit".
    follow : bool
        Whether it may be a symbolic link, as what Kubernetes mounts is; what came from elsewhere
        may not.

    Raises
    ------
    KitError
        It is missing, no regular file, unreadable, or has more than `SIZE_MAX` bytes.
    """
    # Without O_NONBLOCK a named pipe would be waited for.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags if follow else flags | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise KitError(f"{path} is no regular file: name the file of the {what}")
            content = file.read(SIZE_MAX + 1)
    except OSError as error:
        if error.errno == errno.ELOOP and not follow:
            raise KitError(f"{path} is a symbolic link: name the {what} itself") from error
        raise KitError(f"{path}, the {what}, can't be read: {error.strerror}") from error
    if len(content) > SIZE_MAX:
        raise KitError(f"{path} has more than {SIZE_MAX} bytes: it is no {what}")
    return content


def read_document(path: Path, model: type[Document], what: str, *, follow: bool = True) -> Document:
    """Read a JSON document and check its form.

    Raises
    ------
    KitError
        It can't be read, is no JSON, or lacks a field or has a wrong one; the first is named.
    """
    content = read_file(path, what, follow=follow)
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        item = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in item["loc"])
        reason = _one_line(f"{where}: {item['msg']}" if where else item["msg"])
        raise KitError(f"{path} is no {what}, or damaged ({reason}): have it sent again") from error


def write_document(path: Path, document: BaseModel) -> None:
    """Write a document as JSON to be read by people, too; the same one gives the same bytes."""
    value = document.model_dump(mode="json")
    write_file(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())


def write_file(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file whole, in place of another or of a link to one; never half of it.

    Raises
    ------
    KitError
        It can't be written.
    """
    temporary = None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise KitError(f"{path} can't be written: {error.strerror}") from error


def _one_line(text: str) -> str:
    """Make one short printable line of what may quote a stranger's bytes."""
    line = ascii(" ".join(text.split()))[1:-1]
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"
