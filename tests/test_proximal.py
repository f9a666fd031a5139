import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import central_difference, second_difference
from scipy.optimize import minimize

from jaxlora.activations import as_activation
from jaxlora.proximal import (
    SOLVERS,
    FinetuningProblem,
    PretrainingProblem,
    _newton,
    finetuning_starts,
    global_minimum,
    local_minima,
    local_minimum,
    make_solver,
    pretraining_starts,
    response_sums,
    solve,
)
from jaxlora.proximal._global import PILOT

SAMPLES = 20
STAGES = ("pretraining", "finetuning")


def rounded(a):
    return jnp.tanh(a) / a.shape[0]


def coupled(a):
    return jnp.tanh(a @ a.T) / a.shape[0]


def plain_softmax(a):
    e = np.exp(a - a.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


class Sigma(NamedTuple):
    """An activation as the library takes it, and again in JAX and in NumPy for one sample."""

    given: object
    jax: object
    numpy: object


SIGMAS = {
    "softmax": Sigma("softmax", jax.nn.softmax, plain_softmax),
    "identity": Sigma("identity", lambda a: a / len(a), lambda a: a / len(a)),
    "tanh": Sigma(rounded, rounded, lambda a: np.tanh(a) / len(a)),
    "coupled": Sigma(coupled, coupled, lambda a: np.tanh(a @ a.T) / len(a)),
}
SETTINGS = [("softmax", 2), ("softmax", 3), ("identity", 2), ("tanh", 2)]
BOTH_STAGES = pytest.mark.parametrize("stage", STAGES)


class Case(NamedTuple):
    """Centres, what else defines the samples, where to start from, and the teacher's points."""

    centre: jax.Array
    data: object
    starts: jax.Array
    teacher: jax.Array


def gaussian_fields(rng, tokens, samples):
    """(z*, z) ~ Q with A0 = 1.75, M = 0.9, Q = 1.2, as matrices (T, T, n)."""
    plain = np.linalg.cholesky([[1.75, 0.9], [0.9, 1.2]]) @ rng.standard_normal(
        (2, tokens**2 * samples)
    )
    plain = plain.reshape(2, tokens, tokens, samples)
    return (plain + plain.swapaxes(1, 2)) / np.sqrt(2)


def to_vector(field):
    """h_ab/√s_ab for a ≤ b."""
    rows, columns = np.triu_indices(field.shape[0])
    root = np.where(rows == columns, np.sqrt(2), 1.0)
    return field[rows, columns] / root.reshape((-1,) + (1,) * (field.ndim - 2))


@functools.cache
def places(tokens):
    """Where x keeps the entry (a, b) of a field."""
    order = [(a, b) for a in range(tokens) for b in range(a, tokens)]
    return np.array(
        [[order.index(tuple(sorted((a, b)))) for b in range(tokens)] for a in range(tokens)]
    )


def to_field(x, tokens):
    """h (T, T) of one sample's x."""
    return x[places(tokens)] * (1 + (np.sqrt(2) - 1) * np.eye(tokens))


@functools.cache
def problem_of(stage, name, tokens):
    kind = PretrainingProblem if stage == "pretraining" else FinetuningProblem
    return kind(as_activation(SIGMAS[name].given), tokens)


@functools.cache
def case_of(stage, name, tokens, scale, samples=SAMPLES):
    rng = np.random.default_rng(tokens)
    activation = as_activation(SIGMAS[name].given)
    teacher, student = map(jnp.asarray, gaussian_fields(rng, tokens, samples))
    if stage == "pretraining":
        centre = to_vector(student)
        target = to_vector(teacher)
        starts = pretraining_starts(problem_of(stage, name, tokens), scale, target, centre)
        return Case(centre, activation(teacher), starts, target)
    q, m = 0.8, 0.6
    spike, noise = map(jnp.asarray, rng.standard_normal((2, tokens, samples)))
    centre = m * spike + np.sqrt(q - m**2) * noise
    eye = jnp.eye(tokens)[..., None]
    field = teacher + spike[:, None] * spike[None] - eye
    offset = student - q * eye
    starts = finetuning_starts(activation, scale, centre, spike, offset, field)
    return Case(centre, (offset, activation(field)), starts, spike)


@functools.cache
def minimiser(stage, name, tokens):
    """The jitted proximal map: (starts, scale, centre, data) → Minimum."""
    solver = make_solver("newton", problem_of(stage, name, tokens))
    return jax.jit(functools.partial(global_minimum, solver))


def minimum_of(stage, name, tokens, scale):
    case = case_of(stage, name, tokens, scale)
    return minimiser(stage, name, tokens)(case.starts, scale, case.centre, case.data)


def one_loss(stage, name, tokens, xp):
    """The loss of one sample as theory.md's section 3 writes it, in NumPy or in JAX."""
    sigma = SIGMAS[name].numpy if xp is np else SIGMAS[name].jax

    def loss(x, data):
        if stage == "pretraining":
            return xp.sum((sigma(to_field(x, tokens)) - data) ** 2)
        offset, target = data
        return xp.sum((sigma(offset + xp.outer(x, x)) - target) ** 2)

    return loss


def sample_of(tree, index):
    return jax.tree.map(lambda x: np.asarray(x)[..., index], tree)


def objective_values(stage, name, tokens, scale, x):
    case, loss = case_of(stage, name, tokens, scale), one_loss(stage, name, tokens, np)
    return np.array(
        [
            scale * loss(point, sample_of(case.data, i)) + np.sum((point - centre) ** 2) / 2
            for i, (point, centre) in enumerate(
                zip(np.asarray(x).T, np.asarray(case.centre).T, strict=True)
            )
        ]
    )


def starts_for_scipy(rng, stage, centre, teacher, count):
    """Random points around the centre, around the teacher's and around 0."""
    places = [centre, teacher, np.zeros_like(centre)]
    if stage == "finetuning":
        places.append(-centre)
    width = rng.uniform(0.3, 3.0, count)
    return [
        places[k % len(places)] + width[k] * rng.standard_normal(len(centre)) for k in range(count)
    ]


def lowest_by_scipy(stage, name, tokens, scale, count):
    """Least objective of each sample over BFGS runs from random starts."""
    rng = np.random.default_rng(7)
    case, loss = case_of(stage, name, tokens, scale), one_loss(stage, name, tokens, np)
    lowest = []
    for i, centre in enumerate(np.asarray(case.centre).T):
        data = sample_of(case.data, i)

        def objective(x, centre=centre, data=data):
            return scale * loss(x, data) + np.sum((x - centre) ** 2) / 2

        starts = starts_for_scipy(rng, stage, centre, np.asarray(case.teacher)[:, i], count)
        lowest.append(min(minimize(objective, start, method="BFGS").fun for start in starts))
    return np.array(lowest)


@pytest.mark.parametrize("scale", [2.0, 30.0])
@BOTH_STAGES
@pytest.mark.parametrize(("name", "tokens"), [("softmax", 2), ("softmax", 3), ("tanh", 2)])
def test_minimum_is_the_lowest_that_scipy_finds(stage, name, tokens, scale):
    """The objectives agree to the square of the gradients at which the solvers stop."""
    found = minimum_of(stage, name, tokens, scale).x
    values = objective_values(stage, name, tokens, scale, found)
    lowest = lowest_by_scipy(stage, name, tokens, scale, 12)
    np.testing.assert_allclose(values, lowest, rtol=1e-9, atol=1e-10)


def test_first_start_alone_misses_minima_at_large_v():
    setting = ("finetuning", "softmax", 3, 30.0)
    found, case = minimum_of(*setting), case_of(*setting)
    from_first = minimiser(*setting[:-1])(case.starts[:1], 30.0, case.centre, case.data)
    gain = objective_values(*setting, from_first.x) - objective_values(*setting, found.x)
    assert np.all(gain > -1e-10)
    missed = np.sum(gain > 1e-6)
    assert missed > 0
    np.testing.assert_allclose(found.switched_share, missed / SAMPLES, rtol=1e-14)
    assert from_first.switched_share == 0


QUICK = {("pretraining", "softmax", 3, "bfgs"), ("finetuning", "softmax", 2, "lbfgs")}
STOCK = [
    pytest.param(stage, name, tokens, solver, marks=marks)
    for stage in STAGES
    for name, tokens in SETTINGS
    for solver in ("bfgs", "lbfgs")
    for marks in [() if (stage, name, tokens, solver) in QUICK else (pytest.mark.slow,)]
]


@pytest.mark.parametrize(("stage", "name", "tokens", "solver"), STOCK)
def test_stock_solvers_find_the_same_minima(stage, name, tokens, solver):
    """Points agree to the stock solvers' gradient of 1e-8, and values to the square of that.

    The line search of `jaxopt.LBFGS` gives up on a sample here and there.
    """
    scale, case = 0.5, case_of(stage, name, tokens, 0.5)
    stock = make_solver(solver, problem_of(stage, name, tokens), 1e-8)
    found, state = jax.jit(stock.run)(case.centre, scale, case.centre, case.data)
    ours = minimum_of(stage, name, tokens, scale)
    values = [objective_values(stage, name, tokens, scale, x) for x in (ours.x, found)]
    done = np.asarray(state.error) < 1e-8
    assert np.mean(done) >= 0.9
    np.testing.assert_allclose(values[1][done], values[0][done], rtol=1e-12)
    np.testing.assert_allclose(found[:, done], ours.x[:, done], atol=1e-7)
    assert np.all(values[0] <= values[1] * (1 + 1e-12))
    assert ours.largest_gradient < 1e-10


def test_unknown_solver_is_refused_with_what_is_allowed():
    with pytest.raises(ValueError, match="'adam'") as error:
        make_solver("adam", problem_of("pretraining", "softmax", 2))
    assert all(solver in str(error.value) for solver in SOLVERS)


@BOTH_STAGES
@pytest.mark.parametrize(
    ("name", "tokens"), [("softmax", 2), ("softmax", 3), ("identity", 3), ("coupled", 2)]
)
def test_derivatives_of_the_loss_match_autodiff(stage, name, tokens):
    problem, case = problem_of(stage, name, tokens), case_of(stage, name, tokens, 1.0)
    loss = one_loss(stage, name, tokens, jnp)

    @jax.jit
    def by_autodiff(x, data):
        functions = (loss, jax.grad(loss), jax.hessian(loss))
        return [jax.vmap(f, in_axes=-1, out_axes=-1)(x, data) for f in functions]

    @jax.jit
    def by_problem(x, data):
        return [f(x, data) for f in (problem.loss, problem.gradient, problem.hessian)]

    expected = by_autodiff(case.centre, case.data)
    for value, exact in zip(by_problem(case.centre, case.data), expected, strict=True):
        np.testing.assert_allclose(value, exact, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("scale", [1e-8, 0.5, 2.0, 1e6])
def test_pretraining_map_of_the_identity(scale):
    """Prox = (z*/T² + z̃/(4V))/(1/T² + 1/(4V))."""
    tokens = 2
    case = case_of("pretraining", "identity", tokens, scale)
    found = minimiser("pretraining", "identity", tokens)(
        case.starts, scale, case.centre, case.data
    ).x
    teacher, centre = case.teacher, np.asarray(case.centre)
    expected = (teacher / tokens**2 + centre / (4 * scale)) / (1 / tokens**2 + 1 / (4 * scale))
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    np.testing.assert_allclose(case.starts[0], expected, rtol=1e-12)


@pytest.mark.parametrize("scale", [0.01, 0.3, 1.0, 30.0, 1e4])
def test_start_of_the_identity_is_its_global_minimum(scale):
    tokens = 3
    case = case_of("finetuning", "identity", tokens, scale)
    offset, target = case.data
    fits = np.moveaxis(tokens * np.asarray(target) - np.asarray(offset), -1, 0)
    rng = np.random.default_rng(3)
    for i, (fit, centre) in enumerate(zip(fits, np.asarray(case.centre).T, strict=True)):

        def value(x, fit=fit, centre=centre):
            away = np.outer(x, x) - fit
            gradient = scale * 4 * away @ x / tokens**2 + x - centre
            return scale * np.sum(away**2) / tokens**2 + np.sum((x - centre) ** 2) / 2, gradient

        starts = 2 * rng.standard_normal((10, tokens))
        lowest = min(minimize(value, x, jac=True, method="BFGS").fun for x in starts)
        np.testing.assert_allclose(value(case.starts[-1, :, i])[0], lowest, rtol=1e-9)


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e-6])
def test_start_of_the_identity_at_small_scale(scale):
    """To first order in the scale it is centre − scale ∇loss(centre)."""
    case = case_of("finetuning", "identity", 3, scale)
    loss = one_loss("finetuning", "identity", 3, jnp)
    slope = jax.vmap(jax.grad(loss), in_axes=-1, out_axes=-1)(case.centre, case.data)
    expected = case.centre - scale * slope
    np.testing.assert_allclose(case.starts[-1], expected, atol=1e-14 + 1e3 * scale**2)


