"""The proximal step finds the closed form's minimum, at any coefficient, with SGD and AdamW."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from ipfl_flower.tasks import Split
from ipfl_flower.trainer.proximal import AdamW, Sgd, train

CURVATURE = torch.tensor([0.5, 2.0])
MINIMUM = torch.tensor([1.0, -2.0])
CENTRE = torch.tensor([-3.0, 4.0])
DATA = Split(torch.zeros(4, 1), torch.zeros(4))


class Point(nn.Module):
    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(2))
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, _):
        return self.theta


def quadratic(theta, _):
    return (CURVATURE / 2 * (theta - MINIMUM) ** 2).sum()


def assert_closed_form(theta, coefficient):
    expected = torch.lerp(MINIMUM, CENTRE, 1 / (1 + CURVATURE / (2 * coefficient)))
    torch.testing.assert_close(theta.detach(), expected, atol=2e-5, rtol=1e-5)


class Placed(nn.Module):
    """Adds places to its inputs: of one sample, their gradient shares the memory of the inputs'."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.into, self.out = nn.Linear(3, 4), nn.Linear(4, 2)
        self.places = nn.Parameter(torch.randn(4))

    def forward(self, inputs):
        return self.out(self.into(inputs) + self.places[None])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            AdamW(iterations=3, batch_size=1, learning_rate=0.01, weight_decay=0.1),
            lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
        ),
        (
            Sgd(iterations=3, batch_size=1, learning_rate=0.1, weight_decay=0.1),
            lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.1),
        ),
        (
            Sgd(iterations=3, batch_size=1, learning_rate=0.1, momentum=0.9, weight_decay=0.1),
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
        ),
    ],
)
def test_a_gradient_that_is_another_parameters_too_is_left_as_it_is(ours, theirs):
    data = Split(torch.ones(1, 3), torch.tensor([1]))
    mine, torchs = Placed(), Placed()
    train(mine, nn.functional.cross_entropy, data, ours)
    optimiser = theirs(torchs.parameters())
    for _ in range(3):
        optimiser.zero_grad()
        nn.functional.cross_entropy(torchs(data.inputs), data.labels).backward()
        optimiser.step()
    for own, other in zip(mine.parameters(), torchs.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("coefficient", [0.0, 0.01, 0.5, 4.9, 10.0, 1e3, 1e8])
def test_the_minimum_is_the_closed_forms(coefficient, momentum):
    model = Point()
    sgd = Sgd(iterations=300, learning_rate=0.1, momentum=momentum)
    centre = {"theta": CENTRE, "frozen": torch.zeros(1)}
    train(model, quadratic, DATA, sgd, centre=centre, coefficient=coefficient)
    assert_closed_form(model.theta, coefficient)
    assert model.frozen.item() == 1.0


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.9, 0.95), (0.0, 0.99)])
@pytest.mark.parametrize("coefficient", [0.01, 0.5, 4.9, 1e3, 1e6, 1e300])
def test_the_minimum_with_adamw_is_the_closed_forms(coefficient, betas):
    model = Point()
    adamw = AdamW(iterations=600, learning_rate=0.1, betas=betas)
    train(model, quadratic, DATA, adamw, centre={"theta": CENTRE}, coefficient=coefficient)
    assert_closed_form(model.theta, coefficient)


# The first call loads torch's compiler, or waits for other processes.
PATIENT = settings(deadline=None)
finite = st.floats(-10, 10)


@PATIENT
@given(
    slope=finite,
    start=finite,
    centre=finite,
    coefficient=st.floats(0, 1e9),
    rate=st.floats(1e-4, 1),
    decay=st.floats(0, 0.5),
    steps=st.integers(1, 4),
)
def test_adamws_pull_is_the_exact_step_of_each_element(
    slope, start, centre, coefficient, rate, decay, steps
):
    model = Point().double()
    slopes = torch.tensor([slope, 0.5], dtype=torch.float64)
    starts = torch.tensor([start, 1.0], dtype=torch.float64)
    centres = torch.tensor([centre, -2.0], dtype=torch.float64)
    model.theta.data.copy_(starts)
    adamw = AdamW(iterations=steps, learning_rate=rate, weight_decay=decay, epsilon=1e-3)
    train(
        model,
        lambda theta, _: (slopes * theta).sum(),
        DATA,
        adamw,
        centre={"theta": centres},
        coefficient=coefficient,
    )
    # The moments of a steady gradient are the gradient and its square, at every step.
    h, expected = rate / (slopes.abs() + 1e-3), starts
    for _ in range(steps):
        moved = expected * (1 - rate * decay) - h * slopes
        expected = (moved + 2 * h * coefficient * centres) / (1 + 2 * h * coefficient)
    torch.testing.assert_close(model.theta.detach(), expected)


