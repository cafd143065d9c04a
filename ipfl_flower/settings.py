"""Every knob of a market, checked where it is read.

Settings come as a flat table: the operator's ``market.toml``, handed to Flower as the run's
configuration. Keys are written with hyphens there; an empty string means "as the preset says".
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ipfl_flower.market import MICRO, Rules

Kind = Literal["cosine", "l2"]

PRESETS: dict[str, dict[str, Any]] = {
    # mechanism.md §6: what every reproduction of the paper runs …
    "paper": {
        "mechanism": "paper",
        "distance": "cosine",
        "centre": "cosine",
        "eta": 0.5,
        "start": "own",
        "prox-weight": "auto",
        "distance-weight": 1.0,
    },
    # … and what a deployment should run. λ is half of V ≈ 10, the scale of an institution's money.
    "recommended": {
        "mechanism": "truthful",
        "distance": "cosine",
        "centre": "l2",
        "eta": "auto",
        "start": "centre",
        "prox-weight": 0.05,
        "distance-weight": 5.0,
    },
}

IMPLIED: Final[Mapping[str, Any]] = {"reference": "initial"}
"""What a contract means that doesn't name it: settings that are younger than some ledgers."""


class SettingsError(ValueError):
    """A setting is missing, unknown or out of its range; the message names it and the fix."""