@pytest.mark.parametrize("scale", [0.5, 30.0])
def test_softmax_keeps_the_sum_of_the_field(scale):
    tokens = 3
    case = case_of("pretraining", "softmax", tokens, scale)
    found = minimum_of("pretraining", "softmax", tokens, scale).x
    for h, centre in zip(np.asarray(found).T, np.asarray(case.centre).T, strict=True):
        before, after = to_field(centre, tokens), to_field(h, tokens)
        assert np.max(np.abs(after - before)) > 1e-3
        np.testing.assert_allclose(after.sum(), before.sum(), atol=1e-8)


def double_well(scale, fit, centre):
    """All stationary points of scale (x² − fit)² + (x − centre)²/2 and the objective there."""
    roots = np.roots([4 * scale, 0, 1 - 4 * scale * fit, -centre])
    x = np.sort(roots[np.abs(roots.imag) < 1e-9].real)
    return x, scale * (x**2 - fit) ** 2 + (x - centre) ** 2 / 2


@pytest.mark.parametrize("stage", STAGES)
def test_large_batches_are_solved_in_chunks(stage, monkeypatch):
    monkeypatch.setattr(_newton, "CHUNK", 64)
    problem, scale = problem_of(stage, "softmax", 2), 25.0
    case = case_of(stage, "softmax", 2, scale, 150)
    solver = make_solver("newton", problem, 1e-11)
    found = jax.jit(solver.run)(case.centre, scale, case.centre, case.data)
    assert found.params.shape == case.centre.shape
    centre, data = sample_of((case.centre, case.data), np.s_[128:])
    last = solver.run(centre, scale, centre, data)
    np.testing.assert_allclose(found.params[:, 128:], last.params, atol=1e-10)
    gradient = scale * problem.gradient(found.params, case.data) + found.params - case.centre
    np.testing.assert_allclose(found.state.error, np.max(np.abs(gradient), axis=0), atol=1e-13)
    assert np.max(found.state.error) < 1e-11
    assert found.state.iter_num >= last.state.iter_num


