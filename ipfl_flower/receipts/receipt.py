"""A receipt's content: one institution's own lines of one settled round."""

from dataclasses import dataclass
from typing import Any, Final

from ipfl_flower.market import Rules, RulesError, Terms, TermsError
from ipfl_flower.receipts.encoding import (
    boolean,
    digits,
    fields,
    integer,
    name,
    real,
    shown,
    write_real,
)
from ipfl_flower.receipts.errors import ReceiptError

VERSION: Final = 1
_DIGEST: Final = 64
_ROUNDING: Final = 1e-6
"""A distance may be this far below zero: see `market.offers.ROUNDING`."""

_FIELDS = frozenset(
    (
        *("version", "market", "institution", "fingerprint", "round", "previous", "head"),
        *("terms", "rules", "bought", "sold", "net", "balance", "declined"),
    )
)
_TERMS = frozenset(("samples", "cost", "eagerness", "budget"))
_RULES = frozenset(("selection", "payment", "distance_weight", "max_volume_ratio"))
_PURCHASE = frozenset(("amount", "samples", "distance", "cost"))


@dataclass(frozen=True, slots=True)
class Purchase:
    """A model that the institution bought, with all that its price follows from.

    Attributes
    ----------
    seller : str
        Its name.
    amount : int
        R_ij, micro-credits.
    samples : int
        N_j as the seller reported it, before the cap.
    distance : float
        d_ij.
    cost : float
        c_j, credits.
    """

    seller: str
    amount: int
    samples: int
    distance: float
    cost: float


