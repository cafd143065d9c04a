"""Every metric that is exposed: its name, kind, labels, and what it says.

`docs/reference/metrics.md` is made of this list. Units are last in a name, money is in credits,
times are seconds since 1970. Labels are few: nothing has two institutions as labels.
"""

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class Spec:
    """One metric.

    Attributes
    ----------
    name : str
        As exposed, but for the suffixes that counters and histograms get.
    kind : {"counter", "gauge", "histogram"}
    about : str
        One sentence.
    labels : tuple of str
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    about: str
    labels: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """The name of its series."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


PREFIX: Final = "ipfl"
BY: Final = ("institution",)

# --- the market -----------------------------------------------------------------------------------

READABLE = Spec("ipfl_ledger_readable", "gauge", "1 if the ledger could be read just now, else 0.")
SERVED = Spec("ipfl_market_served", "gauge", "1 if a server app serves the market now, else 0.")
SERVER_MEMORY = Spec(
    "ipfl_server_resident_memory_bytes",
    "gauge",
    "Memory of that server app; only where it runs on this machine.",
)
INSTITUTIONS = Spec(
    "ipfl_institutions", "gauge", "Institutions enrolled that have neither left nor been expelled."
)
DISTANCE_WEIGHT = Spec(
    "ipfl_distance_weight_credits", "gauge", "λ: what one unit of distance costs a buyer."
)
EVENTS = Spec(
    "ipfl_events", "counter", "What happened to the server or an institution, by kind.", ("kind",)
)

# --- rounds ---------------------------------------------------------------------------------------

ROUNDS = Spec(
    "ipfl_rounds",
    "counter",
    "Rounds that ended: settled, or abandoned for want of a quorum, for a violated invariant, or "
    "for another reason.",
    ("outcome",),
)
LAST_OUTCOME = Spec(
    "ipfl_last_round_outcome",
    "gauge",
    "1 for how the last round that ended did, 0 for the other outcomes.",
    ("outcome",),
)
PHASES = Spec(
    "ipfl_round_phase_duration_seconds",
    "histogram",
    "How long rounds were inviting (open to collecting), collecting (to settled or abandoned) and "
    "delivering (to delivered).",
    ("phase",),
)
ROUND = Spec("ipfl_round_number", "gauge", "Number of the newest round, from 0.")
STATE = Spec(
    "ipfl_round_state",
    "gauge",
    "1 for the state of the newest round, 0 for the others.",
    ("state",),
)
ENTERED = Spec(
    "ipfl_round_state_entered_timestamp_seconds", "gauge", "When the newest round got there."
)
DEADLINE = Spec(
    "ipfl_round_deadline_timestamp_seconds",
    "gauge",
    "Until when the newest round waits for replies; only while it does.",
)
QUORUM = Spec("ipfl_round_quorum", "gauge", "Replies without which it can't be settled.")
ASKED = Spec("ipfl_round_asked", "gauge", "Institutions that the newest round asked.")
REPLIED = Spec("ipfl_round_replied", "gauge", "Those of them that replied.")
FAILED = Spec("ipfl_round_failed", "gauge", "Those of them whose reply failed or did not count.")
WAITING = Spec("ipfl_round_waiting", "gauge", "Those of them that it still waits for.")

# --- the last settled round, and all --------------------------------------------------------------

PARTICIPANTS = Spec(
    "ipfl_market_participants", "gauge", "Institutions that traded in the last settled round."
)
EDGES = Spec("ipfl_market_purchases", "gauge", "Purchases in the last settled round: edges.")
DENSITY = Spec(
    "ipfl_market_density_ratio",
    "gauge",
    "Purchases in the last settled round by those possible among its participants.",
)
VOLUME = Spec("ipfl_market_volume_credits", "gauge", "What was paid in the last settled round.")
WELFARE = Spec("ipfl_market_welfare_credits", "gauge", "Sum of the utilities of that round.")
DECLINED = Spec(
    "ipfl_market_declined", "gauge", "Institutions that did not buy there: over their budget."
)
NO_TRADE = Spec(
    "ipfl_market_rounds_without_purchases",
    "gauge",
    "Settled rounds in a row, up to the last, in which nobody bought.",
)
UNWEIGHTED = Spec(
    "ipfl_market_purchases_without_distance",
    "gauge",
    "Purchases that the last settled round would have had with λ = 0; only where it had none.",
)
PURCHASES = Spec("ipfl_purchases", "counter", "Purchases over all settled rounds.")
PAYMENTS = Spec("ipfl_payments_credits", "counter", "What was paid over all settled rounds.")
FALLBACKS = Spec(
    "ipfl_selection_fallbacks",
    "counter",
    "Buyers for whom the exact selection was given up for the greedy one.",
)

# --- institutions ---------------------------------------------------------------------------------