@pytest.fixture(scope="module")
def one_token():
    """The map of one token with σ(x) = x: it minimises scale (x² − fit)² + (x − centre)²/2."""
    problem = FinetuningProblem(as_activation("identity"), 1)
    solve_it = jax.jit(functools.partial(global_minimum, make_solver("newton", problem)))

    def run(starts, scale, centres, fit):
        centres = jnp.asarray(centres)
        fields = jnp.full((1, 1, len(centres)), fit)
        starts = jnp.asarray(starts).reshape(len(starts), 1, len(centres))
        return solve_it(starts, scale, centres[None], (jnp.zeros_like(fields), fields))

    return run


def test_lower_of_two_minima_is_found_from_another_start(one_token):
    scale, fit, centres = 1.0, 2.0, [0.02, -0.02]
    wells = [double_well(scale, fit, c) for c in centres]
    assert [len(x) for x, _ in wells] == [3, 3]
    lowest = [x[np.argmin(value)] for x, value in wells]
    assert lowest[0] > 1 > -1 > lowest[1]
    found = one_token([[1.0, 1.0], [-1.0, -1.0]], scale, centres, fit)
    np.testing.assert_allclose(found.x[0], lowest, rtol=1e-10)
    assert found.switched_share == 0.5
    found = one_token([[-1.0, 1.0], [1.0, -1.0]], scale, centres, fit)
    np.testing.assert_allclose(found.x[0], lowest, rtol=1e-10)
    assert found.switched_share == 1
    found = one_token([[1.0, -1.0], [-1.0, 1.0]], scale, centres, fit)
    np.testing.assert_allclose(found.x[0], lowest, rtol=1e-10)
    assert found.switched_share == 0