@PATIENT
@given(
    rate=st.floats(1e-4, 0.5),
    betas=st.tuples(st.floats(0, 0.99), st.floats(0, 0.9999)),
    epsilon=st.floats(1e-8, 0.1),
    decay=st.sampled_from([0.0, 0.01, 0.3]),
)
def test_adamw_without_a_centre_is_torchs(rate, betas, epsilon, decay):
    model, twin = Point().double(), Point().double()
    adamw = AdamW(
        iterations=5, learning_rate=rate, betas=betas, epsilon=epsilon, weight_decay=decay
    )
    steps = []

    def loss(theta, labels):
        steps.append(theta.detach().clone())
        return quadratic(theta, labels)

    train(model, loss, DATA, adamw, coefficient=9.0)
    optimiser = torch.optim.AdamW(
        [twin.theta], lr=rate, betas=betas, eps=epsilon, weight_decay=decay
    )
    for step in [*steps[1:], model.theta.detach()]:
        optimiser.zero_grad()
        quadratic(twin.theta, None).backward()
        optimiser.step()
        torch.testing.assert_close(step, twin.theta.detach())


@pytest.mark.parametrize("kind", [Sgd, AdamW])
def test_each_round_starts_anew(kind):
    model, twin = Point(), Point()
    momentum = {"momentum": 0.9} if kind is Sgd else {}
    for _ in range(2):
        train(model, quadratic, DATA, kind(iterations=1, learning_rate=0.1, **momentum))
    train(twin, quadratic, DATA, kind(iterations=2, learning_rate=0.1, **momentum))
    once = Point()
    once.theta.data.copy_(torch.tensor([0.1, -0.1]) if kind is AdamW else 0.1 * CURVATURE * MINIMUM)
    train(once, quadratic, DATA, kind(iterations=1, learning_rate=0.1))
    torch.testing.assert_close(model.theta, once.theta)
    assert not torch.allclose(model.theta, twin.theta, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_adamws_moments_hold_in_half_precision(dtype):
    # In float16 g² and ε are 0: the first step would be 0/0.
    model, slopes = Point().to(dtype), torch.tensor([1e-4, 0.0], dtype=dtype)
    adamw = AdamW(iterations=10, learning_rate=0.125)
    train(model, lambda theta, _: (slopes * theta).sum(), DATA, adamw)
    torch.testing.assert_close(model.theta.detach(), torch.tensor([-1.25, 0.0], dtype=dtype))


def test_weight_decay_is_half_the_squared_norm_in_the_loss():
    model = Point()
    sgd = Sgd(iterations=300, learning_rate=0.1, weight_decay=0.25)
    train(model, quadratic, DATA, sgd, centre={"theta": CENTRE}, coefficient=0.5)
    expected = (CURVATURE * MINIMUM + CENTRE) / (CURVATURE + 0.25 + 1.0)
    torch.testing.assert_close(model.theta.detach(), expected, atol=1e-5, rtol=1e-5)


def test_without_a_centre_it_is_plain_sgd_and_returns_the_mean_loss():
    model, twin = Point(), Point()
    sgd = Sgd(iterations=3, learning_rate=0.1, momentum=0.5, weight_decay=0.2)
    loss = train(model, quadratic, DATA, sgd, coefficient=9.0)
    optimiser = torch.optim.SGD([twin.theta], lr=0.1, momentum=0.5, weight_decay=0.2)
    losses = []
    for _ in range(3):
        optimiser.zero_grad()
        losses.append(quadratic(twin.theta, None))
        losses[-1].backward()
        optimiser.step()
    torch.testing.assert_close(model.theta, twin.theta)
    assert loss == pytest.approx(sum(value.item() for value in losses) / 3)


@pytest.mark.parametrize(
    ("sgd", "sizes"),
    [
        (Sgd(epochs=2, batch_size=4), [4, 4, 2, 4, 4, 2]),
        (Sgd(iterations=4, batch_size=4), [4, 4, 2, 4]),
        (Sgd(epochs=1, batch_size=50), [10]),
        (Sgd(iterations=2, batch_size=50), [10, 10]),
        (AdamW(epochs=2, batch_size=4), [4, 4, 2, 4, 4, 2]),
    ],
)
def test_batches_pass_over_all_samples_in_a_new_order_each_time(sgd, sizes):
    seen = []

    def loss(theta, labels):
        seen.append(labels.tolist())
        return theta.sum()

    train(Point(), loss, Split(torch.zeros(10, 1), torch.arange(10)), sgd)
    assert [len(batch) for batch in seen] == sizes
    assert (sgd.steps(10), sgd.drawn(10)) == (len(sizes), sum(sizes))
    drawn = [label for batch in seen for label in batch]
    assert sorted(drawn[:10]) == list(range(10))
    assert drawn[:10] != list(range(10))
    assert drawn[10:] != drawn[: len(drawn) - 10] or len(drawn) == 10


def test_divergence_shows_in_the_loss():
    sgd = Sgd(iterations=200, learning_rate=100.0)
    loss = train(Point(), quadratic, DATA, sgd)
    assert not torch.isfinite(torch.tensor(loss))


def test_parameters_without_a_centre_follow_the_loss_alone():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.held = nn.Parameter(torch.zeros(2))
            self.free = nn.Parameter(torch.zeros(2))

        def forward(self, _):
            return torch.stack([self.held, self.free])

    model = Pair()
    sgd = Sgd(iterations=300, learning_rate=0.1)
    train(model, quadratic, DATA, sgd, centre={"held": CENTRE}, coefficient=1e8)
    torch.testing.assert_close(model.held.detach(), CENTRE)
    torch.testing.assert_close(model.free.detach(), MINIMUM)


class Idle(Point):
    def __init__(self):
        super().__init__()
        self.idle = nn.Parameter(torch.ones(1))


def test_a_parameter_that_the_loss_does_not_depend_on_decays_and_is_pulled():
    model = Idle()
    sgd = Sgd(iterations=1, learning_rate=0.1, weight_decay=0.5, momentum=0.5)
    train(model, quadratic, DATA, sgd, centre={"idle": torch.zeros(1)}, coefficient=2.5)
    # 1 − 0.1 · 0.5, then the exact step of the pull: 2 h κ = 1 halves it.
    assert model.idle.item() == pytest.approx(0.475)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_with_adamw_what_the_loss_does_not_depend_on_is_the_centres():
    free, held = Idle(), Idle()
    adamw = AdamW(iterations=1, learning_rate=0.1, weight_decay=0.5)
    train(free, quadratic, DATA, adamw)
    assert free.idle.item() == pytest.approx(0.95)
    train(held, quadratic, DATA, adamw, centre={"idle": torch.full((1,), 3.0)}, coefficient=0.01)
    assert held.idle.item() == pytest.approx(3.0, rel=1e-4)


def test_a_parameter_used_twice_takes_one_step_with_the_whole_gradient():
    class Tied(Point):
        def forward(self, _):
            return self.theta + 0.5 * torch.relu(self.theta + 3)

    model, twin = Tied(), Tied()
    train(model, quadratic, DATA, Sgd(iterations=1, learning_rate=0.1))
    (gradient,) = torch.autograd.grad(quadratic(twin(None), None), [twin.theta])
    torch.testing.assert_close(model.theta.detach(), -0.1 * gradient)


@pytest.mark.parametrize(
    "optimiser",
    [
        Sgd(iterations=2, learning_rate=0.1, momentum=0.5, weight_decay=0.1),
        AdamW(iterations=2, learning_rate=0.1, weight_decay=0.1),
    ],
)
def test_a_sparse_gradient_is_a_gradient(optimiser):
    class Table(nn.Module):
        def __init__(self, *, sparse):
            super().__init__()
            self.rows = nn.Embedding(3, 2, sparse=sparse)
            nn.init.ones_(self.rows.weight)

        def forward(self, _):
            return self.rows(torch.tensor([1, 1]))

    tables = [Table(sparse=sparse) for sparse in (True, False)]
    for table in tables:
        train(table, lambda rows, _: (rows**2).sum(), DATA, optimiser)
    torch.testing.assert_close(tables[0].rows.weight, tables[1].rows.weight)


class Nested(Point):
    """Backpropagates inside backpropagation, a part at a time."""

    def __init__(self, uses):
        super().__init__()
        self.uses = uses

    def forward(self, _):
        value = torch.ones(2, requires_grad=True)
        for _ in range(self.uses):
            value = checkpoint(lambda v: v + self.theta, value, use_reentrant=True)
        return value


def test_a_gradient_from_nested_backpropagation_counts():
    model = Nested(uses=1)
    train(model, quadratic, DATA, Sgd(iterations=300, learning_rate=0.1))
    torch.testing.assert_close(model.theta.detach(), MINIMUM - 1)


def test_a_gradient_in_parts_is_refused():
    model = Nested(uses=2)
    with pytest.raises(RuntimeError, match="'theta' came in several parts: use checkpoint"):
        train(model, quadratic, DATA, Sgd(iterations=1))
    assert not model.theta._post_accumulate_grad_hooks
