# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # An activation of your own
#
# How to solve the model for another $\sigma$, what the solvers need of it, and how to check that
# theory and layer agree on it.
#
# $\sigma$ enters both stages through small optimisation problems, one a sample,
#
# $$\mathrm{Prox}(z_\star,\tilde z)=\arg\max_h\Big\{-|\sigma(h)-\sigma(z_\star)|^2_F
# -\sum_{a\le b}\frac{(\tilde z_{ab}-h_{ab})^2}{2V(1+\delta_{ab})}\Big\}\tag{15}$$
#
# over symmetric $T\times T$ matrices $h$, and its like over $\chi\in\mathbb R^T$ with
# $\sigma(z+\chi\chi^\top-q\,I)$. So a function on $T\times T$ arrays is all that is needed; its
# derivatives make the solvers faster.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxlora
from jaxlora.simulation import Setting, simulate
from jaxlora.sweeps import Theory

jax.config.update("jax_enable_x64", True)
plt.rcParams |= {"figure.dpi": 90, "figure.constrained_layout.use": True}
BLUE, ORANGE = "#0072B2", "#D55E00"
parameters = {
    "tokens": 2,
    "kappa0": 1.0,
    "kappa": 1.0,
    "alpha": 0.3,
    "delta": 0.5,
    "alpha_ft": 3.0,
    "lam_ft": 0.03,
}

# %% [markdown]
# ## A function
#
# Sigmoid attention, entry by entry. Written in `jax.numpy`, for one $T\times T$ array, without
# conditions on its values:


# %%
def sigmoid(a):
    return jax.nn.sigmoid(a) / a.shape[0]


task = jaxlora.Task(**parameters, lam=0.005, activation=sigmoid)
plain = jaxlora.predict(task, samples=2**11, replicates=4)
print(f"λ_c = {plain.pretraining.critical_lam:.4f}")
print(f"E = {plain.pretraining.test_error:.5f} ± {plain.stderr.pretraining.test_error:.5f}")
print(f"E' = {plain.finetuning.test_error:.5f} ± {plain.stderr.finetuning.test_error:.5f}")

# %% [markdown]
# Define the function once, at the top: programs are compiled for the function object, and anew for
# another one, though it does the same.
#
# ## What else an `Activation` may provide
#
# - `gradient(a, y)`, $\partial|\sigma(a)-y|^2_F/\partial a$ with the $T^2$ entries of $a$
#   independent; autodiff otherwise.
# - `row_hessian(a, y)`, where $\sigma$ acts on each row alone, as softmax does, or on each entry:
#   the second derivatives by the entries $a_{ri}$, $a_{rj}$ of a row, as a `RowHessian`
#   $\mathrm{diag}(d_r)+b_rc_r^\top+c_rb_r^\top$. Newton's method for the proximal maps then needs
#   no autodiff, which saves time.
# - `equivariant`: whether $\sigma(PaP^\top)=P\sigma(a)P^\top$ for every permutation $P$ of the
#   tokens. Averages are then symmetrised over tokens, which lowers the sampling error. Where it is
#   not given, it is tried out at random matrices.
# - `min_tokens`: the smallest $T$ that makes sense; `name`: what outputs call it.
#
# Arrays are samples-last, $(T,T,\dots)$. With $s=\mathrm{sigmoid}(a)$ and $d=s/T-y$, the loss has
# $\partial=\frac2Td\,s(1-s)$ and $\partial^2=\frac2Ts(1-s)\big[\frac{s(1-s)}T+d\,(1-2s)\big]$ for
# each entry.


# %%
class Sigmoid(jaxlora.Activation):
    """Entry-wise sigmoid over T."""

    def gradient(self, a, y):
        s, tokens = jax.nn.sigmoid(a), a.shape[0]
        return 2 / tokens * (s / tokens - y) * s * (1 - s)

    def row_hessian(self, a, y):
        s, tokens = jax.nn.sigmoid(a), a.shape[0]
        slope = s * (1 - s)
        second = 2 / tokens * slope * (slope / tokens + (s / tokens - y) * (1 - 2 * s))
        return jaxlora.RowHessian(second, jnp.zeros_like(a), jnp.zeros_like(a))


fast_sigmoid = Sigmoid(sigmoid, "sigmoid", equivariant=True)

