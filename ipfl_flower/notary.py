"""From what the ledger holds of a settled round to each institution's receipt."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ipfl_flower.ledger import Institution, Ledger, Settlement
from ipfl_flower.market import Rules
from ipfl_flower.receipts import Purchase, Receipt, Sale, SignedReceipt, public_hex, sign

OPERATOR_KEY: Final = "operator-key"
"""The ledger's setting that holds the public key which signs the market's receipts."""


@dataclass(frozen=True)
class Minutes:
    """All that the receipts of one settled round say.

    Attributes
    ----------
    settlement : Settlement
    market : str
        Digest of the market's settings.
    previous, head : str
        The chain's head before and after the round.
    institutions : mapping of int to Institution
        By id.
    balances : mapping of str to int
        By name, after the round, micro-credits.
    """

    settlement: Settlement
    market: str
    previous: str
    head: str
    institutions: Mapping[int, Institution]
    balances: Mapping[str, int]

    @classmethod
    def of(cls, ledger: Ledger, settlement: Settlement) -> Self:
        """Read what the ledger says beside the settlement.

        Parameters
        ----------
        ledger : Ledger
        settlement : Settlement
            Committed there.
        """
        number = settlement.round
        return cls(
            settlement=settlement,
            market=ledger.head(before=0),
            previous=ledger.head(before=number),
            head=ledger.head(before=number + 1),
            institutions={item.id: item for item in ledger.institutions()},
            balances=ledger.balances(through=number),
        )

    def receipt(self, institution: int) -> Receipt:
        """Write the receipt of an institution that took part in the round.

        Parameters
        ----------
        institution : int
            Its id.
        """
        settlement, rules = self.settlement, self.settlement.rules
        ids, clearing = settlement.participants, settlement.clearing
        i = ids.index(institution)
        owner = self.institutions[institution]
        bought = [
            Purchase(
                seller=self.institutions[ids[j]].name,
                amount=int(clearing.transfers[i, j]),
                samples=settlement.terms[j].samples,
                distance=float(settlement.distances[i, j]),
                cost=settlement.terms[j].cost,
            )
            for j in np.flatnonzero(clearing.imports[i]).tolist()
        ]
        sold = [
            Sale(self.institutions[ids[j]].name, int(clearing.transfers[j, i]))
            for j in np.flatnonzero(clearing.imports[:, i]).tolist()
        ]
        return Receipt(
            market=self.market,
            institution=owner.name,
            fingerprint=hashlib.sha256(owner.public_key).hexdigest(),
            round=settlement.round,
            previous=self.previous,
            head=self.head,
            terms=settlement.terms[i],
            rules=Rules(
                selection=rules.selection,
                payment=rules.payment,
                distance_weight=rules.distance_weight,
                max_volume_ratio=rules.max_volume_ratio,
            ),
            bought=tuple(sorted(bought, key=lambda line: line.seller)),
            sold=tuple(sorted(sold, key=lambda line: line.buyer)),
            net=int(clearing.net[i]),
            balance=self.balances[owner.name],
            declined=bool(clearing.declined[i]),
        )


class Notary:
    """Signs receipts for the operator.

    Parameters
    ----------
    key : Ed25519PrivateKey
        See `receipts.load_or_make_key`.
    """

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @property
    def public_key(self) -> str:
        """What institutions pin and the ledger records: 64 hexadecimal digits."""
        return public_hex(self._key.public_key())

    def signed(self, minutes: Minutes, institution: int) -> SignedReceipt:
        """Write and sign an institution's receipt; saying it again gives the same bytes."""
        return sign(minutes.receipt(institution), self._key)
