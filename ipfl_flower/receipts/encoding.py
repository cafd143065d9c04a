"""The one way in which a receipt is written, so that one receipt is one sequence of bytes.

Canonical JSON: sorted keys, no spaces, ASCII; a float as its exact hexadecimal form
(``float.hex``), so that it is compared and recomputed bit for bit. A text in any other form is
refused: then no byte of a stored receipt can change unnoticed.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from ipfl_flower.receipts.errors import ReceiptError

SIZE_MAX: Final = 4 * 2**20
"""Characters of the largest receipt that is read: some 20,000 lines."""

NUMBER_MAX: Final = 2**63 - 1
_NAME_LENGTH_MAX: Final = 200
_SHOWN: Final = 60


def canonical(value: Any) -> str:
    """Write a JSON value in its one form."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def parse(text: str) -> dict[str, Any]:
    """Read a JSON object that is in its one form.

    Raises
    ------
    ReceiptError
        It is too large, no JSON object, or written in another way.
    """
    if len(text) > SIZE_MAX:
        raise ReceiptError(f"it has {len(text)} characters, at most {SIZE_MAX} are read")
    try:
        value = json.loads(text)
        written = canonical(value)
    except (ValueError, RecursionError) as error:
        raise ReceiptError(f"it is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ReceiptError("it is no JSON object")
    if written != text:
        raise ReceiptError("it is not in canonical form: a byte was changed, added or left out")
    return value


def fields(value: Any, names: frozenset[str], where: str) -> Mapping[str, Any]:
    """Return an object that has exactly the fields `names`.

    Raises
    ------
    ReceiptError
        It is no object, or lacks a field, or has another.
    """
    if not isinstance(value, dict):
        raise ReceiptError(f"{where} must be an object, is {shown(value)}")
    for name in sorted(names - value.keys()):
        raise ReceiptError(f"{where} has no field {name!r}")
    for name in sorted(value.keys() - names):
        raise ReceiptError(f"{where} has an unknown field {shown(name)}")
    return value


def integer(value: Any, where: str, *, least: int = -NUMBER_MAX) -> int:
    """Return an integer of at least `least` that a ledger's row can hold."""
    if type(value) is not int or not least <= value <= NUMBER_MAX:
        raise ReceiptError(f"{where} must be an integer of at least {least}, is {shown(value)}")
    return value


def boolean(value: Any, where: str) -> bool:
    """Return true or false."""
    if type(value) is not bool:
        raise ReceiptError(f"{where} must be true or false, is {shown(value)}")
    return value


def write_real(value: float) -> str:
    """Write a float exactly; −0 and 0 are the same number, as they are to a database."""
    return (float(value) + 0.0).hex()


def real(value: Any, where: str) -> float:
    """Return the float that `write_real` wrote."""
    try:
        number = float.fromhex(value)
        written = write_real(number)
    except (TypeError, ValueError, OverflowError):
        written = None
    if written is None or written != value:
        raise ReceiptError(f"{where} must be a float in hexadecimal, is {shown(value)}")
    return number


def name(value: Any, where: str) -> str:
    """Return an institution's name, as a ledger enrols it."""
    if type(value) is not str or not value.isprintable() or not 0 < len(value) <= _NAME_LENGTH_MAX:
        raise ReceiptError(f"{where} must be an institution's name, is {shown(value)}")
    return value


def digits(value: Any, count: int, where: str) -> str:
    """Return `count` lower-case hexadecimal digits."""
    if type(value) is not str or len(value) != count or set(value) - set("0123456789abcdef"):
        raise ReceiptError(f"{where} must be {count} hexadecimal digits, is {shown(value)}")
    return value


def shown(value: Any) -> str:
    """Show a value that anybody may have written, on one line and not too long."""
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
