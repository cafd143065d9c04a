"""Each method against its authors' definition, on cases small enough to be computed by hand."""

import itertools
import math

import numpy as np
import pytest
from support.quadratic_sites import QuadraticSites

from ipfl_flower.experiment.methods import METHODS, MethodError, make
from ipfl_flower.experiment.methods.cfl import bipartition
from ipfl_flower.experiment.methods.pfedgraph import project


def play(method, rounds):
    return [method.play(number) for number in range(rounds)]


def is_near(array, expected):
    np.testing.assert_allclose(array, np.array(expected, float), rtol=1e-5, atol=1e-6)


def imports(played):
    return {(int(i), int(j)) for i, j in np.argwhere(played.imports)}


EVERYBODY_OF_2 = {(0, 1), (1, 0)}


def two(way, **options):
    """θ⁰ = 0, x = 4 and 8, N = 1 and 3."""
    return QuadraticSites([[4], [8]], samples=[1, 3], way=way, **options)


def test_local_goes_on_from_its_own_model():
    sites = two(way=0.5)
    first, second = play(make("local", sites), 2)
    is_near(first.models, [[2], [4]])
    is_near(second.models, [[3], [6]])  # half of what is left
    assert imports(first) == imports(second) == set()
    assert all(order.centre is None for orders in sites.orders for order in orders)


def test_fedavg_averages_by_samples_and_starts_from_the_average():
    first, second = play(make("fedavg", two(way=0.5)), 2)
    is_near(first.trained, [[2], [4]])
    is_near(first.models, [[3.5], [3.5]])  # (1·2 + 3·4) / 4
    is_near(second.trained, [[3.75], [5.75]])  # halfway from 3.5 to 4 and 8
    is_near(second.models, [[5.25], [5.25]])  # (3.75 + 3·5.75) / 4
    assert imports(first) == imports(second) == EVERYBODY_OF_2


def test_fedavg_ft_uses_what_was_trained_from_the_average():
    first, second = play(make("fedavg-ft", two(way=0.5)), 2)
    is_near(first.models, [[2], [4]])
    is_near(second.models, [[3.75], [5.75]])
    is_near(second.trained, second.models)
    assert imports(second) == EVERYBODY_OF_2


def test_fedprox_stays_near_the_average():
    # μ = 3: argmin ½ (θ − x)² + 3/2 (θ − w)² = (x + 3 w) / 4.
    first, second = play(make("fedprox", two(way=1), {"mu": 3.0}), 2)
    is_near(first.trained, [[1], [2]])
    is_near(first.models, [[1.75], [1.75]])  # (1 + 3·2) / 4
    is_near(second.trained, [[2.3125], [3.3125]])  # (4 + 5.25) / 4, (8 + 5.25) / 4
    is_near(second.models, [[3.0625], [3.0625]])
    assert imports(second) == EVERYBODY_OF_2


def test_ditto_keeps_personal_models_near_the_global_one_of_the_rounds_beginning():
    sites = two(way=0.5)
    first, second = play(make("ditto", sites, {"weight": 1.0}), 2)
    # Global: FedAvg's, 0 → 3.5. Personal: halfway from v to (x + λ w) / (1 + λ).
    is_near(first.trained, [[2], [4]])
    is_near(first.models, [[1], [2]])  # (4 + 0) / 2 = 2, (8 + 0) / 2 = 4, halfway
    is_near(second.trained, [[3.75], [5.75]])
    # (4 + 3.5) / 2 = 3.75, halfway from 1; (8 + 3.5) / 2 = 5.75, halfway from 2.
    is_near(second.models, [[2.375], [3.875]])
    assert len(sites.orders) == 2 * METHODS["ditto"].local_trainings
    assert imports(second) == EVERYBODY_OF_2


def test_fedamp_mixes_by_the_derivative_of_its_attention():
    # θ = 0 and 2: ‖·‖² = 4, so exp(−4/σ) = ½ and ξ_01 = (α/σ)·½ = ¼; λ/(2α) = ½.
    sigma = 4 / math.log(2)
    options = {"attention": "distance", "sigma": sigma, "step": sigma / 2, "weight": sigma / 2}
    method = make("fedamp", QuadraticSites([[0], [2]]), options)
    first, second, third = play(method, 3)
    is_near(first.models, [[0], [2]])
    # u = ¾·0 + ¼·2 = ½ and ¾·2 = 1.5; θ = (x + u) / 2.
    is_near(second.models, [[0.25], [1.75]])
    # ‖·‖² = 1.5²: ξ = ½ · 2^(−2.25/4).
    xi = 0.5 * 2 ** (-2.25 / 4)
    is_near(third.models, [[(0.25 + 1.5 * xi) / 2], [(2 + 1.75 - 1.5 * xi) / 2]])
    assert imports(first) == EVERYBODY_OF_2


