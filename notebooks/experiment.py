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
# # Theory against experiment
#
# How to train layers of finite dimension on the exact losses, how to put them beside the theory,
# and what a disagreement means.
#
# An experiment draws a teacher $W_\star$, $w_\star$, $N=\alpha D^2$ and $N'=\alpha'D$ sequences
# with their noisy labels, and minimises
#
# $$\hat W=\arg\min_W\sum_{\mu\le N}\frac{\|\hat y(X_\mu;W,0)-y_\mu\|^2}D+\lambda\|W\|^2,\tag{2}$$
# $$\hat w=\arg\min_w\sum_{\mu\le N'}\frac{\|\hat y(X'_\mu;\hat W,w)-y'_\mu\|^2}D
# +\lambda'\|w\|^2.\tag{3}$$
#
# The theory is for $D\to\infty$. At finite $D$ every number scatters from seed to seed, and its
# mean is off by $c/\sqrt D+b/D$, away from transitions. Figure 1's parameters again, at
# $\lambda=0.02$ and $\lambda'=0.2$.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

import jaxlora
from jaxlora.plotting import plot_spectrum
from jaxlora.simulation import Setting, simulate
from jaxlora.simulation.comparison import compare

jax.config.update("jax_enable_x64", True)
plt.rcParams |= {"figure.dpi": 90, "figure.constrained_layout.use": True}
BLUE, ORANGE = "#0072B2", "#D55E00"

task = jaxlora.Task(
    tokens=3, kappa0=1.0, kappa=1.0, alpha=0.1, delta=0.5, lam=0.02, alpha_ft=3.0, lam_ft=0.2
)
theory = jaxlora.predict(task, samples=2**13)

# %% [markdown]
# ## Layers of finite dimension
#
# `Setting` has what is no physics of the limit: $D$, the sequences that test errors are measured
# on, the random starts of the fine-tuning, of which the lowest loss is kept. A teacher of norm
# $|w_\star|^2=D$ exactly takes most of the scatter off $m$, $q$ and $o_w$; the limit is the same.

# %%
seeds = {25: 16, 50: 12, 100: 8}
layers = [
    simulate(
        task,
        Setting(dimension, test_samples=4000, normalise_teacher=True, starts=2),
        seeds=count,
    )
    for dimension, count in seeds.items()
]
for one in layers:
    sizes = f"D = {one.setting.dimension:3d}, {len(one.outcomes):2d} seeds"
    print(f"{sizes}: {one.failure() or 'all trainings converged'}")

# %% [markdown]
# ## Side by side
#
# `compare` has every number that both know. $z$ is the difference in standard errors of both; it is
# of order one where finite size does not matter, $|z|\lesssim3$.

# %%
observables = compare(theory, layers)
symbols = {
    ("pretraining", "Q"): "Q",
    ("pretraining", "M"): "M",
    ("pretraining", "test_error"): "E",
    ("pretraining", "train_error"): "E_train",
    ("pretraining", "effective_noise"): "Δ_eff",
    ("finetuning", "q"): "q",
    ("finetuning", "m"): "m",
    ("finetuning", "test_error"): "E'",
    ("finetuning", "train_error"): "E'_train",
    ("finetuning", "overlap"): "o_w",
    ("finetuning", "forgetting"): "E''",
    ("finetuning", "frozen_test_error"): "frozen",
}
shown = {symbols[o.stage, o.name]: o for o in observables if (o.stage, o.name) in symbols}
print(f"{'':8}  {'theory':^15}", *(f"{f'D = {D}':^15}    z" for D in seeds), sep="  ")
for symbol, one in shown.items():
    cells = [f"{one.theory:.4f} ± {one.theory_stderr:.4f}"]
    cells += [f"{size.value:.4f} ± {size.stderr:.4f} {size.z:+5.1f}" for size in one.sizes]
    print(f"{symbol:8}", *cells, sep="  ")

# %% [markdown]
# ## The trend with $D$
#
# $E$, $\Delta_{\mathrm{eff}}$, $o_w$ and others are off by more than their errors at $D=25$ and 50,
# and approach the theory with $D$. The fit $a+c/\sqrt D+b/D$ takes such effects of finite size out:
# $a$ is what theory predicts, which $z(a)$ tells. The root comes from third cumulants such as
# $\mathbb E\,A_{ab}A_{bc}A_{ca}=\mathrm{Tr}\,\hat S^3/D^3$, which are of that order; $c$ is taken
# to be of the order of the number itself, as so few sizes hardly tell it from $b$.

# %%
figure, axes = plt.subplots(2, 3, figsize=(9, 5), sharex=True)
labels = ("Q", "E", "E_train", "E'", "E'_train", "o_w")
latex = ("$Q$", "$E$", r"$E_{\mathrm{train}}$", "$E'$", r"$E'_{\mathrm{train}}$", "$o_w$")
for axis, symbol, label in zip(axes.flat, labels, latex, strict=True):
    one, trend = shown[symbol], shown[symbol].trend
    inverse = np.array([1 / size.dimension for size in one.sizes])
    values, errors = zip(*((size.value, 2 * size.stderr) for size in one.sizes), strict=True)
    axis.errorbar(inverse, values, errors, fmt="o", color=BLUE, markersize=4, label="layers")
    sizes = 1 / np.linspace(1e-4, max(inverse), 200)
    fit = [trend.limit + trend.finite_size(size) for size in sizes]
    axis.plot(1 / sizes, fit, color=BLUE, linewidth=1, label=r"$a+c/\sqrt{D}+b/D$")
    axis.errorbar(0, trend.limit, 2 * trend.limit_stderr, fmt="_", color=BLUE, capsize=3)
    axis.errorbar(
        0, one.theory, 2 * one.theory_stderr, fmt="*", color=ORANGE, markersize=11, label="theory"
    )
    axis.set_title(f"{label}: $z(a)$ = {trend.z:+.1f}", fontsize=10)
for axis in axes[1]:
    axis.set_xlabel("$1/D$")
axes[0, 0].legend(frameon=False, fontsize=8, loc="lower left")
plt.show()
assert max(abs(one.trend.z) for one in shown.values()) < 3

# %% [markdown]
# ## The spectrum of $\hat S$
#
# In theory the eigenvalues of $\hat S/\sqrt D$ are those of a noisy $S_\star$, shifted by the ridge
# and cut off at zero: their law is that of
#
# $$\frac{\hat M}{\hat V}(x-\epsilon)_+,\qquad
# x\sim\mu_\eta=\mu_0\boxplus\text{semicircle of radius }2\eta,\qquad
# \eta=\frac{\sqrt{\hat Q}}{\hat M},\quad\epsilon=\frac{2\sqrt\kappa\,\lambda}{\hat M},$$
#
# with $\mu_0$ the law of the teacher's eigenvalues. So ridge regularisation selects the rank.

# %%
figure, axis = plt.subplots(figsize=(5.6, 3.4))
plot_spectrum(axis, theory, layers[-1], bins=25)
plt.show()

# %% [markdown]
# ## What to take away
#
# - Put error bars of both beside each other: `compare` does, and says how far the trend with $D$
#   explains a difference.
# - Layers of a hundred dimensions follow the theory to a few per cent, and the spectrum of what
#   they learnt, with its share of exact zeros, to the statistics of four hundred eigenvalues and
#   more.
# - `jaxlora compare` does all this from the command line.
