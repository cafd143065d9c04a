"""The operator's books: market.toml, ledger, receipt key, admissions, θ⁰, refusals."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ipfl_flower.cli.admit import operator_key
from ipfl_flower.cli.contract import check_samples_cap
from ipfl_flower.cli.doctoring.finding import NotKnownError, Verdict, fail, ok, warn
from ipfl_flower.cli.doctoring.layout import Tensor
from ipfl_flower.cli.flower import UNREGISTERED, RegisteredNode
from ipfl_flower.cli.node_keys import fingerprint_of_bytes
from ipfl_flower.cli.refusals import read_refusals
from ipfl_flower.ledger import Ledger
from ipfl_flower.models import load_model
from ipfl_flower.receipts import public_hex
from ipfl_flower.settings import Settings

LATELY = timedelta(days=1)


def open_ledger(settings: Settings) -> Ledger:
    """Open the market's ledger, without making one.

    Raises
    ------
    NotKnownError
        There is none yet.
    LedgerError
        It can't be opened.
    """
    if "://" not in settings.ledger and not Path(settings.ledger).exists():
        raise NotKnownError(f"{settings.ledger} is not there yet: the first ipfl admit makes it")
    return Ledger.open(settings.ledger, read_only=True)


def ledger_sound(ledger: Ledger) -> Verdict:
    """Verify a ledger."""
    problems = ledger.verify()
    if problems:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        return fail(
            f"{ledger.name} does not verify: {problems[0]}{more}: see ipfl ledger verify, and "
            "restore a backup"
        )
    begun = ledger.settings is not None
    head = f"head {ledger.head()}" if begun else "the market has not begun"
    return ok(f"{ledger.name} verifies: {len(ledger.rounds())} rounds, {head}")


def contract_kept(settings: Settings, ledger: Ledger) -> Verdict:
    """Tell whether the key that signs receipts, and the terms, are those of the ledger's market.

    Raises
    ------
    KitError, ReceiptError
        They are not, or the key can't be used.
    """
    check_samples_cap(ledger, settings.samples_max)
    file = settings.receipt_key_file
    begun = ledger.settings is not None
    if not begun and not file.exists():
        return warn(f"{file} is not there yet: the first ipfl admit makes it")
    key = public_hex(operator_key(ledger, settings).public_key())
    whose = "and the terms are the market's" if begun else "and the market has not begun"
    return ok(f"{file} is there, operator key {key}, {whose}")


def admissions_kept(ledger: Ledger, nodes: Sequence[RegisteredNode]) -> Verdict:
    """Compare who is admitted in the ledger with the keys that the SuperLink knows."""
    known = {node.public_key: node for node in nodes if node.status != UNREGISTERED}
    accounts, expelled = ledger.institutions(), ledger.expelled()
    admitted = [item for item in accounts if item.id not in expelled]
    missing = [item.name for item in admitted if item.public_key not in known]
    staying = [item.name for item in accounts if item.id in expelled and item.public_key in known]
    ours = {item.public_key for item in accounts}
    strangers = [
        node.name or fingerprint_of_bytes(key) for key, node in known.items() if key not in ours
    ]
    wrong = []
    if missing:
        wrong.append(f"the SuperLink lacks the keys of {', '.join(missing)}: ipfl admit them again")
    if staying:
        wrong.append(
            f"expelled, but the SuperLink knows their keys: {', '.join(staying)}: ipfl expel them "
            "again"
        )
    if wrong:
        return fail("; ".join(wrong))
    if strangers:
        return warn(
            f"registered, and never admitted: {', '.join(strangers)}: they take part when they "
            "connect; unknown ones: flwr supernode unregister"
        )
    online = sum(node.status == "online" for node in known.values())
    return ok(f"{len(admitted)} admitted, all of them registered, {online} online")


def initial_tensors(settings: Settings) -> list[Tensor]:
    """Read the layout of θ⁰.

    Raises
    ------
    ModelError
        It is missing or damaged.
    """
    arrays = load_model(settings.initial_model)
    return [(name, array.dtype.name, array.shape) for name, array in arrays.items()]


def refused_lately(folder: Path | None, now: datetime | None = None) -> Verdict:
    """Say who was refused at the SuperLink's door.

    Parameters
    ----------
    folder : Path or None
        Of ``ipfl superlink``.
    now : datetime, optional
    """
    if folder is None:
        raise NotKnownError("--superlink-folder was not given")
    file = folder / "refusals.json"
    if not file.exists():
        if not (folder / "superlink.db").exists():
            raise NotKnownError(f"no ipfl superlink has run in {folder}")
        return ok("nobody was refused")
    content = read_refusals(file)
    if not content:
        raise NotKnownError(f"{file} is damaged: ipfl superlink begins it anew")
    since = (now or datetime.now(UTC)) - LATELY
    counts = {kind: number for kind, number in content["counts"].items() if number}
    total = ", ".join(f"{kind} {number}" for kind, number in counts.items()) or "nobody"
    line = f"refused since {content['since'][:10]}: {total}"
    last = [item for item in content["last"] if datetime.fromisoformat(item["time"]) > since]
    if not last:
        return ok(f"{line}; nobody in the last 24 h")
    who = Counter(f"{item['kind']} {item['who'] or 'somebody'}" for item in last)
    (most, number), *_ = who.most_common(1)
    return warn(
        f"{line}; {len(last)} in the last 24 h, most of them {most} ({number}): "
        f"{file} has the last ones"
    )
