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
# # A tour in five minutes
#
# How a pre-training and its LoRA fine-tuning are described, what a prediction holds and how far it
# can be trusted, curves with error bands, the best that any method could do, and a derivative.
#
# The model ([arXiv:2606.05899](https://arxiv.org/abs/2606.05899)) is a tied attention layer with
# weights $W\in\mathbb R^{D\times P}$ and a rank-one update $w\in\mathbb R^D$ that reads sequences
# $X\in\mathbb R^{T\times D}$ of Gaussian tokens,
#
# $$\hat y(X;W,w)=\sigma(A-\mathbb E_XA)\,X,\qquad
# A=\tfrac1DX\Big(\tfrac{WW^\top}{\sqrt P}+ww^\top\Big)X^\top. \tag{1}$$
#
# $\hat W$ is trained on $N=\alpha D^2$ labels of a teacher $W_\star$ with noise $\Delta$ and a
# ridge $\lambda$; then, with $\hat W$ frozen, $\hat w$ on $N'=\alpha'D$ labels of the teacher
# $(W_\star,w_\star)$ with a ridge $\lambda'$. As $D\to\infty$ each training is described by three
# numbers,
#
# $$Q=\tfrac{\mathrm{Tr}\,\hat S^2}{D^2},\quad M=\tfrac{\mathrm{Tr}\,\hat SS_\star}{D^2},\quad V;
# \qquad q=\tfrac{|\hat w|^2}D,\quad m=\tfrac{\hat w\cdot w_\star}D,\quad v,$$
#
# with $\hat S=\hat W\hat W^\top/\sqrt P$, and $V$, $v$ the inverse curvatures of the losses.
# jaxlora solves for them.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

import jaxlora
from jaxlora.sweeps import Theory
from jaxlora.sweeps.pictures import plot_sweep

jax.config.update("jax_enable_x64", True)
plt.rcParams |= {"figure.dpi": 90, "figure.constrained_layout.use": True}

# %% [markdown]
# ## One prediction
#
# A `Task` has the parameters, here those of the paper's figure 1: $T=3$ tokens, softmax, ranks
# $\kappa_0=P_0/D$ of the teacher and $\kappa=P/D$ of the student.

# %%
figure_1 = {"tokens": 3, "kappa0": 1.0, "kappa": 1.0, "alpha": 0.1, "delta": 0.5, "alpha_ft": 3.0}
task = jaxlora.Task(**figure_1, lam=0.05, lam_ft=0.2)
prediction = jaxlora.predict(task, samples=2**13)

# %% [markdown]
# ## What comes back
#
# Averages over the disorder are taken on frozen quasi-random draws. `prediction` holds means over
# 8 independent sets of them, `prediction.stderr` their standard errors.


# %%
def show(stage, **symbols):
    values, errors = getattr(prediction, stage), getattr(prediction.stderr, stage)
    for name, symbol in symbols.items():
        print(f"{symbol:>8} = {getattr(values, name):.4f} ± {getattr(errors, name):.4f}")


print("pre-training")
show("pretraining", Q="Q", M="M", V="V", test_error="E", effective_noise="Δ_eff", replicon="repl.")
print("fine-tuning")
show(
    "finetuning", q="q", m="m", v="v", test_error="E'", frozen_test_error="frozen", replicon="repl."
)
show("finetuning", overlap="o_w", forgetting="E''")

# %% [markdown]
# $E$ and $E'$ are the test errors of the two layers, "frozen" is $E'$ before fine-tuning,
# $o_w=m/\sqrt q$ the overlap of the update with the teacher's, $E''$ the adapted layer's error on
# the old task. Where the replicon is below 1, the equations describe the trained layer.
# `prediction.status` says so in a word, and how the solve ended.

# %%
for stage in ("pretraining", "finetuning"):
    status = getattr(prediction.status, stage)
    print(f"{stage}: {jaxlora.Result(int(status.result)).name.lower()},", end=" ")
    print(f"{jaxlora.Stability(int(status.stability)).name.lower()};", end=" ")
    print(f"undamped residual below 1e-10: {bool(status.residual < 1e-10)},", end=" ")
    print(f"samples that switch minima: {100 * float(status.switched_share):.2f} %")

# %% [markdown]
# A solve that fails raises `ConvergenceError`, or says so in the status with `throw=False`.
# Fine-tuning is solved from an informed and an uninformed start. Where they end apart, both are
# solutions; the one of lower energy $\alpha'E'_\mathrm{train}+\lambda'q$ is reported.