def test_fedamp_keeps_its_mixture_convex_when_the_step_is_too_long():
    options = {"attention": "distance", "sigma": 4 / math.log(2), "step": 1e6, "weight": 1e6}
    method = make("fedamp", QuadraticSites([[0], [2]]), options)
    _, second = play(method, 2)
    is_near(second.models, [[1], [1]])  # ξ_01 = 1: u is the other's model, θ = (x + u) / 2


# θ⁰ = 0; 0 and 1 in one direction, 2 across.
THREE = [[1, 0], [2, 0], [0, 1]]


def test_heurfedamp_mixes_by_a_softmax_of_cosines():
    options = {"attention": "cosine", "sigma": math.log(3), "self_weight": 0.2}
    first, second = play(make("fedamp", QuadraticSites(THREE), options), 2)
    is_near(first.models, THREE)
    # exp(σ cos) = 3 or 1: 0 hears 1 by .8 · 3/4 and 2 by .8 · 1/4; 2 hears both by .4.
    # u = .2 (1, 0) + .6 (2, 0) + .2 (0, 1) = (1.4, .2), (1, .2), (1.2, .2); θ = (x + u) / 2.
    is_near(second.models, [[1.2, 0.1], [1.5, 0.1], [0.6, 0.6]])
    assert imports(first) == set(itertools.permutations(range(3), 2))


def test_fedamps_default_is_the_heuristic_of_pfedgraphs_authors():
    sites = QuadraticSites(THREE)
    first, _ = play(make("fedamp", sites), 2)
    # exp(10) : 1 of the .7 that the self-weight .3 leaves; the 1/22027 to 2 is no import.
    share = 0.7 / (1 + math.exp(-10))
    is_near(sites.orders[1][0].centre, [0.3 + 2 * share, 0.7 - share])
    assert sites.orders[1][0].coefficient == 0.5
    is_near(sites.orders[1][0].start, [1, 0])
    assert imports(first) == {(0, 1), (1, 0), (2, 0), (2, 1)}


def test_pfedgraph_solves_its_quadratic_programme():
    # α = 1, p = ⅓: rows ⅓ + cos/2 = (5/6, 5/6, 2/6) and (2/6, 2/6, 5/6), projected.
    sites = QuadraticSites(THREE)
    method = make("pfedgraph", sites, {"alpha": 1.0, "weight": 4.5, "use": "aggregate"})
    first, second = play(method, 2)
    # (½, ½, 0) twice, and (1/6, 1/6, 4/6).
    is_near(first.models, [[1.5, 0], [1.5, 0], [0.5, 2 / 3]])
    assert imports(first) == {(0, 1), (1, 0), (2, 0), (2, 1)}
    # κ = λ ‖c‖ / (2 ‖ḡ‖²): 4.5 · 1 / (2 · 2.25) = 1, so θ = (x + 2 ḡ) / 3;
    # of 2, c = (⅓, ⅔), ‖c‖ = √5/3, ‖ḡ‖² = 25/36.
    kappa = 4.5 * math.sqrt(5) / 3 / (2 * 25 / 36)
    across = [2 * kappa * 0.5 / (1 + 2 * kappa), (1 + 2 * kappa * 2 / 3) / (1 + 2 * kappa)]
    is_near(second.trained, [[4 / 3, 0], [5 / 3, 0], across])
    for order, aggregate in zip(sites.orders[1], first.models, strict=True):
        is_near(order.start, aggregate)


def test_pfedgraph_follows_data_volumes_where_alpha_is_large():
    sites = QuadraticSites(THREE, samples=[1, 2, 1])
    (played,) = play(make("pfedgraph", sites, {"alpha": 1e6, "use": "aggregate"}), 1)
    is_near(played.models, [[1.25, 0.25]] * 3)  # FedAvg's (1·1 + 2·2, 1) / 4


@pytest.mark.parametrize(
    ("cosine", "snap", "weight"),
    [
        # Points p + cos/(2α), α = ½: (1.5, ½ + cos); their difference 1 − cos = .04 is kept …
        (0.96, 1.0, 0.48),
        # … or counts as nothing above the snap.
        (0.96, 0.9, 0.5),
    ],
)
def test_pfedgraph_counts_near_cosines_as_one(cosine, snap, weight):
    optima = [[1, 0], [cosine, math.sqrt(1 - cosine**2)]]
    options = {"alpha": 0.5, "snap": snap, "use": "aggregate"}
    (played,) = play(make("pfedgraph", QuadraticSites(optima), options), 1)
    is_near(played.models[0], (1 - weight) * np.array(optima[0]) + weight * np.array(optima[1]))


