"""Where the pre-activations of teacher and frozen layer on new sequences come from."""

import abc

import equinox as eqx
import jax

from ..laws import correlated
from .attention import Attention
from .draws import draw_field


class Layers(eqx.Module):
    """The teacher's and the frozen student's layer."""

    @abc.abstractmethod
    def fields(self, inputs: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """A* − E A* and β(A − E A) (T, T, n) on sequences (n, T, D); `key` for what is random."""


class TrainedLayers(Layers):
    """Real layers, the student's with Ŵ √β for W."""

    teacher: Attention
    student: Attention

    def fields(self, inputs, key):
        return self.teacher.frozen_field(inputs), self.student.frozen_field(inputs)


class GaussianLayers(Layers):
    """An effective pre-training (Q0, Q, M), whose fields are Gaussian and do not depend on X."""

    Q0: jax.Array
    Q: jax.Array
    M: jax.Array
    beta: jax.Array

    def fields(self, inputs, key):
        count, tokens, _ = inputs.shape
        return self.draw(key, count, tokens, inputs.dtype)

    def draw(self, key: jax.Array, count: int, tokens: int, dtype) -> tuple[jax.Array, jax.Array]:
        """`fields` for `count` sequences that need not be drawn."""
        keys = jax.random.split(key)
        first, second = (draw_field(k, count, tokens, dtype) for k in keys)
        teacher, student = correlated(self.Q0, self.M, self.Q, first, second)
        return teacher, self.beta * student