@dataclass(frozen=True, slots=True)
class Sale:
    """A sale of the institution's model: to whom, and for how many micro-credits."""

    buyer: str
    amount: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a settled round meant for one institution.

    Attributes
    ----------
    market : str
        SHA-256 of the market's settings: the chain's head before round 0.
    institution, fingerprint : str
        Its name, and the SHA-256 of its node's public key.
    round : int
    previous, head : str
        The chain's head before and after this round.
    terms : Terms
        The institution's own, as settled.
    rules : Rules
        λ, cap, selection and payment.
    bought, sold : tuple of Purchase, of Sale
        By counterparty's name, ascending.
    net : int
        p_i, micro-credits: paid less earned.
    balance : int
        Of its account after this round, micro-credits: earned less paid.
    declined : bool
        Its row was over its budget, and it bought nothing.
    """

    market: str
    institution: str
    fingerprint: str
    round: int
    previous: str
    head: str
    terms: Terms
    rules: Rules
    bought: tuple[Purchase, ...]
    sold: tuple[Sale, ...]
    net: int
    balance: int
    declined: bool

    def to_object(self) -> dict[str, Any]:
        """Return the JSON object that is signed."""
        return {
            "version": VERSION,
            "market": self.market,
            "institution": self.institution,
            "fingerprint": self.fingerprint,
            "round": self.round,
            "previous": self.previous,
            "head": self.head,
            "terms": terms_object(self.terms),
            "rules": {
                "selection": self.rules.selection,
                "payment": self.rules.payment,
                "distance_weight": write_real(self.rules.distance_weight),
                "max_volume_ratio": write_real(self.rules.max_volume_ratio),
            },
            "bought": {
                line.seller: {
                    "amount": line.amount,
                    "samples": line.samples,
                    "distance": write_real(line.distance),
                    "cost": write_real(line.cost),
                }
                for line in self.bought
            },
            "sold": {line.buyer: line.amount for line in self.sold},
            "net": self.net,
            "balance": self.balance,
            "declined": self.declined,
        }

    @classmethod
    def from_object(cls, value: Any) -> "Receipt":
        """Read a receipt, trusting nothing in it.

        Raises
        ------
        ReceiptError
            Names the field that is missing, unknown or not what it must be.
        """
        version = value.get("version") if isinstance(value, dict) else None
        if isinstance(value, dict) and (type(version) is not int or version != VERSION):
            raise ReceiptError(
                f"the receipt has version {shown(version)}, this software reads version {VERSION}"
            )
        given = fields(value, _FIELDS, "the receipt")
        return cls(
            market=digits(given["market"], _DIGEST, "market"),
            institution=name(given["institution"], "institution"),
            fingerprint=digits(given["fingerprint"], _DIGEST, "fingerprint"),
            round=integer(given["round"], "round", least=0),
            previous=digits(given["previous"], _DIGEST, "previous"),
            head=digits(given["head"], _DIGEST, "head"),
            terms=read_terms(given["terms"], "terms"),
            rules=_rules(given["rules"]),
            bought=_bought(given["bought"]),
            sold=_sold(given["sold"]),
            net=integer(given["net"], "net"),
            balance=integer(given["balance"], "balance"),
            declined=boolean(given["declined"], "declined"),
        )


def terms_object(terms: Terms) -> dict[str, Any]:
    """Return terms as a JSON object, exactly."""
    return {
        "samples": terms.samples,
        "cost": write_real(terms.cost),
        "eagerness": write_real(terms.eagerness),
        "budget": write_real(terms.budget),
    }


def read_terms(value: Any, where: str) -> Terms:
    """Read what `terms_object` made.

    Raises
    ------
    ReceiptError
        It isn't that, or a term is out of its range.
    """
    given = fields(value, _TERMS, where)
    try:
        return Terms(
            samples=integer(given["samples"], f"{where}.samples", least=0),
            cost=real(given["cost"], f"{where}.cost"),
            eagerness=real(given["eagerness"], f"{where}.eagerness"),
            budget=real(given["budget"], f"{where}.budget"),
        )
    except TermsError as error:
        raise ReceiptError(f"{where}: {error}") from error


def _rules(value: Any) -> Rules:
    given = fields(value, _RULES, "rules")
    if not (isinstance(given["selection"], str) and isinstance(given["payment"], str)):
        raise ReceiptError("rules: selection and payment must be names")
    try:
        return Rules(
            selection=given["selection"],  # type: ignore[arg-type]  # Rules checks it
            payment=given["payment"],  # type: ignore[arg-type]
            distance_weight=real(given["distance_weight"], "rules.distance_weight"),
            max_volume_ratio=real(given["max_volume_ratio"], "rules.max_volume_ratio"),
        )
    except RulesError as error:
        raise ReceiptError(f"rules: {error}") from error


def _bought(value: Any) -> tuple[Purchase, ...]:
    if not isinstance(value, dict):
        raise ReceiptError(f"bought must be an object, is {shown(value)}")
    lines = []
    for seller, what in sorted(value.items()):
        where = f"bought from {shown(seller)}"
        given = fields(what, _PURCHASE, where)
        distance = real(given["distance"], f"{where}: distance")
        cost = real(given["cost"], f"{where}: cost")
        if not -_ROUNDING <= distance < float("inf") or not 0 <= cost < float("inf"):
            raise ReceiptError(f"{where}: distance {distance:g} or cost {cost:g} is out of range")
        line = Purchase(
            seller=name(seller, where),
            amount=integer(given["amount"], f"{where}: amount", least=0),
            samples=integer(given["samples"], f"{where}: samples", least=0),
            distance=distance,
            cost=cost,
        )
        # What a seller reports is held to the same range as one's own terms.
        try:
            Terms(line.samples, line.cost, 0.0)
        except TermsError as error:
            raise ReceiptError(f"{where}: {error}") from error
        lines.append(line)
    return tuple(lines)


def _sold(value: Any) -> tuple[Sale, ...]:
    if not isinstance(value, dict):
        raise ReceiptError(f"sold must be an object, is {shown(value)}")
    return tuple(
        Sale(name(buyer, "sold"), integer(amount, f"sold to {shown(buyer)}: amount", least=0))
        for buyer, amount in sorted(value.items())
    )
