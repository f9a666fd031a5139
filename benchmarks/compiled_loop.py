"""The machine's limit for `proximal.py`: Newton's method in a compiled loop over the samples."""

import numba
import numpy as np

STEPS = 100


@numba.njit(fastmath=True)
def _softmax_rows(a, y, p):
    """p = σ(a) by rows, and |p − y|²."""
    tokens, loss = len(a), 0.0
    for i in range(tokens):
        top, norm = a[i, 0], 0.0
        for j in range(1, tokens):
            top = max(top, a[i, j])
        for j in range(tokens):
            p[i, j] = np.exp(a[i, j] - top)
            norm += p[i, j]
        for j in range(tokens):
            p[i, j] /= norm
            loss += (p[i, j] - y[i, j]) ** 2
    return loss


@numba.njit(fastmath=True)
def _field(stage, x, offset, a):
    """The pre-activation: h of its packed entries over √s, or z − q I + χχᵀ."""
    tokens = len(a)
    if stage == 0:
        k = 0
        for i in range(tokens):
            a[i, i] = np.sqrt(2.0) * x[k]
            k += 1
            for j in range(i + 1, tokens):
                a[i, j] = a[j, i] = x[k]
                k += 1
    else:
        for i in range(tokens):
            for j in range(tokens):
                a[i, j] = offset[i, j] + x[i] * x[j]


@numba.njit(fastmath=True)
def _derivatives(stage, x, scale, centre, p, y, place, gradient, hessian, row):
    """Gradient and Hessian of the objective, row by row of the softmax."""
    tokens, size = len(p), len(x)
    for k in range(size):
        gradient[k] = x[k] - centre[k]
        for m in range(size):
            hessian[k, m] = 1.0 if k == m else 0.0
    for r in range(tokens):
        along, square = 0.0, 0.0
        for j in range(tokens):
            along += p[r, j] * (p[r, j] - y[r, j])
            square += p[r, j] * p[r, j]
        for i in range(tokens):
            g = 2 * scale * p[r, i] * (p[r, i] - y[r, i] - along)
            u = p[r, i] * (2 * p[r, i] - y[r, i] - along)
            if stage == 0:
                gradient[place[r, i]] += g * (np.sqrt(2.0) if r == i else 1.0)
            else:
                gradient[r] += g * x[i]
                gradient[i] += g * x[r]
                hessian[r, i] += g
                hessian[i, r] += g
            for j in range(tokens):
                v = p[r, j] * (2 * p[r, j] - y[r, j] - along)
                row[i, j] = 2 * scale * (square * p[r, i] * p[r, j] - p[r, i] * v - u * p[r, j])
            row[i, i] += 2 * scale * u
        for i in range(tokens):
            for j in range(tokens):
                if stage == 0:
                    factor = (np.sqrt(2.0) if r == i else 1.0) * (np.sqrt(2.0) if r == j else 1.0)
                    hessian[place[r, i], place[r, j]] += factor * row[i, j]
                else:
                    hessian[r, r] += x[i] * x[j] * row[i, j]
                    hessian[r, i] += x[r] * x[j] * row[i, j]
                    hessian[i, r] += x[r] * x[j] * row[i, j]
                    hessian[i, j] += x[r] * x[r] * row[i, j]


@numba.njit(fastmath=True)
def _cholesky_step(hessian, gradient, shift, factor, step):
    """step = (H + shift)⁻¹ g; False where that is not positive definite."""
    size = len(gradient)
    for k in range(size):
        for m in range(k + 1):
            total = hessian[k, m] + (shift if k == m else 0.0)
            for l in range(m):
                total -= factor[k, l] * factor[m, l]
            if k == m:
                if total <= 0:
                    return False
                factor[k, k] = np.sqrt(total)
            else:
                factor[k, m] = total / factor[m, m]
    for k in range(size):
        total = gradient[k]
        for l in range(k):
            total -= factor[k, l] * step[l]
        step[k] = total / factor[k, k]
    for k in range(size - 1, -1, -1):
        total = step[k]
        for l in range(k + 1, size):
            total -= factor[l, k] * step[l]
        step[k] = total / factor[k, k]
    return True


@numba.njit(fastmath=True, parallel=True)
def minimise(stage, init, scale, centre, offset, target, place, tol):
    """Minimisers (samples, n) of pre-training (stage 0) or fine-tuning (1)."""
    samples, size = init.shape
    tokens = target.shape[1]
    found = init.copy()
    for sample in numba.prange(samples):
        a, p, new_p = np.empty((3, tokens, tokens))
        row = np.empty((tokens, tokens))
        hessian, factor = np.empty((2, size, size))
        gradient, step, new = np.empty((3, size))
        x, c, y, z = found[sample], centre[sample], target[sample], offset[sample]
        _field(stage, x, z, a)
        value = scale * _softmax_rows(a, y, p) + 0.5 * np.sum((x - c) ** 2)
        shift = 0.0
        _derivatives(stage, x, scale, c, p, y, place, gradient, hessian, row)
        for _ in range(STEPS):
            if np.max(np.abs(gradient)) <= tol:
                break
            accept = _cholesky_step(hessian, gradient, shift, factor, step)
            if accept:
                for k in range(size):
                    new[k] = x[k] - step[k]
                _field(stage, new, z, a)
                new_value = scale * _softmax_rows(a, y, new_p) + 0.5 * np.sum((new - c) ** 2)
                accept = new_value <= value + 2e-15 * (1 + abs(value))
            if accept:
                x[:] = new
                p[:] = new_p
                value = new_value
                shift = 0.0 if shift < 0.1 else shift / 8
                _derivatives(stage, x, scale, c, p, y, place, gradient, hessian, row)
            else:
                shift = 4 * shift + 0.5
    return found
