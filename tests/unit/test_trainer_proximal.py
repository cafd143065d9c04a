"""The proximal step finds the closed form's minimum, at any coefficient, with momentum or not."""

import pytest
import torch
from torch import nn

from ipfl_flower.tasks import Split
from ipfl_flower.trainer.proximal import Sgd, train

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


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("coefficient", [0.0, 0.01, 0.5, 4.9, 10.0, 1e3, 1e8])
def test_the_minimum_is_the_closed_forms(coefficient, momentum):
    model = Point()
    sgd = Sgd(iterations=300, learning_rate=0.1, momentum=momentum)
    centre = {"theta": CENTRE, "frozen": torch.zeros(1)}
    train(model, quadratic, DATA, sgd, centre=centre, coefficient=coefficient)
    pull = 2 * coefficient
    expected = (CURVATURE * MINIMUM + pull * CENTRE) / (CURVATURE + pull)
    torch.testing.assert_close(model.theta.detach(), expected, atol=2e-5, rtol=1e-5)
    assert model.frozen.item() == 1.0


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
    ],
)
def test_batches_pass_over_all_samples_in_a_new_order_each_time(sgd, sizes):
    seen = []

    def loss(theta, labels):
        seen.append(labels.tolist())
        return theta.sum()

    train(Point(), loss, Split(torch.zeros(10, 1), torch.arange(10)), sgd)
    assert [len(batch) for batch in seen] == sizes
    assert sgd.steps(10) == len(sizes)
    drawn = [label for batch in seen for label in batch]
    assert sorted(drawn[:10]) == list(range(10))
    assert drawn[:10] != list(range(10))
    assert drawn[10:] != drawn[: len(drawn) - 10] or len(drawn) == 10


def test_divergence_shows_in_the_loss():
    sgd = Sgd(iterations=200, learning_rate=100.0)
    loss = train(Point(), quadratic, DATA, sgd)
    assert not torch.isfinite(torch.tensor(loss))