def test_pfedgraph_uses_the_better_of_aggregate_and_trained_by_validation():
    class Pleased(QuadraticSites):
        """0 judges what it trained to be worse; the others are as right with either."""

        def _judge(self, optimum, model):
            judgement = super()._judge(optimum, model)
            accuracy = float(abs(model - [1, 0]).sum()) / 9 if optimum[0] == 1 else 0.5
            return type(judgement)(accuracy, 0.0, 0.0, 0.0)

    options = {"alpha": 1.0}
    (exact,) = play(make("pfedgraph", QuadraticSites(THREE), options), 1)
    is_near(exact.models, THREE)  # training arrives at the optimum, the aggregate doesn't
    sites = Pleased(THREE)
    (pleased,) = play(make("pfedgraph", sites, options), 1)
    is_near(pleased.models, [[1.5, 0], [1.5, 0], [0.5, 2 / 3]])
    assert sites.judged == [[2, 2, 2]]
    (trained,) = play(make("pfedgraph", Pleased(THREE), options | {"use": "trained"}), 1)
    is_near(trained.models, THREE)


FOUR = [[4, 1], [4, -1], [-4, 1], [-4, -1]]
PAIRS = {(0, 1), (1, 0), (2, 3), (3, 2)}


def test_cfl_is_fedavg_until_the_cluster_is_stationary_and_then_splits_it():
    # θ⁰ = (0, 9): the mean update (0, −9) is long. Then it is 0, the longest √17 > 1.6.
    first, second, third = play(make("cfl", QuadraticSites(FOUR, initial=[0, 9])), 3)
    is_near(first.models, [[0, 0]] * 4)
    assert imports(first) == set(itertools.permutations(range(4), 2))
    # cos: 15/17 within the pairs, −15/17 or less across.
    is_near(second.models, [[4, 0], [4, 0], [-4, 0], [-4, 0]])
    is_near(second.trained, FOUR)
    assert imports(second) == PAIRS
    # Updates (0, ±1) from the clusters' models: pairs aren't split further.
    is_near(third.models, second.models)
    assert imports(third) == PAIRS


@pytest.mark.parametrize(
    "options",
    [
        {"stationary": 0.0},  # the mean, 0, is not below
        {"apart": 4.2},  # √17 = 4.12 is not above
        {"gamma_max": 0.98},  # √((1 + 15/17) / 2) = .970 is not above
        {"first_round": 1},
    ],
)
def test_cfl_splits_only_if_every_condition_holds(options):
    (played,) = play(make("cfl", QuadraticSites(FOUR), options), 1)
    is_near(played.models, [[0, 0]] * 4)
    (split,) = play(make("cfl", QuadraticSites(FOUR), {"gamma_max": 0.96}), 1)
    assert imports(split) == PAIRS


@pytest.mark.parametrize(("height", "splits"), [(1.0, True), (1.3, False)])
def test_cfl_by_default_compares_the_mean_with_a_quarter_of_the_longest(height, splits):
    # θ⁰ = (0, y): the mean update is y long, the longest √(16 + (1 + y)²): .22 and .28 of it.
    (played,) = play(make("cfl", QuadraticSites(FOUR, initial=[0, height])), 1)
    assert (imports(played) == PAIRS) == splits
    # The authors' own numbers.
    options = {"stationary": 0.4, "apart": 1.6}
    (played,) = play(make("cfl", QuadraticSites(FOUR, initial=[0, height]), options), 1)
    assert imports(played) != PAIRS


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("apart", "clusters"), [(0.0, 1), (2.0, 2)])
def test_cfl_does_not_split_many_who_are_alike(seed, apart, clusters):
    # 24 optima around one point, or around two opposite ones: noise is 1 long, D = 200.
    rng = np.random.default_rng(seed)
    optima = rng.normal(size=(24, 200)) / math.sqrt(200)
    optima[:, 0] += apart * np.where(np.arange(24) % 2, 1.0, -1.0)
    samples = rng.integers(50, 200, 24)
    if clusters == 1:  # the mean of 24 is below a quarter of the longest: noise would split it
        mean = samples @ optima / samples.sum()
        assert np.linalg.norm(mean) < 0.25 * np.linalg.norm(optima, axis=1).max()
        sides = [set(range(24))] * 24
    else:
        samples[:] = 100
        sides = [{j for j in range(24) if (i - j) % 2 == 0} for i in range(24)]
    played = play(make("cfl", QuadraticSites(optima, samples=samples)), 1)[0]
    assert imports(played) == {(i, j) for i in range(24) for j in sides[i] if i != j}


