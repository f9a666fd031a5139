import jax.numpy as jnp
import numpy as np
import pytest

import jaxlora
from jaxlora.start import Start
from jaxlora.starts import finetuning_starts, finetuning_starts_from

TRAINED, OTHER, COLLAPSED = (0.5, 0.6, 0.3), (0.1, 0.02, 0.2), (1e-27, 1e-14, 0.1)
NONE = (0.0, 0.0, 0.0)
SOUGHT = pytest.mark.parametrize("seek", [True, False])


def starts_from(first, second, seek):
    """Orders of the starts from branches found before, and of the fresh ones."""
    task = jaxlora.Task(tokens=2, given=(1.5, 1.0, 1.0), delta=0.5, alpha_ft=3.0, lam_ft=0.2)
    found = Start(jnp.asarray([first, second]), jnp.stack([jnp.eye(3), 2 * jnp.eye(3)]))
    return finetuning_starts_from(task, found, seek), finetuning_starts(task, None)


@SOUGHT
def test_branches_apart_start_themselves(seek):
    starts, _ = starts_from(TRAINED, OTHER, seek)
    np.testing.assert_array_equal(starts.order, [TRAINED, OTHER])
    np.testing.assert_array_equal(starts.matrix[:, 0, 0], [1, 2])


@SOUGHT
def test_a_branch_that_was_not_found_starts_afresh(seek):
    starts, fresh = starts_from(NONE, OTHER, seek)
    np.testing.assert_array_equal(starts.order, [fresh.order[0], OTHER])
    assert np.all(np.isnan(starts.matrix[0]))


@SOUGHT
def test_where_branches_have_met_the_second_is_sought_or_the_same(seek):
    starts, fresh = starts_from(TRAINED, TRAINED, seek)
    expected = fresh.order[1] if seek else TRAINED
    np.testing.assert_array_equal(starts.order, [TRAINED, expected])


@SOUGHT
def test_what_collapsed_starts_beside_zero_and_the_informed_branch_is_sought(seek):
    starts, fresh = starts_from(COLLAPSED, COLLAPSED, seek)
    q, m, v = np.asarray(starts.order).T
    assert 1e-3 < q[1] < 0.05
    assert 0 < m[1] <= np.sqrt(q[1])
    assert v[1] == COLLAPSED[2]
    np.testing.assert_array_equal(starts.order[0], fresh.order[0] if seek else starts.order[1])


@SOUGHT
def test_one_collapsed_branch_stays_beside_zero(seek):
    starts, _ = starts_from(TRAINED, COLLAPSED, seek)
    np.testing.assert_array_equal(starts.order[0], TRAINED)
    assert starts.order[1, 0] < 0.05
    assert starts.order[1, 2] == COLLAPSED[2]
