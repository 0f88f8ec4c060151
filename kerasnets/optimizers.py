"""Optimizers 优化器: Keras's own, number for number, in fewer passes over the memory.

A step of Adam reads a weight, its gradient and its two moments, and writes three of them. On PyTorch Keras computes it
as ten passes over all arrays, with new memory for each, which took two fifths of a training step of T5-small; here
torch's fused kernel makes one of them, and TensorFlow's own kernel on TensorFlow. On JAX the steps are Keras's own, and
wait until every weight has been read, so that none has to be copied before its step is written.

Two numbers differ on TensorFlow: Keras squares the gradients of a token that stands in a batch twice one by one, not
their sum, as it does on the other backends, and as it is done here; and v is that of a β₂ in float32, 1.3e-5 of itself
smaller where β₂ is 0.999, which the step makes good.
"""

import keras
from keras import ops

from kerasnets import backend
from kerasnets.layers.layer import public


class OnePass:
    """m ← β₁ m + (1 − β₁) g, v ← β₂ v + (1 − β₂) g², w ← w − α m / (√v + ε), α = η √(1 − β₂ᵗ) / (1 − β₁ᵗ).

    With `amsgrad` the largest v so far takes its place in the last of them.
    """

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        slots = [self._momentums, self._velocities, *([self._velocity_hats] if self.amsgrad else [])]
        places = [self._get_variable_index(variable) for variable in trainable_variables]
        states = [[slot[place] for place in places] for slot in slots]
        t = ops.cast(self.iterations + 1, "float32")
        alpha = ops.cast(learning_rate, "float32") * ops.sqrt(1 - self.beta_2**t) / (1 - self.beta_1**t)
        settings = {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}
        grads = [backend.all_rows(gradient) for gradient in grads]
        if not backend.adam(trainable_variables, grads, states, alpha, settings):
            learning_rate = backend.after_way_back(learning_rate, grads)
            super()._backend_update_step(grads, trainable_variables, learning_rate)


@public
class Adam(OnePass, keras.optimizers.Adam):
    """`keras.optimizers.Adam` with its arguments and its numbers, in one pass.

    Kingma & Ba 2014, arXiv:1412.6980; amsgrad: Reddi et al. 2018, arXiv:1904.09237.
    """


@public
class AdamW(OnePass, keras.optimizers.AdamW):
    """`keras.optimizers.AdamW` with its arguments and its numbers, in one pass.

    Loshchilov & Hutter 2017, arXiv:1711.05101: w ← w − η λ w beside the step, not through g.
    """
