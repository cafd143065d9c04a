"""Compare the receipts that institutions keep with the ledger that an operator shows.

A ledger that was rewritten, or cut off at its end, is consistent in itself. What the operator
signed at the time is in the institutions' hands, and contradicts it.
"""

from collections.abc import Iterable, Iterator

from ipfl_flower.ledger import Ledger, LedgerError, RoundSummary, State
from ipfl_flower.notary import OPERATOR_KEY, Minutes
from ipfl_flower.receipts import Receipt, SignedReceipt, Stored, verify_signature
from ipfl_flower.receipts.encoding import canonical, shown

_SETTLED = frozenset((State.SETTLED, State.DELIVERED))


def audit(ledger: Ledger, stored: Iterable[Stored]) -> list[str]:
    """Compare receipts with a ledger.

    Parameters
    ----------
    ledger : Ledger
        Verified by itself, or not: what is compared is what it holds now.
    stored : iterable of Stored
        The receipts of any institutions. Alarms count as far as the operator signed them.

    Returns
    -------
    list of str
        What doesn't fit, a line each, with file, round and institution; empty if all is well.
    """
    key = (ledger.settings or {}).get(OPERATOR_KEY)
    rounds = {item.number: item for item in ledger.rounds()}
    minutes: dict[int, Minutes] = {}
    found = []
    for item in stored:
        signed = item.signed
        if signed is None or (item.alarm and not _is_operators(signed, key)):
            if not item.alarm:  # what an institution refused as unsigned says nothing
                found.append(f"{item.path}: {item.findings[0]}")
            continue
        where = f"{item.path}: round {signed.receipt.round}, {signed.receipt.institution}"
        if not verify_signature(signed):
            found.append(f"{where}: the signature is wrong: the receipt is damaged or forged")
            continue
        found += [f"{where}: {what}" for what in _findings(ledger, signed, key, rounds, minutes)]
    return found


def _is_operators(signed: SignedReceipt, key: object) -> bool:
    return signed.key == key and verify_signature(signed)


def _findings(
    ledger: Ledger,
    signed: SignedReceipt,
    key: object,
    rounds: dict[int, RoundSummary],
    minutes: dict[int, Minutes],
) -> Iterator[str]:
    receipt = signed.receipt
    if signed.key != key:
        yield f"signed with key {signed.key[:16]}, the ledger names {shown(key)}"
    summary = rounds.get(receipt.round)
    if summary is None:
        newest = max(rounds, default=None)
        end = "is empty" if newest is None else f"ends at round {newest}"
        yield f"the ledger {end}: it was cut off, or is another market's"
        return
    if summary.state not in _SETTLED:
        yield f"the round is {summary.state} in the ledger"
        return
    try:
        if receipt.round not in minutes:
            settlement = ledger.settlement(receipt.round)
            minutes[receipt.round] = Minutes.of(ledger, settlement)
    except LedgerError as error:
        yield f"the ledger's round can't be read: {error}"
        return
    yield from _against(receipt, minutes[receipt.round])


def _against(receipt: Receipt, minutes: Minutes) -> Iterator[str]:
    """Compare a receipt, field by field, with the one that the ledger gives now."""
    ids = {minutes.institutions[i].name: i for i in minutes.settlement.participants}
    if receipt.institution not in ids:
        yield "the institution took no part in the round, says the ledger"
        return
    told = receipt.to_object()
    for name, value in minutes.receipt(ids[receipt.institution]).to_object().items():
        if value != told[name]:
            ledgers, receipts = canonical(value), canonical(told[name])
            yield f"{name} is {receipts} in the receipt, {ledgers} in the ledger"