def test_cfl_weighs_by_samples_within_clusters():
    # Weighted mean update 0 with N = (1, 1, 3, 1) on x = (3, −1, −1, 1): clusters {0, 3}, {1, 2}.
    sites = QuadraticSites([[3], [-1], [-1], [1]], samples=[1, 1, 3, 1])
    (played,) = play(make("cfl", sites), 1)
    is_near(played.models, [[2], [-1], [-1], [2]])


def test_bipartition_has_the_least_largest_cosine_across():
    rng = np.random.default_rng(5)
    for _ in range(50):
        vectors = rng.normal(size=(6, 3))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        cosine = vectors @ vectors.T
        parts = [np.array(p) for p in itertools.product([True, False], repeat=6)]
        across = [cosine[np.ix_(p, ~p)].max() for p in parts if 0 < p.sum() < 6]
        part = bipartition(cosine)
        assert cosine[np.ix_(part, ~part)].max() == min(across)


def test_fedfomo_mixes_what_is_better_per_distance():
    sites = QuadraticSites([[4], [2], [-1]])
    method = make("fedfomo", sites)
    first = method.play(0)
    is_near(method._affinity[0], [2, 3, -4.5])
    second = method.play(1)
    # 0: L(0) = 8. Own: (8 − 0)/4 = 2; of 1: (8 − 2)/2 = 3; of 2: (8 − 12.5)/1 < 0. w* = .4, .6.
    # 1: L(0) = 2. Own: 2/2 = 1; of 0: (2 − 2)/4 = 0; of 2 < 0. 2: only its own is better.
    is_near(first.models, [[0.4 * 4 + 0.6 * 2], [2], [-1]])
    assert imports(first) == {(0, 1)}
    assert sites.judged[0] == [4, 4, 4]  # the start, its own, and two others
    # 0: L(2.8) = .72. Own: .72/1.2 > 0; of 1: (.72 − 2)/.8 < 0. 1 and 2 have arrived: they stay.
    is_near(second.models, [[4], [2], [-1]])
    assert imports(second) == set()
    is_near(sites.orders[1][0].start, [2.8])


def test_fedfomo_asks_for_those_it_has_learnt_to_like():
    # For 0, 1 is good and 2 bad, whichever it is sent first: from then on it asks for 1.
    sites = QuadraticSites([[4], [3], [-4]])
    method = make("fedfomo", sites, {"downloads": 1, "epsilon": 0.0})
    chosen = []
    for number in range(12):
        chosen.append(method._chosen(number, 0))
        # Everybody starts anew at 0, so that the others' models stay worth having.
        method._models = None
        method.play(number)
    assert chosen[1:] == [[1]] * 11
    assert sites.judged == [[3, 3, 3]] * 12  # the start, its own, and one other


def test_fedfomo_draws_from_its_seed_and_explores_with_epsilon():
    def choices(seed, epsilon):
        sites = QuadraticSites(np.eye(8))
        options = {"downloads": 1, "epsilon": epsilon, "epsilon_decay": 0.0, "seed": seed}
        method = make("fedfomo", sites, options)
        method._affinity[:, 7] = 1.0
        return [method._chosen(number, 0)[0] for number in range(40)]

    assert choices(0, 0.0) == [7] * 40
    assert choices(1, 1.0) == choices(1, 1.0) != choices(2, 1.0)
    assert set(choices(1, 1.0)) == set(range(1, 8))  # never itself


def test_projection_is_the_nearest_point_of_the_simplex():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(20, 4))
    projected = project(points)
    assert (projected >= 0).all()
    np.testing.assert_allclose(projected.sum(axis=1), 1.0)
    # No point of the simplex is nearer: (y − Π y) · (z − Π y) ≤ 0 for its corners z.
    slopes = np.einsum("rk,rzk->rz", points - projected, np.eye(4)[None] - projected[:, None])
    assert slopes.max() < 1e-12


def test_make_names_the_choices():
    sites = two(way=1)
    with pytest.raises(MethodError, match="no method 'fedsgd'; there are: local, fedavg,"):
        make("fedsgd", sites)
    with pytest.raises(MethodError, match="no option lam; there are: mu"):
        make("fedprox", sites, {"lam": 1})
    with pytest.raises(MethodError, match="'local' has no option x; it has none"):
        make("local", sites, {"x": 1})
