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
# # Active fine-tuning and recalibration
#
# Which sequences to label when labels are what is scarce, what that gains, and how the scale of
# the frozen layer matters.
#
# A pre-trained layer enters the fine-tuning by the law of its pre-activations $z$ beside the
# teacher's $z_\star$, Gaussian of covariances $Q_0+\Delta/2$, $M$, $Q$ alone. So it can be given by
# hand, `given=(Q0, Q, M)`, and its quality is the effective noise
#
# $$\Delta_{\mathrm{eff}}=\frac\Delta2+Q_0-2M+Q.\tag{25}$$
#
# Algorithm 1 looks at $\bar N'=\bar\alpha'D$ sequences without labels and keeps the share $\rho$
# of them, $\alpha'=\rho\bar\alpha'$, whose frozen output is nearest to that of $z=0$: those with
# the smallest $|\sigma(z)-\sigma(0)|^2_F$. There $z_\star-z$, which is noise to the fine-tuning,
# has only the variance $\Delta/2+Q_0-M^2/Q\le\Delta_{\mathrm{eff}}$, up to factors
# $1+\delta_{ab}$: what else is wrong is $(M/Q-1)\,z$, and small with $z$.
#
# As in figure 4: $T=3$, softmax, $\Delta=0$, $\bar\alpha'=100$, $M=1$,
# $Q_0=Q=1+\Delta_{\mathrm{eff}}/2$, and $\lambda'$ the best of 0.1, 0.2, 0.5, 1 at each point.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

import jaxlora
from jaxlora.simulation import Setting, simulate
from jaxlora.sweeps import Theory

jax.config.update("jax_enable_x64", True)
plt.rcParams |= {"figure.dpi": 90, "figure.constrained_layout.use": True}
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#B0B0B0"

CANDIDATES = 100.0
NOISES = (0.25, 0.5, 1.0, 2.0, 4.0)
RIDGES = (0.1, 0.2, 0.5, 1.0)
SHARES = (0.1, 0.3)


def given(noise):
    Q = 1 + noise / 2
    return Q, Q, 1.0


# %% [markdown]
# ## What is selected
#
# Drawn here by hand: packed fields $z$ of variance $Q$ off the diagonal and $2Q$ on it.

# %%
Q = given(2.0)[1]
entries = np.sqrt(Q) * np.random.default_rng(0).standard_normal((20_000, 3, 3))
fields = (entries + entries.transpose(0, 2, 1)) / np.sqrt(2)
outputs = np.exp(fields - fields.max(axis=2, keepdims=True))
outputs /= outputs.sum(axis=2, keepdims=True)
distance = np.sum((outputs - 1 / 3) ** 2, axis=(1, 2))
figure, axis = plt.subplots(figsize=(5.2, 3))
axis.hist(distance, bins=80, density=True, color=GREY)
for share, colour in zip(SHARES, (ORANGE, BLUE), strict=True):
    axis.axvline(np.quantile(distance, share), color=colour, label=rf"$\rho={share:g}$")
axis.set_xlabel(r"$|\sigma(z)-\sigma(0)|^2_F$ of a candidate, $\Delta_{\mathrm{eff}}=2$")
axis.set_ylabel("density")
axis.legend(frameon=False, title="kept: left of")
plt.show()

# %% [markdown]
# ## What it gains
#
# `active_ratio` is $\rho$, `alpha_ft` the labelled $\alpha'=\rho\bar\alpha'$. Without active
# fine-tuning as many sequences are labelled, chosen at random.


# %%
def solve(noise, share, active, beta=1.0):
    """All numbers at each λ'."""
    swept = jaxlora.sweep(
        tokens=3,
        delta=0.0,
        given=given(noise),
        alpha_ft=share * CANDIDATES,
        lam_ft=list(RIDGES),
        active_ratio=share if active else 1.0,
        beta=beta,
        theory=Theory(samples=2**12, replicates=4),
    )
    assert int(swept.result_ft.max()) <= jaxlora.Result.GIVEN
    return swept


def best(swept):
    """The numbers at the λ' of least E'."""
    return swept.isel(lam_ft=int(swept.test_error_ft.argmin()))


