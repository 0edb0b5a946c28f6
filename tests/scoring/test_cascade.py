"""The cascade decides as all scores would, and its order is the cheapest there is."""

from itertools import permutations, product

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deepstreaks_dask.scoring.cascade import cheapest_order, run_cascade
from deepstreaks_dask.scoring.decision import Decision

MEMBERS = [f"{family}_{k}" for family in ("rb", "sl", "kd") for k in range(3)]
FAMILIES = {"rb": (0, 1, 2), "sl": (3, 4, 5), "kd": (6, 7, 8)}
# few values, so that many scores lie on a threshold, and the neighbours of these in float32
STEPS = [np.float32(v) for v in (0.0, 0.3, 0.5, 0.7, 1.0)]
NEAR = [np.nextafter(v, np.float32(to)) for v in STEPS[1:4] for to in (0, 1)]
SCORES = st.sampled_from(STEPS + NEAR) | st.floats(0, 1, width=32)
ORDERS = [
    tuple(choice)
    for outer in permutations(FAMILIES.values())
    for choice in product(*(permutations(members) for members in outer))
]


class Looks:
    """Members that read their scores from a table; the 'pixels' of a cutout are its row."""

    def __init__(self, scores):
        self.scores = scores
        self.counts = np.zeros(scores.shape[1], int)

    def __getitem__(self, member):
        def look(cutouts):
            self.counts[member] += len(cutouts)
            return self.scores[cutouts[:, 0, 0], member]

        return look

    def __len__(self):
        return self.scores.shape[1]


def run(scores, limits, order):
    looks = Looks(scores)
    rows = np.arange(len(scores))[:, None, None]
    return run_cascade(rows, looks, limits, order), looks.counts


def decide(scores, limits):
    table = xr.Dataset({"scores": (("cutout", "model"), scores)}, {"model": MEMBERS})
    return Decision(dict(zip(MEMBERS, map(float, limits), strict=True))).apply(table)


@given(
    arrays(np.float32, (12, 9), elements=SCORES),
    arrays(np.float32, 9, elements=SCORES),
    st.sampled_from(ORDERS),
)
def test_any_order_decides_as_all_scores_do(scores, limits, order):
    partial, _ = run(scores, limits, order)
    whole, decided = decide(scores, limits), decide(partial, limits)
    np.testing.assert_array_equal(decided["plausible"], whole["plausible"])
    assert not decided["undecided"].any()
    looked = ~np.isnan(partial)
    np.testing.assert_array_equal(partial[looked], scores[looked])
    assert looked.any(axis=1).all()


@given(
    arrays(np.float32, (15, 9), elements=SCORES),
    arrays(np.float32, 9, elements=SCORES),
    arrays(np.float64, 9, elements=st.sampled_from([1.0, 2.0, 12.0])),
)
def test_no_order_is_cheaper_than_the_one_that_is_chosen(scores, limits, costs):
    spent = [run(scores, limits, order)[1] @ costs for order in ORDERS]
    chosen = cheapest_order(scores, limits, FAMILIES, costs)
    assert chosen in ORDERS
    assert run(scores, limits, chosen)[1] @ costs == pytest.approx(min(spent))


def test_at_the_published_pass_rates_it_looks_at_a_third():
    """Of seven million cutouts kd passed 2.5 %, rb 8 %, sl 91 %, all three 0.5 % (Duev et al. 2019)."""
    rng = np.random.default_rng(1)
    n = 20000
    rates = {"rb": 0.08, "sl": 0.91, "kd": 0.025}
    all_three = rng.random(n) < 0.005
    scores = np.empty((n, 9), np.float32)
    for family, members in FAMILIES.items():
        passes = all_three | (rng.random(n) < rates[family] - 0.005)
        for member in members:
            agrees = passes & ((rng.random(n) < 0.9) | (member % 3 == 0))
            scores[:, member] = np.where(agrees, 0.9, 0.1)
    limits = np.full(9, 0.5, np.float32)
    order = cheapest_order(scores[:1000], limits, FAMILIES, np.ones(9))
    assert set(order[0]) == set(FAMILIES["kd"])
    assert run(scores, limits, order)[1].sum() / (9 * n) < 0.36
