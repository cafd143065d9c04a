"""An institution's folder of receipts: what it reported, what it was told, and what didn't fit.

    operator.key                     the operator's public key, from the first receipt on
    terms-000003.json                the terms that the institution reported in round 3
    round-000003.json                the signed receipt of round 3, which fits
    round-000003.1a2b3c4d.alarm.json a receipt that doesn't, with the findings

Every file is written once, whole, and never replaced.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ipfl_flower.market import Terms
from ipfl_flower.receipts.checks import check
from ipfl_flower.receipts.encoding import SIZE_MAX, canonical, fields, parse
from ipfl_flower.receipts.errors import ReceiptError
from ipfl_flower.receipts.files import make_private_folder, write_new
from ipfl_flower.receipts.keys import read_public_key
from ipfl_flower.receipts.receipt import read_terms, terms_object
from ipfl_flower.receipts.signing import SignedReceipt, verify_signature

_RECEIPT: Final = re.compile(r"round-(\d{6,})\.json")
_TERMS: Final = re.compile(r"terms-(\d{6,})\.json")
_ALARM_FIELDS: Final = frozenset(("findings", "received"))


@dataclass(frozen=True)
class Stored:
    """A file of receipts, read.

    Attributes
    ----------
    path : Path
    signed : SignedReceipt or None
        None if it can't be read.
    findings : tuple of str
        Of a receipt's file: why it can't be read. Of an alarm: what it was raised for.
    alarm : bool
        Whether it is an alarm's file.
    """

    path: Path
    signed: SignedReceipt | None
    findings: tuple[str, ...]
    alarm: bool


class ReceiptFolder:
    """The receipts of one institution.

    Parameters
    ----------
    folder : Path
        Made when it is first written to.
    operator_key : str, optional
        The public key, 64 hexadecimal digits, that signs receipts; by default the one pinned in
        the folder, which is that of the first receipt.
    """

    def __init__(self, folder: Path, operator_key: str | None = None) -> None:
        self._folder = folder
        self._operator_key = operator_key

    def operator_key(self) -> str | None:
        """Return the key that receipts must be signed with; None: not known yet.

        Raises
        ------
        ReceiptError
            The pinned key is damaged.
        """
        pinned = self._folder / "operator.key"
        if self._operator_key is not None or not pinned.exists():
            return self._operator_key
        return read_public_key(pinned)

    def report(self, number: int, terms: Terms) -> None:
        """Remember which terms are reported in a round, before they are.

        Raises
        ------
        ReceiptError
            The folder can't be written, or the round's file is damaged.
        """
        known = self._reported(number)
        if terms in known:
            return
        # Terms may change between two askings of one round; either report may be the one settled.
        name = f"terms-{number:06d}.json" if not known else f"terms-{number:06d}.{len(known)}.json"
        self._write(name, canonical(terms_object(terms)))

    def take(self, text: str, asked_in: int, also: Sequence[str] = ()) -> list[str]:
        """Check a receipt as it came and keep it: as a receipt if it fits, else as an alarm.

        Parameters
        ----------
        text : str
            Canonical JSON of the signed receipt.
        asked_in : int
            The round whose message brought it.
        also : sequence of str
            What the caller has found wrong with it.

        Returns
        -------
        list of str
            What doesn't fit. The same receipt again changes nothing.

        Raises
        ------
        ReceiptError
            The folder can't be written, or the pinned key is damaged.
        """
        try:
            signed = SignedReceipt.from_json(text)
        except ReceiptError as error:
            self._alarm(f"message-{asked_in:06d}", text[:SIZE_MAX], [str(error)])
            return [str(error)]
        number = signed.receipt.round
        name = f"round-{number:06d}"
        path = self._folder / f"{name}.json"
        stored = read_stored(path) if path.exists() else None
        if stored is not None and stored.signed == signed and not also:
            return []
        findings = [*also, *self.findings(signed)]
        if number >= asked_in:
            findings.append(f"round {number} was not over when round {asked_in} began")
        if stored is not None and stored.signed is None:
            findings.append(f"what is stored of this round is damaged: {stored.findings[0]}")
        elif stored is not None and stored.signed != signed:
            findings.append("another receipt of this round is stored already")
        if findings:
            self._alarm(name, text, findings)
            return findings
        if self.operator_key() is None:
            self._write("operator.key", signed.key + "\n")
        self._write(path.name, text)
        return []

    def findings(self, signed: SignedReceipt) -> list[str]:
        """Check a receipt against the key, the terms reported, and the receipt before it.

        Returns
        -------
        list of str
            What doesn't fit; also what is damaged of that which it is checked against.

        Raises
        ------
        ReceiptError
            The pinned key is damaged.
        """
        key = self.operator_key()
        if not verify_signature(signed):
            return [f"the signature is not one of key {signed.key[:16]}: damaged or forged"]
        if not verify_signature(signed, key):
            return [f"signed with key {signed.key[:16]}, the operator's is {str(key)[:16]}"]
        receipt = signed.receipt
        found: list[str] = []
        own: list[Terms] = []
        before = None
        try:
            own = self._reported(receipt.round)
            if not own and any(n <= receipt.round for n in self._numbers(_TERMS)):
                found.append("this institution reported nothing in that round")
            before = self._before(receipt.round)
        except ReceiptError as error:
            found.append(f"can't be checked against what is stored: {error}")
        known = receipt.terms if receipt.terms in own else next(iter(own), None)
        return found + check(receipt, known, None if before is None else before.receipt)

    def alarms(self) -> list[Path]:
        """Return the files of the alarms that were raised."""
        return sorted(self._folder.glob("*.alarm.json"))

    def raise_alarm(self, number: int, finding: str) -> None:
        """Keep an alarm about a message that brought no receipt."""
        self._alarm(f"message-{number:06d}", "", [finding])

    def _before(self, number: int) -> SignedReceipt | None:
        """Load the receipt that a new one of round `number` must follow: the newest other one."""
        others = sorted(n for n in self._numbers(_RECEIPT) if n != number)
        earlier = [n for n in others if n < number]
        stored = (self._folder / f"round-{number:06d}.json").exists()
        which = earlier if stored else others
        if not which:
            return None
        found = read_stored(self._folder / f"round-{which[-1]:06d}.json")
        if found.signed is None:
            raise ReceiptError(f"{found.path}: {found.findings[0]}")
        return found.signed

    def _reported(self, number: int) -> list[Terms]:
        terms = []
        name = f"terms-{number:06d}"
        again = sorted(self._folder.glob(f"{name}.*.json"))
        for path in filter(Path.exists, (self._folder / f"{name}.json", *again)):
            try:
                terms.append(read_terms(parse(_read(path)), "terms"))
            except ReceiptError as error:
                raise ReceiptError(f"{path}: {error}") from error
        return terms

    def _numbers(self, kind: re.Pattern[str]) -> Iterator[int]:
        if self._folder.is_dir():
            for path in self._folder.iterdir():
                found = kind.fullmatch(path.name)
                if found:
                    yield int(found[1])

    def _alarm(self, name: str, received: str, findings: Sequence[str]) -> None:
        digest = hashlib.sha256(received.encode()).hexdigest()[:8]
        content = canonical({"findings": list(findings), "received": received})
        self._write(f"{name}.{digest}.alarm.json", content)

    def _write(self, name: str, content: str) -> None:
        try:
            make_private_folder(self._folder)
            write_new(self._folder / name, content.encode())
        except OSError as error:
            raise ReceiptError(
                f"{self._folder / name} can't be written ({error.strerror}): free space on its "
                "disk, or let this process write there"
            ) from error


def stored_receipts(folder: Path, *, nested: bool = False) -> list[Stored]:
    """Read all receipts and alarms in a folder, in the order of their names.

    Parameters
    ----------
    folder : Path
    nested : bool
        Whether those in the folders in it are read, too.

    Raises
    ------
    ReceiptError
        The folder is missing or holds none.
    """
    paths = sorted(folder.rglob("*.json") if nested else folder.glob("*.json"))
    found = [read_stored(path) for path in paths if _is_receipts(path)]
    if not found:
        raise ReceiptError(
            f"{folder} holds no receipts: name the folder 'receipts' in an institution's state_dir"
        )
    return found


def read_stored(path: Path) -> Stored:
    """Read a receipt's or an alarm's file; what is wrong with it becomes its finding."""
    alarm = path.name.endswith(".alarm.json")
    try:
        text = _read(path)
        if alarm:
            return _read_alarm(path, text)
        signed = SignedReceipt.from_json(text)
    except ReceiptError as error:
        return Stored(path, None, (str(error),), alarm)
    if path.name != f"round-{signed.receipt.round:06d}.json":
        return Stored(path, None, (f"it is the receipt of round {signed.receipt.round}",), alarm)
    return Stored(path, signed, (), alarm)


def _read_alarm(path: Path, text: str) -> Stored:
    given = fields(parse(text), _ALARM_FIELDS, "the alarm")
    received, findings = given["received"], given["findings"]
    try:
        signed = SignedReceipt.from_json(received if isinstance(received, str) else "")
    except ReceiptError:
        signed = None
    lines = findings if isinstance(findings, list) else []
    return Stored(path, signed, tuple(str(line) for line in lines), alarm=True)


def _is_receipts(path: Path) -> bool:
    return _RECEIPT.fullmatch(path.name) is not None or path.name.endswith(".alarm.json")


def _read(path: Path) -> str:
    """Read a file of a receipt, and never more than a receipt may be."""
    try:
        with path.open("rb") as file:
            return file.read(2 * SIZE_MAX + 1).decode("ascii")
    except OSError as error:
        raise ReceiptError(f"it can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ReceiptError(
            "it is not in canonical form: it holds a byte that is not ASCII"
        ) from error
