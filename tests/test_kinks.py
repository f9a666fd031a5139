import jax.numpy as jnp
import pytest
from points import given

from jaxlora import Kink, predict
from jaxlora.kinks import coexist
from jaxlora.outputs import Branch


def branch(start, q, m, energies):
    count = len(energies)
    return Branch(
        start=start,
        q=jnp.full(count, q),
        m=jnp.full(count, m),
        v=jnp.full(count, 0.2),
        energy=jnp.array(energies),
        result=jnp.zeros(count, int),
    )


@pytest.mark.parametrize(
    ("q", "energies", "expected"),
    [
        (0.1, [1.01, 0.99, 1.02, 0.99], True),  # a gap of 0.002(7)
        (0.1, [1.05, 1.06, 1.05, 1.04], False),  # of 0.050(4)
        (0.1, [0.95, 0.96, 0.95, 0.94], False),
        (0.9, [1.0, 1.0, 1.0, 1.0], False),  # the same solution
    ],
)
def test_branches_coexist_where_energies_are_equal_within_errors(q, energies, expected):
    one, other = branch("informed", 0.9, 0.8, [1.0] * 4), branch("uninformed", q, 0.8, energies)
    assert bool(coexist((one, other))) is expected


@pytest.mark.slow
def test_replicon_above_one_is_flagged():
    # Above and below the boundary in λ' that `jaxlora boundary replicon-finetuning` finds near 1.
    task = {"given": (1.5, 1.5, 0.0), "delta": 2.0}
    below, above = (
        predict(given(lam_ft, **task), samples=2**11, replicates=2, throw=False)
        for lam_ft in (0.3, 2.5)
    )
    assert float(below.finetuning.replicon) > 1
    assert Kink.REPLICON in Kink(int(below.status.finetuning.kinks))
    assert float(above.finetuning.replicon) < 1
    assert Kink.REPLICON not in Kink(int(above.status.finetuning.kinks))