def test_share_of_samples_whose_minima_are_about_to_change_places(one_token):
    """A small change of the centre moves the lowest minimum of the first sample, not the second."""
    scale, fit, centres = 1.0, 2.0, [0.02, -1.5]
    sides = []
    for centre in centres:
        x, value = double_well(scale, fit, centre)
        shifted, shifted_value = double_well(scale, fit, centre - 0.1)
        assert len(x) == len(shifted) == 3
        sides.append((x[np.argmin(value)] > 0, shifted[np.argmin(shifted_value)] > 0))
    assert sides == [(True, False), (False, False)]
    found = one_token([[1.0, -1.0], [-1.0, 1.0]], scale, centres, fit)
    assert found.competing_share == 0.5
    assert found.switched_share == 0


def test_map_with_one_minimum_is_continuous(one_token):
    scale, fit, centres = 1.0, 0.2, [0.02, -1.5]
    wells = [double_well(scale, fit, c)[0] for c in centres]
    assert [len(x) for x in wells] == [1, 1]
    found = one_token([[1.0, 1.0], [-1.0, -1.0]], scale, centres, fit)
    np.testing.assert_allclose(found.x[0], np.concatenate(wells), rtol=1e-10)
    assert found.switched_share == 0
    assert found.competing_share == 0


@pytest.mark.parametrize("wells", [1, 2])
def test_pilot_decides_whether_the_other_samples_are_searched_from_everywhere(wells):
    """Of many samples with one well or two, the first part all have one well or all have two."""
    scale, samples = 1.0, 4 * PILOT
    part = np.arange(samples) < PILOT
    fits = np.where(part == (wells == 2), 2.0, 0.2)
    centre = 0.02
    assert len(double_well(scale, 2.0, centre)[0]) == 3
    assert len(double_well(scale, 0.2, centre)[0]) == 1
    problem = FinetuningProblem(as_activation("identity"), 1)
    fields = jnp.asarray(fits)[None, None]
    data = (jnp.zeros_like(fields), fields)
    starts = jnp.stack([jnp.full((1, samples), -1.0), jnp.full((1, samples), 1.0)])
    solver = make_solver("newton", problem)
    centres = jnp.full((1, samples), centre)
    found = jax.jit(functools.partial(local_minima, solver))(starts, scale, centres, data, False)
    assert found.everywhere == (wells == 2)
    x = np.asarray(found.x)[:, 0]
    residual = 4 * scale * x * (x**2 - fits) + x - centre
    np.testing.assert_allclose(residual, 0, atol=1e-9)
    # Two minima are told apart where both starts were used.
    assert np.array_equal(x[0] < x[1] - 0.1, (fits == 2) & (part | (wells == 2)))
    assert np.array_equal(x[0] == x[1], ~part & (wells == 1))


