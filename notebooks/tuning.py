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
# # Tuning by gradients
#
# How exact the derivatives are, how few predictions lead to the best ridges, what the errors are
# most sensitive to, and what to do when two aims want different ridges.
#
# The order parameters $\omega=(Q,M,V)$ and $(q,m,v)$ solve $\omega=F(\omega,\theta)$, with
# $\theta$ the hyperparameters, so that
#
# $$\frac{d\omega}{d\theta}=\Big(1-\frac{\partial F}{\partial\omega}\Big)^{-1}
# \frac{\partial F}{\partial\theta}.$$
#
# With the random draws inside $F$ frozen, a prediction is a smooth function of $\theta$, and this
# is its derivative, whatever iteration found the solution.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

import jaxlora
from jaxlora.sweeps import Theory
from jaxlora.sweeps.pictures import plot_sweep

jax.config.update("jax_enable_x64", True)
plt.rcParams |= {"figure.dpi": 90, "figure.constrained_layout.use": True}
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
numerics = {"samples": 2**12, "replicates": 8}

# %% [markdown]
# ## Gradients against finite differences
#
# At the paper's figure 1: $T=3$, $\kappa_0=\kappa=1$, $\alpha=0.1$, $\Delta=0.5$, $\alpha'=3$,
# fresh sequences ($e=0$), softmax. A central difference of step $h$ has an error $\propto h^2$. If
# the derivative is right, differences approach it like that, down to where the tolerance of the
# solves ends it. Steps of 2 % and more in $\lambda'$ are off by more here: one of the eight
# replicates jumps, as it does where a sample changes minima of its proximal map. A difference sees
# that, the derivative leaves it out.

# %%
figure_1 = {"tokens": 3, "kappa0": 1.0, "kappa": 1.0, "alpha": 0.1, "delta": 0.5, "alpha_ft": 3.0}
point = {"lam": 0.05, "lam_ft": 0.2}


def error_ft(values):
    task = jaxlora.Task(**figure_1, **values)
    return jaxlora.predict(task, **numerics).finetuning.test_error


exact = {name: float(slope) for name, slope in jax.grad(error_ft)(point).items()}
steps = np.geomspace(1e-5, 0.1, 7)  # relative


def difference(name, step):
    ends = [{**point, name: point[name] * (1 + sign * step)} for sign in (1, -1)]
    above, below = (float(error_ft(end)) for end in ends)
    return (above - below) / (2 * step * point[name])


distances = {
    name: [abs(difference(name, step) / slope - 1) for step in steps]
    for name, slope in exact.items()
}
for name, symbol in (("lam", "λ"), ("lam_ft", "λ'")):
    print(f"dE'/d{symbol:<2} = {exact[name]:+.5f}", end=", ")
    print(f"a difference comes within 1e-7 of it: {min(distances[name]) < 1e-7}")
assert max(min(one) for one in distances.values()) < 1e-7

# %%
figure, axis = plt.subplots(figsize=(4.8, 3.4))
for distance, symbol, style in zip(
    distances.values(), (r"$\lambda$", r"$\lambda'$"), ((BLUE, "o"), (ORANGE, "s")), strict=True
):
    axis.loglog(steps, distance, color=style[0], marker=style[1], markersize=4, label=symbol)
axis.loglog(steps[2:], 0.3 * steps[2:] ** 2, "k:", label=r"$\propto h^2$")
axis.set_xlabel("relative step $h$")
axis.set_ylabel("|difference / exact − 1|")
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# ## The best ridges
#
# `tune` follows these gradients in $\log\lambda$ and $\log\lambda'$ by L-BFGS within bounds.
# `watch` is called with every point it looks at.

# %%
bounds = {"lam": (0.003, 0.3), "lam_ft": (0.03, 2.0)}
start = jaxlora.Task(**figure_1, lam=0.15, lam_ft=1.2)
path = []
tuned = jaxlora.tune(start, bounds, starts=1, watch=path.append, **numerics)
print(f"E' = {tuned.value:.4f} ± {tuned.stderr:.4f}", end=", ")
print(f"{tuned.improvement:.4f} ± {tuned.improvement_stderr:.4f} less than at the start")
for name, symbol in (("lam", "λ"), ("lam_ft", "λ'")):
    optimum = tuned.parameters[name]
    print(f"{symbol:<2} = {optimum.value:.4f} ± {optimum.stderr:.4f}")
print(f"{tuned.evaluations} gradients, converged: {tuned.converged}")
print("curvatures", np.round(tuned.curvature, 4))

# %%
grid = jaxlora.sweep(
    lam=np.geomspace(*bounds["lam"], 13),
    lam_ft=np.geomspace(*bounds["lam_ft"], 11),
    theory=Theory(samples=2**11, replicates=4),
    **figure_1,
)
figure, axis = plt.subplots(figsize=(5.6, 4))
plot_sweep(axis, grid, "test_error_ft", x="lam", by="lam_ft", heat=True)
lam, lam_ft = ([seen.values[name] for seen in path] for name in bounds)
axis.annotate("start", (lam[0], lam_ft[0]), (5, 5), textcoords="offset points", color="white")
axis.plot(lam, lam_ft, "o-", color="white", markeredgecolor="black", markersize=4, linewidth=1)
best = [tuned.parameters[name].value for name in bounds]
axis.plot(
    *best, "o", color=ORANGE, fillstyle="none", markersize=16, markeredgewidth=2, label="tuned"
)
axis.legend(loc="upper left", fontsize=8)
plt.show()
least = grid.test_error_ft.argmin(...)
value, error = (float(grid[f"test_error_ft{end}"].isel(least)) for end in ("", "_stderr"))
print(f"least on the grid of {grid.test_error_ft.size} points: {value:.4f} ± {error:.4f}")
assert tuned.converged
assert tuned.value < value + 2 * np.hypot(error, tuned.stderr)