# %% [markdown]
# Derivatives by hand are to be checked against autodiff, the row structure included: the Hessian
# has no entries that mix rows.

# %%
a, y = np.random.default_rng(0).standard_normal((2, 3, 3))
a, y = jnp.asarray(a), jnp.asarray(y)


def loss(a):
    return jnp.sum((sigmoid(a) - y) ** 2)


np.testing.assert_allclose(fast_sigmoid.gradient(a, y), jax.grad(loss)(a), rtol=1e-12)
whole, rows = jax.hessian(loss)(a), fast_sigmoid.row_hessian(a, y).matrices()
for r in range(3):
    np.testing.assert_allclose(whole[r, :, r], rows[r], rtol=1e-12, atol=1e-15)
    assert not np.any(np.delete(whole[r], r, axis=1))
print("gradient and Hessian agree with autodiff")

# %% [markdown]
# Whether tokens may be permuted is found out: they may for the sigmoid, but not where a token sees
# only those before it.


# %%
def causal(a):
    return jax.nn.softmax(jnp.where(jnp.tri(len(a)) > 0, a, -jnp.inf), axis=1)


for function in (sigmoid, causal):
    print(f"{function.__name__}: {jaxlora.Activation(function).is_equivariant(tokens=3)}")

# %% [markdown]
# The predictions are the same, on the same draws:

# %%
fast = jaxlora.predict(
    jaxlora.Task(**parameters, lam=0.005, activation=fast_sigmoid), samples=2**11, replicates=4
)
change = abs(float(fast.finetuning.test_error - plain.finetuning.test_error))
print(f"E' differs by less than 1e-8: {change < 1e-8}")
assert change < 1e-8

# %% [markdown]
# ## Against layers
#
# Training uses the same function, through autodiff, and knows nothing of proximal maps.

# %%
ridges = np.geomspace(0.001, 0.1, 9)
curve = jaxlora.sweep(
    lam=ridges,
    activation=fast_sigmoid,
    theory=Theory(samples=2**11, replicates=4),
    **parameters,
)
setting = Setting(60, test_samples=4000, normalise_teacher=True, starts=2)
trained = [
    simulate(jaxlora.Task(**parameters, lam=lam, activation=fast_sigmoid), setting, seeds=4)
    for lam in ridges[1::3]
]
for one in trained:
    print(f"λ = {float(one.task.lam):.4f}: {one.failure() or 'all trainings converged'}")

# %%
figure, axis = plt.subplots(figsize=(5.2, 3.4))
for name, stage, symbol, colour, marker in (
    ("test_error", "pretraining", "E", BLUE, "o"),
    ("test_error_ft", "finetuning", "E'", ORANGE, "s"),
):
    values, errors = curve[name].values, 2 * curve[f"{name}_stderr"].values
    axis.plot(ridges, values, color=colour)
    axis.fill_between(ridges, values - errors, values + errors, color=colour, alpha=0.25, lw=0)
    measured = np.array([getattr(one, stage).test_error for one in trained])
    errors = np.array([getattr(one.stderr, stage).test_error for one in trained])
    axis.errorbar(
        ridges[1::3],
        measured,
        2 * errors,
        fmt=marker,
        color=colour,
        markersize=4,
        label=f"${symbol}$",
    )
    changes = 100 * (measured / values[1::3] - 1)
    errors *= 100 / values[1::3]
    words = [f"{x:+.1f} ± {e:.1f}" for x, e in zip(changes, errors, strict=True)]
    print(f"{symbol:2} of layers beside theory:", ", ".join(words), "%")
axis.set_xscale("log")
axis.set_xlabel(r"pre-training ridge $\lambda$")
axis.set_ylabel("test error")
axis.legend(frameon=False, title="lines: theory; points: D = 60")
plt.show()

# %% [markdown]
# ## What to take away
#
# - A function on $T\times T$ arrays is enough, for theory, sweeps, tuning and experiments alike.
# - Layers of $D=60$ follow the theory: $E'$ within its errors, $E$ within a few per cent, some
#   more at small $\lambda$, as at finite $D$ for softmax in [experiment](experiment.ipynb).
# - A row Hessian saves time. Check it against autodiff.
# - A new $\sigma$ has scales of its own: look at $\lambda_c$ first, from which on nothing is
#   learnt.
# - The Bayes-optimal benchmark is for softmax and the identity only.
