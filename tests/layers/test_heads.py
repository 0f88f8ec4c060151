"""The heads against NumPy and against transformers, tied and not."""

import keras
import numpy as np
import pytest
from keras import ops

from kerasnets.layers import CausalLMHead, Embedding, MaskedLMHead

BATCH, LENGTH, WIDTH, VOCABULARY = 2, 5, 8, 11


def plain(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


@pytest.fixture
def hidden(random):
    return random.normal(size=(BATCH, LENGTH, WIDTH)).astype("float32")


@pytest.fixture
def table(random):
    return random.normal(size=(VOCABULARY, WIDTH)).astype("float32")


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_causal_head(tied, use_bias, hidden, table):
    head = CausalLMHead(VOCABULARY, tied=tied, use_bias=use_bias, bias_initializer="random_normal")
    logits = plain(head(hidden, table) if tied else head(hidden))
    weights = head.get_weights()
    assert [w.shape for w in weights] == [(WIDTH, VOCABULARY)] * (not tied) + [(VOCABULARY,)] * use_bias
    kernel = table.T if tied else weights[0]
    expected = hidden @ kernel + (weights[-1] if use_bias else 0)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    assert head.compute_output_shape((None, 3, WIDTH)) == (None, 3, VOCABULARY)


def filled(head, *inputs):
    """The head with weights far from where they begin."""
    head(*inputs)
    random = np.random.default_rng(2)
    head.set_weights([w + random.normal(0, 0.5, w.shape) for w in head.get_weights()])
    return head


@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("tied", [False, True])
def test_masked_head_is_that_of_transformers(tied, activation, hidden, table):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    inputs = [hidden, table] if tied else [hidden]
    head = filled(MaskedLMHead(VOCABULARY, tied=tied, activation=activation, epsilon=1e-12), *inputs)
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, hidden_act=activation, num_attention_heads=2, layer_norm_eps=1e-12
    )
    theirs = transformers.models.bert.modeling_bert.BertLMPredictionHead(config).eval()
    kernel, bias, gamma, beta = (
        plain(w) for w in (head.dense.kernel, head.dense.bias, head.norm.gamma, head.norm.beta)
    )
    with torch.no_grad():
        theirs.transform.dense.weight.copy_(torch.tensor(kernel.T.copy()))
        theirs.transform.dense.bias.copy_(torch.tensor(bias))
        theirs.transform.LayerNorm.weight.copy_(torch.tensor(gamma))
        theirs.transform.LayerNorm.bias.copy_(torch.tensor(beta))
        theirs.decoder.weight.copy_(torch.tensor(table if tied else plain(head.kernel).T.copy()))
        theirs.decoder.bias.copy_(torch.tensor(plain(head.bias)))
        expected = theirs(torch.tensor(hidden)).numpy()
    logits = plain(head(*inputs))
    assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()


def test_masked_head_weights(hidden, table):
    free, tied = MaskedLMHead(VOCABULARY), MaskedLMHead(VOCABULARY, tied=True, use_bias=False)
    free(hidden), tied(hidden, table)
    inner = [(WIDTH, WIDTH), (WIDTH,), (WIDTH,), (WIDTH,)]
    assert sorted(tuple(w.shape) for w in free.weights) == sorted([*inner, (WIDTH, VOCABULARY), (VOCABULARY,)])
    assert sorted(tuple(w.shape) for w in tied.weights) == sorted(inner)


@pytest.mark.parametrize("tied", [False, True])
def test_masked_head_looks_at_the_places_it_is_given(tied, hidden, table):
    inputs = [hidden, table] if tied else [hidden]
    head = filled(MaskedLMHead(VOCABULARY, tied=tied), *inputs)
    places = np.array([[1, 4, 0], [2, 2, 3]], "int32")
    everywhere = plain(head(*inputs))
    there = plain(head(*inputs, mask_positions=places))
    assert there.shape == (BATCH, 3, VOCABULARY)
    for row in range(BATCH):
        np.testing.assert_allclose(there[row], everywhere[row, places[row]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_masked_head_in_a_model_and_its_file(tied, tmp_path):
    ids, places = keras.Input((LENGTH,), dtype="int32"), keras.Input((3,), dtype="int32")
    table = Embedding(VOCABULARY, WIDTH, embeddings_initializer="random_normal")
    x = table(ids)
    head = MaskedLMHead(VOCABULARY, tied=tied)

    class Tied(keras.Model):
        def __init__(self):
            super().__init__()
            self.table, self.head = table, head

        def call(self, inputs):
            return self.head(self.table(inputs[0]), self.table.embeddings, mask_positions=inputs[1])

    model = Tied() if tied else keras.Model([ids, places], head(x, mask_positions=places))
    data = [np.array([[1, 2, 3, 4, 5], [5, 4, 3, 2, 10]], "int32"), np.array([[0, 1, 4], [2, 3, 1]], "int32")]
    assert tuple(model(data).shape) == (BATCH, 3, VOCABULARY)
    if not tied:
        assert model.output.shape == (None, 3, VOCABULARY)
    model.compile(keras.optimizers.Adam(0.02), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    answers = np.array([[1, 2, 5], [3, 2, 4]])
    losses = model.fit(data, answers, epochs=8, batch_size=2, verbose=0).history["loss"]
    assert losses[-1] < losses[0] - 0.1
    if not tied:
        model.save(tmp_path / "model.keras")
        again = keras.models.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(plain(again(data)), plain(model(data)))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision(policy, hidden, table):
    head = MaskedLMHead(VOCABULARY, tied=True, dtype=policy)
    logits = head(hidden, table)
    assert keras.backend.standardize_dtype(logits.dtype) == policy.removeprefix("mixed_")
    assert np.isfinite(plain(logits)).all()


@pytest.mark.parametrize("cls", [CausalLMHead, MaskedLMHead])
def test_refuses_to_be_tied_to_nothing(cls, hidden):
    with pytest.raises(ValueError, match="is tied to an embedding"):
        cls(VOCABULARY, tied=True)(hidden)


@pytest.mark.parametrize("cls", [CausalLMHead, MaskedLMHead])
def test_refuses_a_vocabulary_that_is_no_size(cls):
    with pytest.raises(ValueError, match="`vocab_size` must be a positive integer. Received: vocab_size=0"):
        cls(0)