class Settings(BaseModel):
    """The settings of one market.

    Attributes
    ----------
    preset : {"recommended", "paper"}
        Where the settings of the mechanism come from unless they are given (mechanism.md §6).
    rounds : int
        Rounds to play; one trains, clears, settles and delivers.
    deadline_s, join_deadline_s, absence_s : float
        Seconds that a round waits for replies, for enough institutions to begin with, and for one
        that went offline.
    quorum, institutions_min : int
        Replies without which a round is abandoned at its deadline; institutions without which
        the market does not start.
    mechanism, selection, payment
        See `market.Rules`.
    distance_weight : float
        λ, credits.
    max_volume_ratio : float
        The cap on N_j / N_i (§8).
    distance, centre : {"cosine", "l2"}
        The distance that the market uses, and the one whose gradient makes the prox-centre.
    reference : {"initial", "mean"}
        What updates are measured from in the market's cosine distances: θ⁰, or the mean update
        (`market.rebased`). With "mean" institutions that are all alike hardly trade.
    eta : float or "auto"
        The prox step (§6): relative to ‖v_i‖² for cosine.
    start : {"own", "centre"}
        Where local training starts when there is a centre.
    prox_weight : float or "auto"
        μ of (μ/2) ‖θ − θ̄‖²; "auto" is λ/η_i, the paper's.
    samples_max : int
        The largest N that the contract lets an institution report.
    task : str
        What the market asks institutions to train: one that serves another task refuses.
    ledger, models_dir, initial_model
        A database URL or file; the folder of the bank; the file of θ⁰. Absolute paths.
    resume : bool
        Go on with the market that the ledger holds; without it, a ledger with rounds is refused.
    receipt_key : Path or None
        The key that signs receipts: see `receipt_key_file`. Absolute.
    poll_s : float
        Pause between two looks for replies.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        alias_generator=lambda name: name.replace("_", "-"),
        validate_by_alias=True,
        validate_by_name=False,
    )

    preset: Literal["recommended", "paper"] = "recommended"
    rounds: int = Field(default=10, ge=1)
    deadline_s: float = Field(default=600.0, gt=0, allow_inf_nan=False)
    join_deadline_s: float = Field(default=120.0, gt=0, allow_inf_nan=False)
    absence_s: float = Field(default=90.0, gt=0, allow_inf_nan=False)
    quorum: int = Field(default=2, ge=1)
    institutions_min: int = Field(default=2, ge=1)
    mechanism: Literal["truthful", "paper"]
    selection: Literal["greedy", "skip", "exact"] | None = None
    payment: Literal["marginal", "critical"] | None = None
    distance_weight: float = Field(ge=0, allow_inf_nan=False)
    max_volume_ratio: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    distance: Kind
    centre: Kind
    reference: Literal["initial", "mean"] = "initial"
    eta: float | Literal["auto"]
    start: Literal["own", "centre"]
    prox_weight: float | Literal["auto"]
    samples_max: int = Field(default=10**9, ge=1)
    task: str = Field(default="", max_length=64)
    ledger: str = Field(min_length=1)
    models_dir: Path = Field(strict=False)
    initial_model: Path = Field(strict=False)
    resume: bool = False
    receipt_key: Path | None = Field(default=None, strict=False)
    poll_s: float = Field(default=0.1, gt=0, le=10)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.eta == "auto":
            if self.centre == "cosine":
                raise ValueError('eta = "auto" needs centre = "l2": give eta a number')
        elif not 0 < self.eta < float("inf"):
            raise ValueError(f"eta must be positive, is {self.eta:g}")
        if self.reference == "mean" and self.distance == "l2":
            raise ValueError(
                'reference = "mean" needs distance = "cosine": l2 does not depend on the reference'
            )
        if self.prox_weight != "auto" and not 0 <= self.prox_weight < float("inf"):
            raise ValueError(f"prox-weight must not be negative, is {self.prox_weight:g}")
        for name, path in (
            ("models-dir", self.models_dir),
            ("initial-model", self.initial_model),
            ("receipt-key", self.receipt_key),
        ):
            if path is not None and not path.is_absolute():
                raise ValueError(f"{name} must be an absolute path, is {path}")
        if "://" not in self.ledger and not Path(self.ledger).is_absolute():
            raise ValueError(f"ledger must be an absolute path or a URL, is {self.ledger}")
        return self

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """Check a flat table of settings, filled up from its preset.

        Parameters
        ----------
        values : mapping
            As in ``market.toml``; keys with hyphens; "" means "not given".

        Raises
        ------
        SettingsError
            Names each setting at fault, what it must be and what it is.
        """
        given = {key: value for key, value in values.items() if value != ""}
        preset = given.get("preset", "recommended")
        if not isinstance(preset, str) or preset not in PRESETS:
            raise SettingsError(
                f"setting preset is {preset!r}: choose one of {', '.join(sorted(PRESETS))}"
            )
        try:
            return cls.model_validate({**PRESETS[preset], **given})
        except ValidationError as error:
            raise SettingsError("; ".join(_line(item) for item in error.errors())) from error

    def rules(self) -> Rules:
        """Return the market's rules."""
        return Rules(
            mechanism=self.mechanism,
            distance_weight=self.distance_weight,
            max_volume_ratio=self.max_volume_ratio,
            selection=self.selection,
            payment=self.payment,
        )

    @property
    def receipt_key_file(self) -> Path:
        """The PEM file of the signing key; by default ``receipt.key`` beside ``models-dir``."""
        return self.receipt_key or self.models_dir.parent / "receipt.key"

    def contract(self) -> dict[str, Any]:
        """Return what may not change while a market lives: the ledger keeps and compares it.

        What is as in `IMPLIED` is left out, so that older ledgers have the same contract.
        """
        rules = self.rules()
        contract = {
            "selection": rules.selection,
            "payment": rules.payment,
            "distance-weight": self.distance_weight,
            "max-volume-ratio": self.max_volume_ratio,
            "distance": self.distance,
            "centre": self.centre,
            "reference": self.reference,
            "eta": self.eta,
            "start": self.start,
            "prox-weight": self.prox_weight,
            "samples-max": self.samples_max,
            "micro-per-credit": MICRO,
        }
        return {k: v for k, v in contract.items() if k not in IMPLIED or IMPLIED[k] != v}


def _line(item: Any) -> str:
    """Say one of pydantic's findings as a line that names the setting."""
    name = str(item["loc"][0]) if item["loc"] else ""
    what = item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        return f"setting {name} is unknown: remove it, or see docs/reference/settings.md"
    if item["type"] == "missing":
        return f"setting {name} is missing: give it a value"
    return f"setting {name}: {what}, is {item['input']!r}" if name else f"settings: {what}"
