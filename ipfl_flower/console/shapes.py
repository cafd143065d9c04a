"""What the API answers. Money is integer micro-credits; what is null is unknown or endless."""

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

Micro: TypeAlias = Annotated[int, Field(description="micro-credits, exact: 2⁵³ and more, too")]
Credits: TypeAlias = Annotated[float, Field(description="credits")]
Accuracy: TypeAlias = Annotated[float, Field(description="0 to 1, on the institution's test data")]
Time: TypeAlias = Annotated[str, Field(description="ISO 8601, UTC")]


class Shape(BaseModel):
    """An answer."""

    model_config = ConfigDict(frozen=True)


class Verification(Shape):
    """Whether the ledger was found to be whole, and when."""

    state: Literal["pending", "verified", "broken", "failed"]
    head: str | None = Field(default=None, description="the chain's head that was verified")
    at: Time | None = None
    seconds: float | None = Field(default=None, description="how long it took")
    problems: list[str] = Field(default=[], description="what is wrong; operators only")


class Session(Shape):
    """Who asks."""

    role: Literal["operator", "institution", "nobody"] = Field(description="nobody: log in first")
    name: str | None
    tokens: bool = Field(description="whether the console asks for tokens")


class RoundLine(Shape):
    """How a round went."""

    number: int
    state: str
    detail: str | None = Field(description="why it was abandoned; operators only")
    asked: int
    reported: int
    quorum: int
    purchases: int | None
    volume: Micro | None
    welfare: Credits | None
    opened_at: Time | None
    collecting_at: Time | None
    settled_at: Time | None
    ended_at: Time | None = Field(description="delivered or abandoned")
    collecting_s: float | None = Field(description="from asking to settling or abandoning")
    deadline_s: float
    deadline_at: Time | None
    waiting: list[str]
    failed: dict[str, str]
    slowest: str | None = Field(description="whose report came last; operators only")
    slowest_s: float | None = Field(description="seconds after asking; operators only")
    head: str | None


class Status(Shape):
    """Where the market stands."""

    version: str
    rounds: int
    last_settled: int | None
    institutions: list[str]
    now: RoundLine | None
    served: bool
    server: str | None
    last_event: str | None
    expelled: dict[str, str]
    verification: Verification


class Rounds(Shape):
    """Rounds, the newest first."""

    total: int
    rounds: list[RoundLine]


class Node(Shape):
    """An institution in a round."""

    name: str
    takes_part: bool
    own: bool = Field(description="whether it is who asks")
    balance: Micro | None
    net: Micro | None = Field(description="what it paid in the round, less what it was paid")
    utility: Credits | None
    accuracy: Accuracy | None
    first_accuracy: Accuracy | None = Field(description="of its first model, trained alone")
    accuracy_gain: float | None
    declined: bool | None


class Edge(Shape):
    """A purchase: the buyer imports the seller's model and pays the price."""

    buyer: str
    seller: str
    price: Micro


class Graph(Shape):
    """Who bought from whom in a round."""

    round: int
    state: str
    detail: str | None = Field(description="why it was abandoned; operators only")
    nodes: list[Node]
    edges: list[Edge]
    density: float | None = Field(description="purchases of all pairs that could be")
    selection: str | None
    payment: str | None
    distance_weight: Credits | None


class Why(Shape):
    """Why a buyer bought a seller's model in a round, or why not."""

    round: int
    buyer: str
    seller: str
    bought: bool
    reason: str = Field(description="a code")
    text: str
    paid: Micro | None = None
    marginal_gain: Credits | None = Field(
        default=None, description="what the model adds to all else that the buyer bought or wanted"
    )
    gain_alone: Credits | None = None
    cost: Credits | None = None
    distance: float | None = None
    distance_price: Credits | None = None
    full_price: Credits | None = Field(default=None, description="cost + distance price")
    samples: int | None = Field(default=None, description="of the seller, as reported")
    samples_counted: float | None = Field(default=None, description="after the cap")
    volume: float | None = Field(
        default=None, description="samples of the buyer and all else that it bought"
    )
    threshold: float | None = Field(
        default=None, description="samples up to which the model is worth its price; null: endless"
    )
    budget: Credits | None = Field(default=None, description="the buyer's; null: endless")
    bill: Micro | None = Field(default=None, description="what a declined row would have cost")


class Account(Shape):
    """What an institution has."""

    name: str
    balance: Micro
    paid: Micro
    earned: Micro
    utility: Credits = Field(description="summed over the rounds")


class Series(Shape):
    """A line to draw: a value for each of the rounds, null where there is none."""

    name: str
    values: list[float | None]


class Money(Shape):
    """Accounts, and what taking part was worth."""

    accounts: list[Account]
    total: Micro | None = Field(description="of all balances: 0")
    rounds: list[int]
    utilities: list[Series] = Field(description="credits, summed up to the round")
    verification: Verification


class StatementLine(Shape):
    """An entry of an account."""

    round: int
    counterparty: str
    direction: Literal["paid", "earned"]
    amount: Micro
    balance: Micro


class Statement(Shape):
    """An account's entries in some rounds."""

    name: str
    first: int
    last: int
    opening: Micro
    lines: list[StatementLine]
    closing: Micro


class Learner(Shape):
    """How well an institution's models do on its own test data, by round."""

    name: str
    first: Accuracy | None = Field(description="of its first model, trained alone")
    trained: list[float | None]
    best: list[float | None] = Field(description="of the best model it had")


class Learning(Shape):
    """The accuracies that institutions report."""

    rounds: list[int]
    institutions: list[Learner]


class Token(Shape):
    """What one logs in with."""

    token: str = Field(min_length=1, max_length=200)


class Problem(Shape):
    """Why a request is refused."""

    detail: str


class Health(Shape):
    """Whether the console reads its ledger."""

    status: Literal["ok", "failing"]
    detail: str | None = None
