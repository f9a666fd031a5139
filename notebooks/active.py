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
SHARES = (0.03, 0.1)
fixed = {"tokens": 3, "delta": 0.0}


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
def solve(share, **axes):
    """All numbers at each λ', by Algorithm 1 (`active_ratio` = ρ) and at random (1)."""
    return jaxlora.sweep(
        **fixed,
        alpha_ft=share * CANDIDATES,
        active_ratio=[share, 1.0],
        lam_ft=list(RIDGES),
        theory=Theory(samples=2**11, replicates=4),
        **axes,
    )


def best(swept):
    """The numbers at the λ' of least E', of those where the solve converged."""
    error = swept.test_error_ft.where(swept.result_ft <= jaxlora.Result.GIVEN, np.inf)
    assert np.all(np.isfinite(error.min("lam_ft")))
    return swept.isel(lam_ft=error.argmin("lam_ft"))


solved = {share: solve(share, given=[given(noise) for noise in NOISES]) for share in SHARES}
for share, swept in solved.items():
    for ratio, choice in ((share, "by Algorithm 1"), (1.0, "at random")):
        failed = swept.result_ft.sel(active_ratio=ratio) > jaxlora.Result.GIVEN
        ridges = sorted({float(x) for x in failed.lam_ft[failed.any("given")]})
        places = f", at λ' in {ridges}" if ridges else ""
        print(f"ρ = {share:g}, {choice}: {int(failed.sum())} of {failed.size} not solved{places}")


def draw(axis, x, curve, name, **style):
    values, errors = curve[name].values, 2 * curve[f"{name}_stderr"].values
    (line,) = axis.plot(x, values, **style)
    axis.fill_between(x, values - errors, values + errors, color=line.get_color(), alpha=0.2, lw=0)


# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6))
for share, colour in zip(SHARES, (ORANGE, BLUE), strict=True):
    active, random = (best(solved[share].sel(active_ratio=ratio)) for ratio in (share, 1.0))
    for axis, name in zip(axes, ("test_error_ft", "overlap"), strict=True):
        draw(axis, NOISES, active, name, color=colour, label=rf"$\rho={share:g}$")
        draw(axis, NOISES, random, name, color=colour, linestyle="--")
    gains = 100 * (1 - active.test_error_ft.values / random.test_error_ft.values)
    print(f"ρ = {share:g}: E' is lower by", ", ".join(f"{gain:.1f}" for gain in gains), "%")
    replicons = [float(one.replicon_ft.max()) for one in (active, random)]
    print("  replicon at most {:.2f} by Algorithm 1, {:.2f} at random".format(*replicons))
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
# Layers of dimension $D=200$ at $\rho=0.03$, $\Delta_{\mathrm{eff}}=2$, $\lambda'=0.5$: candidates
# are drawn, selected by Algorithm 1, and $w$ is trained on them.

# %%
share, noise = 0.03, 2.0
setting = Setting(200, test_samples=4000, normalise_teacher=True, starts=2)
print(f"{'':11}  {'theory':^15}  {'D = 200':^15}     z")
for ratio, choice in ((1.0, "random"), (share, "active")):
    task = jaxlora.Task(
        **fixed, given=given(noise), alpha_ft=share * CANDIDATES, lam_ft=0.5, active_ratio=ratio
    )
    theory = solved[share].isel(given=NOISES.index(noise)).sel(lam_ft=0.5, active_ratio=ratio)
    measured = simulate(task, setting, seeds=8)
    assert measured.failure() is None
    for name, number, symbol in (
        ("test_error", "test_error_ft", "E'"),
        ("overlap", "overlap", "o_w"),
    ):
        values = float(theory[number]), getattr(measured.finetuning, name)
        errors = float(theory[f"{number}_stderr"]), getattr(measured.stderr.finetuning, name)
        pairs = [f"{x:.4f} ± {e:.4f}" for x, e in zip(values, errors, strict=True)]
        z = (values[1] - values[0]) / np.hypot(*errors)
        print(f"{choice} {symbol:4}", *pairs, f"{z:+.1f}", sep="  ")

# %% [markdown]
# ## Recalibration
#
# For $\sigma=x/T$ selection by $|\sigma(z)|$ has, as $\rho\to0$, the effective noise
#
# $$\Delta_{\mathrm{eff,ActFT}}=\frac\Delta2+Q_0-\frac{M^2}Q,\tag{28}$$
#
# which is also what remains of $\Delta_{\mathrm{eff}}(\beta)=\Delta/2+Q_0+\beta^2Q-2\beta M$ (26)
# when the frozen weights are rescaled, $\hat W\to\sqrt\beta\hat W$, by the best
# $\beta_\star=M/Q$. Rescaling selects nothing, but needs to know $M/Q$. Here at
# $\Delta_{\mathrm{eff}}=2$, $\rho=0.03$ or as many labels at random, at the best $\lambda'$ again.

# %%
Q0, Q, M = given(noise)
beta_star = float(jaxlora.best_beta(Q, M))
scales = np.array([0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0])
rescaled = solve(share, given=given(noise), beta=(beta_star * scales).tolist())

# %%
figure, axis = plt.subplots(figsize=(5.2, 3.4))
curves = (
    ("test_error", 1.0, "$E$", GREEN, ":"),
    ("test_error_ft", 1.0, "$E'$, at random", BLUE, "--"),
    ("test_error_ft", share, "$E'$, active", ORANGE, "-"),
)
for name, ratio, label, colour, style in curves:
    curve = best(rescaled.sel(active_ratio=ratio))
    draw(axis, scales, curve, name, color=colour, linestyle=style, label=label)
    values = curve[name].values
    least, plain = int(values.argmin()), int(np.argmin(abs(beta_star * scales - 1)))
    symbol = label.replace("$", "")
    print(f"{symbol:>13}: least at β/β* = {scales[least]:g}, {values[least]:.4f};", end=" ")
    print(f"{values[plain]:.4f} at β = {beta_star * scales[plain]:g}")
axis.axvline(1 / beta_star, color=GREY, label=r"$\beta=1$")
axis.set_xlabel(r"$\beta\,/\,\beta_*$")
axis.set_ylabel("test error")
axis.legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# ## What to take away
#
# - Where labels are few and the frozen layer is noisy ($\rho=0.03$, $\Delta_{\mathrm{eff}}\ge1$),
#   Algorithm 1 takes 4 to 5 % off $E'$ and raises $o_w$ much more. At $\rho=0.1$ only $o_w$ gains:
#   $E'$ changes by no more than its errors, some 1 %.
# - It makes the fine-tuning more stable, too. At random with $\rho=0.03$ the replicon reaches 1.4,
#   and above 1 the equations no longer describe the trained layer; one solve failed. Selected
#   sequences keep it below 1.
# - Layers of $D=200$ agree with the theory within errors, chosen either way.
# - The scale of the frozen layer matters more: rescaling takes 30 % off $E'$, and selection little
#   more after it. For softmax the best $\beta$ is below the $\beta_\star$ of the linear layer, at
#   a half to three quarters of it.