# %%
for branch in prediction.finetuning.branches:
    print(f"{branch.start:>18}: q = {branch.q:.4f}, m = {branch.m:.4f}, energy {branch.energy:.4f}")

# %% [markdown]
# ## A curve
#
# `sweep` solves many points in one call, each from its neighbour, and returns an
# [xarray](https://docs.xarray.dev) Dataset.

# %%
curves = jaxlora.sweep(
    lam=np.geomspace(0.003, 0.8, 25),
    lam_ft=[0.05, 0.2, 1.0],
    theory=Theory(samples=2**12, replicates=8),
    **figure_1,
)
curves[["test_error_ft", "test_error_ft_stderr"]].sel(lam_ft=0.2).to_dataframe().round(5).iloc[::6]

# %% [markdown]
# ## The best that any method could do
#
# From the same data, and knowing the model: $E'_\mathrm{BO}$ bounds the error of every estimator
# from below, $o_\mathrm{BO}$ its overlap from above.

# %%
benchmark = jaxlora.bayes_optimal(task, samples=2**11, replicates=4)
best, best_error = benchmark.values, benchmark.stderr
print(f"E_BO  = {best.pretraining_bayes_error:.4f} ± {best_error.pretraining_bayes_error:.4f}")
print(f"E'_BO = {best.finetuning_bayes_error:.4f} ± {best_error.finetuning_bayes_error:.4f}")
print(f"o_BO  = {best.overlap:.4f} ± {best_error.overlap:.4f}")
print(f"λ_c   = {prediction.pretraining.critical_lam:.4f}")

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.4))
for axis, name, bound in zip(
    axes, ("test_error_ft", "overlap"), (best.finetuning_bayes_error, best.overlap), strict=True
):
    plot_sweep(axis, curves, name, x="lam", by="lam_ft")
    axis.axhline(float(bound), color="black", linestyle="--", label="Bayes-optimal")
    axis.axvline(float(prediction.pretraining.critical_lam), color="C7", label=r"$\lambda_c$")
    axis.set_xlabel(r"pre-training ridge $\lambda$")
axes[0].set_ylim(0, 1.25)
axes[0].legend(frameon=False, fontsize=8, loc="upper left")
plt.show()

# %% [markdown]
# Bands are two standard errors; those of $E'$ are as narrow as the lines. A finite $\lambda$ is
# best, of some 0.01; from $\lambda_c$ on the pre-trained weights vanish, and only
# fine-tuning is left. Fine-tuning improves on the frozen layer at every $\lambda$, and $\lambda'$
# matters less. What is missing to the Bayes-optimal $E'$ is mostly the pre-training's: the update
# has nearly the overlap that it could have, while $E$ above is far from $E_\mathrm{BO}$.

# %% [markdown]
# ## A derivative
#
# Every number has exact derivatives by every real parameter: those of the fixed point, by the
# implicit function theorem, and not of the iterations that lead to it.


# %%
def error_ft(lam, lam_ft):
    task = jaxlora.Task(**figure_1, lam=lam, lam_ft=lam_ft)
    return jaxlora.predict(task, samples=2**13).finetuning.test_error


slopes = [float(x) for x in jax.grad(error_ft, argnums=(0, 1))(0.05, 0.2)]
step = 1e-4
differences = [
    float(error_ft(0.05 + step, 0.2) - error_ft(0.05 - step, 0.2)) / (2 * step),
    float(error_ft(0.05, 0.2 + step) - error_ft(0.05, 0.2 - step)) / (2 * step),
]
for name, slope, difference in zip(("λ", "λ'"), slopes, differences, strict=True):
    print(f"dE'/d{name:<2} = {slope:+.5f}, by central differences {difference:+.5f}")
np.testing.assert_allclose(slopes, differences, rtol=1e-4)

# %% [markdown]
# ## What to take away
#
# - `predict(task)` gives both stages, each number with a standard error, and a status that says
#   whether it can be trusted. Read the status: a replicon above 1 or many samples that switch
#   minima mean that the trained layer is not what the equations describe.
# - `sweep` is how to draw curves; `bayes_optimal` is what to compare them with.
# - Everything is differentiable, which [tuning](tuning.ipynb) uses. That the numbers are those of
#   real layers is checked in [experiment](experiment.ipynb).
