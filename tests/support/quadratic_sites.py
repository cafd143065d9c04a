"""Institutions whose training is known exactly: L_i(θ) = ½ ‖θ − x_i‖²."""

import numpy as np

from ipfl_flower.experiment.methods.base import Judgement, Order


class QuadraticSites:
    """Each trains a part of the way from its start to argmin ½ ‖θ − x_i‖² + κ ‖θ − θ̄‖².

    Parameters
    ----------
    optima
        x_i, (m, D).
    samples
        N_i; one each by default.
    initial
        θ⁰; zero by default.
    way
        1: all the way, wherever it starts; less: the start matters.
    """

    def __init__(self, optima, *, samples=None, initial=None, way=1.0):
        self.optima = np.array(optima, np.float32)
        count, size = self.optima.shape
        self.samples = np.array([1] * count if samples is None else samples, np.int64)
        self.initial = np.array([0] * size if initial is None else initial, np.float32)
        self.way = np.float32(way)
        self.orders: list[list[Order]] = []
        self.sent: list[bool] = []
        self.judged: list[list[int]] = []

    def train(self, number, orders, *, sent=True):
        assert len(orders) == len(self.optima)
        self.orders.append(list(orders))
        self.sent.append(sent)
        return np.stack([self._train(x, o) for x, o in zip(self.optima, orders, strict=True)])

    def _train(self, optimum, order):
        kappa = np.float32(order.coefficient)
        target = optimum
        if order.centre is not None:
            target = (optimum + 2 * kappa * order.centre) / (1 + 2 * kappa)
        return order.start + self.way * (target - order.start)

    def judge(self, models):
        assert len(models) == len(self.optima)
        self.judged.append([len(mine) for mine in models])
        return [
            [self._judge(x, model) for model in mine]
            for x, mine in zip(self.optima, models, strict=True)
        ]

    def _judge(self, optimum, model):
        loss = float(((model - optimum) ** 2).sum()) / 2
        return Judgement(1 / (1 + loss), loss, 1 / (1 + loss), loss)