DERIVED = [("pretraining", "softmax", 2), ("finetuning", "softmax", 3), ("finetuning", "tanh", 2)]
SCALE = 0.7


class Derived(NamedTuple):
    """The map x(scale, centre, data) of a few samples, jitted with its derivatives.

    The solver stops at gradients that five-point differences do not see.
    """

    arguments: tuple
    cotangent: jax.Array
    forward: object
    backward: object

    def value(self, *arguments):
        return self.forward(arguments, jax.tree.map(jnp.zeros_like, self.arguments))[0]

    @property
    def directions(self):
        """A random direction in each argument alone."""
        rng = np.random.default_rng(11)
        leaves, structure = jax.tree.flatten(self.arguments)
        for i, leaf in enumerate(leaves):
            direction = [jnp.zeros_like(x) for x in leaves]
            direction[i] = jnp.asarray(rng.standard_normal(leaf.shape))
            yield jax.tree.unflatten(structure, direction)


@pytest.fixture(scope="module", params=DERIVED, ids=lambda setting: "-".join(map(str, setting)))
def derived(request):
    stage, name, tokens = request.param
    case = case_of(stage, name, tokens, SCALE, samples=6)
    solver = make_solver("newton", problem_of(stage, name, tokens), 1e-13)

    def value(scale, centre, data):
        return global_minimum(solver, case.starts, scale, centre, data).x

    @jax.jit
    def forward(arguments, direction):
        return jax.jvp(value, arguments, direction)

    @jax.jit
    def backward(arguments, direction, cotangent):
        """The gradient of cotangent · x, and its derivative along `direction`."""

        def gradient(*arguments):
            return jax.vjp(value, *arguments)[1](cotangent)

        return jax.jvp(gradient, arguments, direction)

    cotangent = np.random.default_rng(12).standard_normal(case.centre.shape)
    arguments = (jnp.asarray(SCALE), case.centre, case.data)
    return Derived(arguments, jnp.asarray(cotangent), forward, backward)


