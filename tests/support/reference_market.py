"""The market in plain Python floats, as mechanism.md has it: slow, obvious, to compare with."""

from itertools import combinations
from math import floor, inf, isnan, sqrt


class ReferenceMarket:
    """Volumes, prices and sets of one market; who trades with whom comes from its terms."""

    def __init__(self, terms, distances, rules):
        self.terms, self.rules = terms, rules
        self.m = len(terms)
        self.volumes, self.deltas, self.prices = {}, {}, {}
        for i, buyer in enumerate(terms):
            for j, seller in enumerate(terms):
                d = float(distances[i][j])
                if i == j or isnan(d) or buyer.eagerness == 0 or seller.cost == inf:
                    continue
                if buyer.samples == 0 or seller.samples == 0:
                    continue
                volume = min(float(seller.samples), rules.max_volume_ratio * buyer.samples)
                self.volumes[i, j] = volume
                self.deltas[i, j] = rules.distance_weight * volume / buyer.samples * d
                self.prices[i, j] = seller.cost + self.deltas[i, j]

    def sellers(self, i):
        return [j for j in range(self.m) if (i, j) in self.prices]

    def scale(self, i):
        return sqrt(self.terms[i].eagerness / self.terms[i].samples)

    def phi(self, i, x):
        return -sqrt(self.terms[i].eagerness / x)

    def volume(self, i, chosen):
        return self.terms[i].samples + sum(self.volumes[i, j] for j in chosen)

    def gain(self, i, chosen):
        if not chosen:
            return 0.0  # also of who has no samples
        return self.phi(i, self.volume(i, chosen)) - self.phi(i, self.terms[i].samples)

    def welfare(self, i, chosen):
        return self.gain(i, chosen) - sum(self.prices[i, j] for j in chosen)

    def threshold(self, i, j):
        """Bisect √(K/(x − N)) − √(K/x) = t on the bracket of §3."""
        k, n, t = self.terms[i].eagerness, self.volumes[i, j], self.prices[i, j]
        if t <= 0:
            return inf
        a = (n * sqrt(k) / (2 * t)) ** (2 / 3)
        low, high = max(n, a), n + a
        for _ in range(200):
            x = (low + high) / 2
            if x > n and sqrt(k / (x - n)) - sqrt(k / x) <= t:
                high = x
            else:
                low = x
        return high

    def walk(self, i, *, stop, without=None):
        """Algorithm 2 (`stop`), or `skip`: the set that i buys."""
        ranked = sorted(
            (j for j in self.sellers(i) if j != without),
            key=lambda j: (-self.threshold(i, j), self.prices[i, j], j),
        )
        chosen = []
        for j in ranked:
            if self.volume(i, [*chosen, j]) < self.threshold(i, j):
                chosen.append(j)
            elif stop:
                break
        return set(chosen)

    def best(self, i, without=None):
        """Look at every subset."""
        candidates = [j for j in self.sellers(i) if j != without]
        sets = (
            set(chosen)
            for size in range(len(candidates) + 1)
            for chosen in combinations(candidates, size)
        )
        return max(sets, key=lambda chosen: self.welfare(i, chosen))

    def marginal(self, i, chosen, j):
        return self.gain(i, chosen) - self.gain(i, chosen - {j}) - self.deltas[i, j]

    def clarke(self, i, chosen, j):
        others = self.best(i, without=j)
        return self.terms[j].cost + self.welfare(i, chosen) - self.welfare(i, others)


def to_micro(amount):
    return floor(1_000_000 * amount)