PAID = Spec("ipfl_institution_paid_credits", "counter", "What it paid.", BY)
EARNED = Spec("ipfl_institution_earned_credits", "counter", "What it earned.", BY)
BALANCE = Spec(
    "ipfl_institution_balance_credits", "gauge", "What it earned, less what it paid.", BY
)
UTILITY = Spec("ipfl_institution_utility_credits", "gauge", "Its utility over all rounds.", BY)
GAIN = Spec("ipfl_institution_gain_credits", "gauge", "What purchases were worth to it.", BY)
BOUGHT = Spec("ipfl_institution_purchases", "counter", "Models that it bought.", BY)
SOLD = Spec("ipfl_institution_sales", "counter", "Times that its model was bought.", BY)
REPLIES = Spec("ipfl_institution_replies", "counter", "Rounds in which it replied.", BY)
FAILURES = Spec("ipfl_institution_failures", "counter", "Replies that failed or did not count.", BY)
OVER_BUDGET = Spec("ipfl_institution_declined", "counter", "Rounds that were over its budget.", BY)
ACTIVE = Spec("ipfl_institution_active", "gauge", "0 if it left or was expelled, else 1.", BY)
AWAITED = Spec("ipfl_institution_awaited", "gauge", "1 if the newest round waits for it.", BY)
LAST_REPLY = Spec(
    "ipfl_institution_last_reply_round", "gauge", "The last round that it answered; −1: none.", BY
)
# What trainers report of themselves (`trainer.FitReply`): under these names, and no other.
REPORTED: Final = {
    "fit_seconds": Spec(
        "ipfl_trainer_fit_seconds", "gauge", "How long it trained, as it says.", BY
    ),
    "samples_per_second": Spec(
        "ipfl_trainer_samples_per_second",
        "gauge",
        "Training samples a second, while it trained.",
        BY,
    ),
    "gpu_memory_bytes": Spec(
        "ipfl_trainer_gpu_memory_bytes",
        "gauge",
        "The most GPU memory that tensors took in its last training; none without a GPU.",
        BY,
    ),
    "train_loss": Spec("ipfl_trainer_train_loss", "gauge", "Its mean loss while training.", BY),
    "validation_accuracy": Spec(
        "ipfl_trainer_validation_accuracy_ratio", "gauge", "Of its model, on its own data.", BY
    ),
    "test_accuracy": Spec(
        "ipfl_trainer_test_accuracy_ratio", "gauge", "Of its model, on its own data.", BY
    ),
    "best_test_accuracy": Spec(
        "ipfl_trainer_best_test_accuracy_ratio", "gauge", "Of the best model that it has had.", BY
    ),
    "centre_test_accuracy": Spec(
        "ipfl_trainer_centre_test_accuracy_ratio", "gauge", "Of the prox-centre that it got.", BY
    ),
    "centre_unusable": Spec(
        "ipfl_trainer_centre_unusable", "gauge", "1 if the prox-centre was of no use to it.", BY
    ),
    "samples_train": Spec(
        "ipfl_trainer_samples", "gauge", "Training samples that it says it has.", BY
    ),
    "receipt_alarms": Spec(
        "ipfl_trainer_receipt_alarms", "gauge", "Receipts that did not fit what it knows.", BY
    ),
}

# --- what must hold -------------------------------------------------------------------------------

IMBALANCE = Spec(
    "ipfl_payments_imbalance_credits",
    "gauge",
    "Sum over the rounds of |Σ net payments|: anything but 0 is wrong.",
)
HEAD_FITS = Spec(
    "ipfl_ledger_head_fits",
    "gauge",
    "1 if the newest sealed round, when first seen, was what was sealed, and followed its "
    "predecessor.",
)
VERIFIED = Spec(
    "ipfl_ledger_verified", "gauge", "1 if the last verification of the whole ledger found nothing."
)
PROBLEMS = Spec("ipfl_ledger_problems", "gauge", "What that found, by check.", ("check",))
VERIFIED_AT = Spec(
    "ipfl_ledger_verified_timestamp_seconds", "gauge", "When that verification ended."
)
VERIFYING = Spec("ipfl_ledger_verification_duration_seconds", "gauge", "How long it took.")

# --- the operator's machine -----------------------------------------------------------------------

DISK_FREE = Spec("ipfl_disk_free_bytes", "gauge", "Room on the disk of a folder.", ("folder",))
DISK_SIZE = Spec("ipfl_disk_size_bytes", "gauge", "Size of that disk.", ("folder",))
LEDGER_BYTES = Spec("ipfl_ledger_file_bytes", "gauge", "Size of the ledger, where it is a file.")
BANK_BYTES = Spec("ipfl_bank_bytes", "gauge", "Size of the models and centres in models-dir.")
MODEL_BYTES = Spec("ipfl_model_bytes", "gauge", "Size of θ⁰, and so of every model.")
CERTIFICATE_ENDS = Spec(
    "ipfl_certificate_expiry_timestamp_seconds", "gauge", "When a certificate expires.", ("file",)
)
REFUSALS = Spec(
    "ipfl_door_refusals", "counter", "Who was refused at the SuperLink's door, by kind.", ("kind",)
)

# --- who says what --------------------------------------------------------------------------------

OF_LEDGER: Final[tuple[Spec, ...]] = (
    READABLE,
    SERVED,
    INSTITUTIONS,
    DISTANCE_WEIGHT,
    EVENTS,
    ROUNDS,
    LAST_OUTCOME,
    PHASES,
    ROUND,
    STATE,
    ENTERED,
    DEADLINE,
    QUORUM,
    ASKED,
    REPLIED,
    FAILED,
    WAITING,
    PARTICIPANTS,
    EDGES,
    DENSITY,
    VOLUME,
    WELFARE,
    DECLINED,
    NO_TRADE,
    UNWEIGHTED,
    PURCHASES,
    PAYMENTS,
    FALLBACKS,
    PAID,
    EARNED,
    BALANCE,
    UTILITY,
    GAIN,
    BOUGHT,
    SOLD,
    REPLIES,
    FAILURES,
    OVER_BUDGET,
    ACTIVE,
    AWAITED,
    LAST_REPLY,
    *REPORTED.values(),
    IMBALANCE,
    HEAD_FITS,
)