def ravel(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def dot(a, b):
    return np.dot(ravel(a), ravel(b))


def test_forward_derivatives_of_the_maps(derived):
    """Five-point differences with step 1e-3 are good to about 1e-9."""
    for direction in derived.directions:
        expected = central_difference(derived.value, derived.arguments, direction)
        assert np.max(np.abs(expected)) > 1e-3
        _, change = derived.forward(derived.arguments, direction)
        np.testing.assert_allclose(change, expected, rtol=1e-8, atol=1e-9)


def test_reverse_derivatives_of_the_maps(derived):
    for direction in derived.directions:
        expected = central_difference(derived.value, derived.arguments, direction)
        gradient, _ = derived.backward(derived.arguments, direction, derived.cotangent)
        value = dot(gradient, direction)
        np.testing.assert_allclose(value, dot(derived.cotangent, expected), rtol=1e-8)


def test_second_derivatives_of_the_maps(derived):
    """How the gradient changes along each direction, component by component."""
    for direction in derived.directions:

        def gradient(*arguments, direction=direction):
            found, _ = derived.backward(arguments, direction, derived.cotangent)
            return ravel(found)

        expected = central_difference(gradient, derived.arguments, direction)
        _, change = derived.backward(derived.arguments, direction, derived.cotangent)
        np.testing.assert_allclose(ravel(change), expected, rtol=1e-7, atol=1e-8)


@functools.cache
def expanded_map(stage):
    """Arguments after the scale, and scale → x with its derivatives, started from the centre."""
    case = case_of(stage, "softmax", 2, SCALE, samples=6)
    solver = make_solver("newton", problem_of(stage, "softmax", 2), 1e-13)

    def value(scale, centre, data):
        return local_minimum(solver, case.centre, scale, centre, data)[0]

    @jax.jit
    def derivatives(scale):
        second = jax.hessian(value)(scale, case.centre, case.data)
        first = jax.jacrev(value, argnums=(0, 1, 2))(scale, case.centre, case.data)
        return value(scale, case.centre, case.data), first, second

    return (case.centre, case.data), derivatives


@BOTH_STAGES
def test_hessian_of_the_maps_in_the_scale(stage):
    """Differences with step 2e-3 are good to about 1e-7."""
    _, derivatives = expanded_map(stage)
    expected = second_difference(lambda scale: derivatives(scale)[0], SCALE)
    np.testing.assert_allclose(derivatives(SCALE)[2], expected, rtol=1e-6, atol=1e-7)


@BOTH_STAGES
def test_map_at_scale_zero_is_the_centre(stage):
    """There x' = −g and x'' = 2 L g in the scale, with g and L the loss's derivatives."""
    (centre, data), derivatives = expanded_map(stage)
    loss = one_loss(stage, "softmax", 2, jnp)

    @jax.jit
    def expansion():
        functions = (jax.grad(loss), jax.hessian(loss))
        return [jax.vmap(f, in_axes=-1, out_axes=-1)(centre, data) for f in functions]

    found, (by_scale, by_centre, by_data), second = derivatives(0.0)
    g, L = expansion()
    np.testing.assert_array_equal(found, centre)
    np.testing.assert_allclose(by_scale, -g, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(second, 2 * np.einsum("ijn,jn->in", L, g), rtol=1e-10, atol=1e-14)
    size = centre.size
    np.testing.assert_allclose(by_centre.reshape(size, size), np.eye(size), atol=1e-15)
    for leaf in jax.tree.leaves(by_data):
        np.testing.assert_array_equal(leaf, np.zeros_like(leaf))


@BOTH_STAGES
def test_response_is_what_the_map_answers_to_its_centre(stage):
    """x = centre − scale ∇loss(x), so I − ∂x/∂centre = scale L (I + scale L)⁻¹."""
    case, problem = case_of(stage, "softmax", 2, SCALE, samples=1), problem_of(stage, "softmax", 2)
    solver = make_solver("newton", problem, 1e-13)

    @jax.jit
    def value(centre):
        return local_minimum(solver, case.centre, SCALE, centre, case.data)[0]

    x, size = value(case.centre), case.centre.shape[0]
    columns = [
        central_difference(value, (case.centre,), (np.eye(size)[:, i : i + 1],))[:, 0]
        for i in range(size)
    ]
    expected = (np.eye(size) - np.stack(columns, axis=1)) / SCALE
    trace, norm = response_sums(problem.hessian(x, case.data), SCALE)
    np.testing.assert_allclose(trace, [np.trace(expected)], rtol=1e-7)
    np.testing.assert_allclose(norm, [np.sum(expected**2)], rtol=1e-7)


@pytest.mark.parametrize("size", [1, 3])
def test_derivatives_of_the_response_are_those_of_its_matrices(size):
    rng = np.random.default_rng(size)
    L, dL, ddL = (a + a.T for a in 0.1 * rng.standard_normal((3, size, size)))

    def along(t):
        """Tr X and |X|² where L and the scale move with t."""
        matrix, scale = L + t * dL + 0.5 * t**2 * ddL, SCALE + 0.4 * t + 0.1 * t**2
        X = matrix @ jnp.linalg.inv(jnp.eye(size) + scale * matrix)
        return jnp.stack([jnp.trace(X), jnp.sum(X * X)])

    def ours(t):
        matrix, scale = L + t * dL + 0.5 * t**2 * ddL, SCALE + 0.4 * t + 0.1 * t**2
        return jnp.concatenate(response_sums(matrix[..., None], scale))

    for derive in (lambda f: f, jax.jacfwd, jax.jacrev, lambda f: jax.jacfwd(jax.jacrev(f))):
        found, expected = (jax.jit(derive(function))(0.0) for function in (ours, along))
        np.testing.assert_allclose(found, expected, rtol=1e-10)


SIZES = pytest.mark.parametrize("size", [1, 2, 6, 15])
jit_solve = jax.jit(solve)


@SIZES
def test_elimination_solves_positive_definite_systems(size):
    rng = np.random.default_rng(size)
    root = rng.standard_normal((40, size, size))
    matrices = root @ root.swapaxes(1, 2) + 0.1 * np.eye(size)
    b = rng.standard_normal((40, size, 2))
    x, least = jit_solve(np.moveaxis(matrices, 0, -1), np.moveaxis(b, 0, -1))
    np.testing.assert_allclose(np.moveaxis(x, -1, 0), np.linalg.solve(matrices, b), rtol=1e-9)
    pivots = np.diagonal(np.linalg.cholesky(matrices), axis1=1, axis2=2) ** 2
    np.testing.assert_allclose(least, pivots.min(1), rtol=1e-9)


def test_elimination_of_one_vector():
    matrix, b = np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([1.0, -1.0])
    x, least = solve(jnp.asarray(matrix), jnp.asarray(b))
    np.testing.assert_allclose(x, np.linalg.solve(matrix, b), rtol=1e-14)
    assert least == 2


@SIZES
def test_least_pivot_tells_positive_definite_matrices(size):
    rng = np.random.default_rng(size)
    root = rng.standard_normal((40, size, size))
    matrices = root @ root.swapaxes(1, 2)
    shift = np.linalg.eigvalsh(matrices)[:, 0] * rng.uniform(0.5, 1.5, 40)
    matrices = matrices - shift[:, None, None] * np.eye(size)
    _, least = jit_solve(np.moveaxis(matrices, 0, -1), np.ones((size, 2, 40)))
    definite = np.linalg.eigvalsh(matrices)[:, 0] > 0
    assert 5 < definite.sum() < 35
    np.testing.assert_array_equal(np.asarray(least) > 0, definite)