# %% [markdown]
# ## What matters
#
# `sensitivities` gives elasticities $d\log E'/d\log\theta$: by how many per cent an observable
# changes with one per cent of a parameter. At the optimum those of $E'$ by the ridges vanish.

# %%
found = jaxlora.sensitivities(tuned.task, samples=2**12, replicates=4)
symbols = {
    "kappa0": r"$\kappa_0$",
    "kappa": r"$\kappa$",
    "alpha": r"$\alpha$",
    "delta": r"$\Delta$",
    "lam": r"$\lambda$",
    "alpha_ft": r"$\alpha'$",
    "lam_ft": r"$\lambda'$",
}
figure, axis = plt.subplots(figsize=(5.6, 3.2))
rows = np.arange(len(symbols))
for shift, (observable, label, colour) in enumerate(
    (("error", "$E$", BLUE), ("error_ft", "$E'$", ORANGE), ("overlap", "$o_w$", GREEN))
):
    values = [found.elasticities[observable][name] for name in symbols]
    errors = [2 * found.stderr[observable][name] for name in symbols]
    axis.barh(rows + 0.27 * (shift - 1), values, 0.25, xerr=errors, color=colour, label=label)
axis.set_yticks(rows, symbols.values())
axis.invert_yaxis()
axis.axvline(0, color="black", linewidth=0.8)
axis.set_xlabel(r"elasticity $d\log\,/\,d\log\theta$")
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# One per cent more pre-training data takes some 0.6 per cent off $E'$, one per cent more
# fine-tuning data 0.14, though it is the smaller number of labels by far: $N'\sim D$ and $N\sim
# D^2$. What improves the frozen layer ($E$) improves the adapted one.
#
# ## Two aims in conflict
#
# At the paper's figure 3 ($T=2$, $\Delta=0.5$, $\kappa_0=0.5$, $\kappa=1$, $\alpha=0.2$,
# $\alpha'=3$) the fine-tuning sequences are reused from the pre-training ($e=1$). The $\lambda$ of
# least $E'$ is then not that of the largest overlap $o_w$ with the teacher's update. Each is tuned
# alone, here at $\lambda'=0.2$ and $\lambda$ from 0.005 to 0.5.

# %%
figure_3 = {
    "tokens": 2,
    "kappa0": 0.5,
    "kappa": 1.0,
    "alpha": 0.2,
    "delta": 0.5,
    "alpha_ft": 3.0,
    "reuse": True,
}
reused = jaxlora.Task(**figure_3, lam=0.03, lam_ft=0.2)
ridges = {"lam": (0.005, 0.5)}
few = {"samples": 2**11, "replicates": 4}
aims = {
    name: jaxlora.tune(reused, ridges, name, starts=1, tol=1e-3, **few)
    for name in ("error_ft", "overlap")
}
for one, words in zip(aims.values(), ("least E'", "largest o_w"), strict=True):
    optimum, after = one.parameters["lam"], one.prediction.finetuning
    error = "(at the bound)" if optimum.at_bound else f"± {optimum.stderr:.4f}"
    print(f"{words:>11}: λ = {optimum.value:.4f} {error},", end=" ")
    print(f"E' = {after.test_error:.4f}, o_w = {after.overlap:.4f}, {one.evaluations} gradients")
    assert one.converged
curve = jaxlora.sweep(
    lam=np.geomspace(*ridges["lam"], 15), lam_ft=0.2, theory=Theory(**few), **figure_3
)

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.3))
for axis, name in zip(axes, ("test_error_ft", "overlap"), strict=True):
    plot_sweep(axis, curve, name, x="lam")
    for (other, one), colour in zip(aims.items(), (ORANGE, BLUE), strict=True):
        words = {"error_ft": "least $E'$", "overlap": "largest $o_w$"}[other]
        axis.axvline(one.parameters["lam"].value, color=colour, linestyle="--", label=words)
    axis.set_xlabel(r"pre-training ridge $\lambda$")
    axis.legend(fontsize=8, framealpha=1)
plt.show()

# %% [markdown]
# $o_w$ grows down to the least $\lambda$ allowed, so its optimum is at the bound, where there is no
# error bar; $E'$ has its minimum inside. Between the two lies the Pareto front: no other of these
# $\lambda$ is better in both. With more hyperparameters it cannot be read off a curve;
# `pareto_front` follows it by tuning weighted sums of both aims.

# %% [markdown]
# ## What to take away
#
# - Derivatives are exact on the draws of a prediction: differences of predictions come as near as
#   their own errors allow.
# - With them a handful of predictions find an optimum that a grid takes a hundred for, and that
#   comes with an error bar.
# - `sensitivities` tells what is worth changing: here data of the pre-training and the label noise,
#   at the best ridges.
# - What is best depends on what for. `pareto_front` shows what one aim costs in the other.
# - Derivatives leave out what `status.*.kinks` says: samples that change minima, above all. Over
#   finite changes of a parameter look at predictions, not at derivatives alone.