solved = {
    (share, active, noise): solve(noise, share, active)
    for share in SHARES
    for active in (False, True)
    for noise in NOISES
}

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6))
for share, colour in zip(SHARES, (ORANGE, BLUE), strict=True):
    for active, style in ((False, "--"), (True, "-")):
        points = [best(solved[share, active, noise]) for noise in NOISES]
        for axis, name in zip(axes, ("test_error_ft", "overlap"), strict=True):
            values = np.array([float(p[name]) for p in points])
            errors = 2 * np.array([float(p[f"{name}_stderr"]) for p in points])
            label = rf"$\rho={share:g}$" if active else None
            axis.plot(NOISES, values, style, color=colour, label=label)
            axis.fill_between(
                NOISES, values - errors, values + errors, color=colour, alpha=0.25, linewidth=0
            )
for axis, label in zip(axes, ("$E'$", "$o_w$"), strict=True):
    axis.set_xlabel(r"$\Delta_{\mathrm{eff}}$")
    axis.set_ylabel(label)
axes[0].plot([], [], "k-", label="active")
axes[0].plot([], [], "k--", label="at random")
axes[0].legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# ## Does it hold for layers?
#
# Layers of dimension $D=400$ at $\rho=0.1$, $\Delta_{\mathrm{eff}}=2$, $\lambda'=0.5$: candidates
# are drawn, selected by Algorithm 1, and $w$ is trained on them.

# %%
share, noise = 0.1, 2.0
print(f"{'':10}  {'theory':^15}  {'D = 400':^15}     z")
for active in (False, True):
    task = jaxlora.Task(
        tokens=3,
        delta=0.0,
        given=given(noise),
        alpha_ft=share * CANDIDATES,
        lam_ft=0.5,
        active_ratio=share if active else 1.0,
    )
    theory = solved[share, active, noise].sel(lam_ft=0.5)
    setting = Setting(400, test_samples=4000, normalise_teacher=True, starts=2)
    measured = simulate(task, setting, seeds=4)
    assert measured.failure() is None
    for name, number, symbol in (
        ("test_error", "test_error_ft", "E'"),
        ("overlap", "overlap", "o_w"),
    ):
        values = float(theory[number]), getattr(measured.finetuning, name)
        errors = float(theory[f"{number}_stderr"]), getattr(measured.stderr.finetuning, name)
        pairs = [f"{x:.4f} ± {e:.4f}" for x, e in zip(values, errors, strict=True)]
        z = (values[1] - values[0]) / np.hypot(*errors)
        print(f"{symbol:3} {'active' if active else 'random'}", *pairs, f"{z:+.1f}", sep="  ")

# %% [markdown]
# ## Recalibration
#
# For $\sigma=x/T$ selection by $|\sigma(z)|$ has, as $\rho\to0$, the effective noise
#
# $$\Delta_{\mathrm{eff,ActFT}}=\frac\Delta2+Q_0-\frac{M^2}Q,\tag{28}$$
#
# which is also what remains of $\Delta_{\mathrm{eff}}(\beta)=\Delta/2+Q_0+\beta^2Q-2\beta M$ (26)
# when the frozen weights are rescaled, $\hat W\to\sqrt\beta\hat W$, by the best
# $\beta_\star=M/Q$. Rescaling needs no labels to select by. Here at $\Delta_{\mathrm{eff}}=2$,
# $\rho=0.1$ or as many labels at random, at the best $\lambda'$ again.

# %%
Q0, Q, M = given(noise)
beta_star = float(jaxlora.best_beta(Q, M))
scales = np.arange(0.5, 2.3, 0.25)
rescaled = {
    active: [best(solve(noise, share, active, beta_star * scale)) for scale in scales]
    for active in (False, True)
}

# %%
figure, axis = plt.subplots(figsize=(5.2, 3.4))
curves = (
    ("test_error", False, "$E$", GREEN, ":"),
    ("test_error_ft", False, "$E'$, at random", BLUE, "--"),
    ("test_error_ft", True, "$E'$, active", ORANGE, "-"),
)
for name, active, label, colour, style in curves:
    values = np.array([float(one[name]) for one in rescaled[active]])
    errors = 2 * np.array([float(one[f"{name}_stderr"]) for one in rescaled[active]])
    axis.plot(scales, values, style, color=colour, label=label)
    axis.fill_between(scales, values - errors, values + errors, color=colour, alpha=0.25, lw=0)
    least = int(values.argmin())
    print(f"least {label.replace('$', '')}: {values[least]:.4f} at β/β* = {scales[least]:.1f}")
axis.axvline(1 / beta_star, color=GREY, label=r"$\beta=1$")
axis.set_xlabel(r"$\beta/\beta_\star$")
axis.set_ylabel("test error")
axis.legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# ## What to take away
#
# - TODO
