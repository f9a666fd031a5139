"""Which of several solutions at a point a sweep reports, on numbers made up."""

import numpy as np

from jaxlora.results import Result
from jaxlora.summary import lowest_branch
from jaxlora.sweeps.candidates import best_two

FAILED = Result.NOT_CONVERGED
# Of four replicates: two branches, and a third beside the second one.
ONE, OTHER, THIRD = (0.4, 0.5), (0.6, 0.1), (0.605, 0.101)
NOISE = np.array([0.001, -0.002, 0.0015, -0.0005])


def candidate(branch, energy, failed=False, hops_to=None):
    """(q, m, energy, result) of every replicate; the last may have hopped to another branch."""
    q, m = (np.full(4, x) + NOISE for x in branch)
    result = np.full(4, Result.CONVERGED)
    result[1] = FAILED if failed else Result.CONVERGED
    if hops_to is not None:
        q[-1], m[-1] = hops_to
    return q, m, energy + NOISE, result


def choose(*candidates):
    """The indices of the one of least energy and of its rival, at a point of two equal ones."""
    q, m, energy, result = (
        np.stack([x, x], axis=1)
        for x in (np.stack(each, axis=-1) for each in zip(*candidates, strict=True))
    )
    first, second = best_two(q, m, energy, result).tolist()
    assert first == second
    lowest = int(lowest_branch(energy[:, 0, first]))
    if first[0] != first[1]:
        assert first[lowest] % 2 == lowest  # in the place of its start
    return first[lowest], first[1 - lowest]


def test_least_energy_is_chosen_and_the_next_one_that_differs():
    fresh = candidate(ONE, 1.0), candidate(OTHER, 1.1)
    assert choose(*fresh) == (0, 1)
    assert choose(*fresh, candidate(ONE, 1.0), candidate(OTHER, 0.9)) == (3, 0)
    # A rival may be from the same start.
    assert choose(*fresh, candidate(OTHER, 0.9), candidate(OTHER, 0.9)) == (2, 0)
    # What does not differ is no rival, whatever its energy.
    assert choose(*fresh, candidate(OTHER, 0.9), candidate(THIRD, 0.91)) == (2, 0)
    # The first among equals, to rounding.
    assert choose(*fresh, candidate(ONE, 1.0 - 1e-9), candidate(OTHER, 1.1)) == (0, 1)
    alike = [candidate(ONE, 1.0)] * 3
    assert choose(*alike, candidate(ONE, 0.9)) == (3, 3)


def test_what_failed_does_not_win_silently_and_hides_no_success():
    # As in `predict`: whether the least energy is that of a solution is for the status to say.
    one, failed = candidate(ONE, 1.0), candidate(OTHER, 0.9, failed=True)
    assert choose(one, failed, one, one) == (1, 0)
    # A success of lower energy is reported, and so is one where the failure has ended.
    assert choose(one, failed, one, candidate(OTHER, 0.8)) == (3, 0)
    assert choose(one, failed, one, candidate(THIRD, 0.95)) == (3, 0)
    # What failed along the rows does not count.
    assert choose(one, one, candidate(OTHER, 0.5, failed=True), one) == (0, 0)
    assert choose(one, one, one, candidate(OTHER, np.nan, failed=True)) == (0, 0)
    # Where nothing has an energy, there is something nonetheless, whose status says so.
    nothing = candidate((np.inf, np.nan), np.nan, failed=True)
    assert choose(nothing, nothing, nothing, nothing) == (0, 0)
    assert choose(nothing, one) == (1, 1)


def test_what_hops_between_branches_is_no_rival_of_one_that_does_not():
    pure, high = candidate(ONE, 1.0), candidate(OTHER, 1.3)
    hopping = candidate(ONE, 1.1, hops_to=OTHER)
    assert choose(pure, hopping) == (0, 0)
    assert choose(pure, hopping, pure, high) == (0, 3)
    # But where it has the least energy, what it hopped from may well take its place.
    assert choose(candidate(ONE, 0.9, hops_to=OTHER), pure) == (0, 1)


def test_lowest_branch_is_the_mean_over_replicates_and_has_an_energy():
    energies = np.array([[1.0, 2.0], [3.0, 1.0]])
    assert lowest_branch(energies) == 1
    assert lowest_branch(energies[:, ::-1]) == 0
    assert lowest_branch(np.array([[1.0, 1.0 - 1e-9]])) == 0
    assert lowest_branch(np.array([[np.nan, 1.0], [0.0, 1.0]])) == 1
    assert lowest_branch(np.array([[1.0, np.inf], [0.0, 1.0]])) == 0
    np.testing.assert_array_equal(lowest_branch(np.stack([energies, energies[:, ::-1]], 1)), [1, 0])
