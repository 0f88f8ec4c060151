"""Positions: each against NumPy by its definition, and against transformers where it has them."""

import keras
import numpy as np
import pytest
from keras import ops

from kerasnets import layers
from kerasnets.layers import position
from kerasnets.layers.frequencies import attention_factor, inverse_frequencies

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 8192}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}
SCALINGS = {
    "none": None,
    "linear": {"rope_type": "linear", "factor": 3.0},
    "llama3": LLAMA3,
    "yarn": YARN,
    "yarn, short": {**YARN, "original_max_position_embeddings": 64},
    "yarn, betas": {**YARN, "beta_fast": 20.0, "beta_slow": 2.0, "truncate": False},
    "yarn, factor": {**YARN, "attention_factor": 1.7},
    "yarn, mscale": {**YARN, "mscale": 1.3, "mscale_all_dim": 0.7},
}
FAR = np.array([[0, 1, 2, 77, 5000, 131071]], "int32")


def plain(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def reference_rotary(size, theta, scaling):
    """transformers' own, of a LLaMA with such heads."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    parameters = {**(scaling or {"rope_type": "default"}), "rope_theta": theta}
    config = LlamaConfig(head_dim=size, hidden_size=2 * size, num_attention_heads=2, rope_parameters=parameters)
    return LlamaRotaryEmbedding(config)


@pytest.mark.parametrize("theta", [10000.0, 500000.0])
@pytest.mark.parametrize("size", [8, 64, 128])
@pytest.mark.parametrize("name", SCALINGS)
def test_frequencies_of_transformers(name, size, theta):
    """To a few units in the last place, since at position 100,000 each of them turns by 0.01."""
    scaling = SCALINGS[name]
    reference = reference_rotary(size, theta, scaling)
    ours = inverse_frequencies(size, theta, scaling)
    assert ours.dtype == "float32"
    np.testing.assert_array_max_ulp(ours, reference.inv_freq.numpy(), 4)
    assert attention_factor(scaling) == pytest.approx(reference.attention_scaling, rel=1e-12)


@pytest.mark.parametrize("name", SCALINGS)
def test_cos_and_sin_of_transformers(name):
    torch = pytest.importorskip("torch")
    reference = reference_rotary(64, 10000.0, SCALINGS[name])
    expected = reference(torch.zeros(1), torch.tensor(FAR))
    found = layers.RotaryEmbedding(64, 10000.0, SCALINGS[name]).cos_sin(FAR)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == (1, 6, 32)
        near, far = slice(0, 4), slice(4, None)  # there, a last place of f is 1e-4 of an angle
        np.testing.assert_allclose(plain(ours)[:, near], theirs.numpy()[:, near, :32], rtol=0, atol=1e-5)
        np.testing.assert_allclose(plain(ours)[:, far], theirs.numpy()[:, far, :32], rtol=0, atol=2e-4)


def test_frequencies_by_hand():
    f = 10000.0 ** (-np.arange(0, 64, 2) / 64)
    np.testing.assert_allclose(inverse_frequencies(64), f, rtol=1e-6)
    slow = inverse_frequencies(64, 500000.0, LLAMA3)
    plainly = inverse_frequencies(64, 500000.0)
    waves = 2 * np.pi / plainly
    assert np.array_equal(slow[waves < 2048], plainly[waves < 2048])
    np.testing.assert_allclose(slow[waves > 8192], plainly[waves > 8192] / 8, rtol=1e-6)
    between = (waves > 2048) & (waves < 8192)
    assert between.any() and (slow[between] < plainly[between]).all() and (slow[between] > plainly[between] / 8).all()


BAD = {
    "dynamic": ({"rope_type": "dynamic", "factor": 2.0}, "'dynamic' is not known here"),
    "longrope": ({"rope_type": "longrope"}, "'longrope' is not known here"),
    "nothing": ({}, "None is not known here"),
    "missing": ({"rope_type": "yarn", "factor": 2.0}, "original_max_position_embeddings"),
    "unknown": ({"rope_type": "linear", "factor": 2.0, "beta_fast": 3.0}, "beta_fast"),
    "zero": ({"rope_type": "linear", "factor": 0.0}, "positive finite"),
    "infinite": ({**YARN, "beta_fast": float("inf")}, "positive finite"),
    "text": ({**YARN, "factor": "4"}, "positive finite"),
    "crossed": ({**LLAMA3, "low_freq_factor": 4.0}, "less than high_freq_factor"),
}


@pytest.mark.parametrize("name", BAD)
def test_scaling_refused(name):
    scaling, message = BAD[name]
    for make in (inverse_frequencies, layers.RotaryEmbedding):
        with pytest.raises(ValueError, match=message):
            make(8, 10000.0, scaling)


def test_sizes_refused():
    for size, theta in ((7, 10000.0), (8, -1.0), (8, 1.0), (8, float("nan"))):
        with pytest.raises(ValueError, match="pairs of channels"):
            inverse_frequencies(size, theta)
    with pytest.raises(ValueError, match="two channels"):
        layers.sinusoidal(np.arange(3), 7)


def turned_by_hand(x, positions, f, pairs):
    """One pair of channels at a time, as a complex number."""
    y = x.astype("complex128").copy()
    for (a, b), frequency in zip(pairs, f, strict=True):
        turn = np.exp(1j * positions * frequency)[:, :, None]
        turned = (x[..., a] + 1j * x[..., b]) * turn
        y[..., a], y[..., b] = turned.real, turned.imag
    return y.real


@pytest.mark.parametrize("size", [8, 6])
@pytest.mark.parametrize("interleaved", [False, True])
def test_rotation_by_hand(random, interleaved, size):
    """The first `size` of 8 channels turn, each pair by its own angle; the others stay."""
    x = random.normal(size=(2, 5, 3, 8)).astype("float32")
    positions = np.array([[0, 1, 2, 3, 4], [7, 9, 100, 0, 3]], "int32")
    layer = layers.RotaryEmbedding(size, interleaved=interleaved)
    half = size // 2
    pairs = [(2 * i, 2 * i + 1) if interleaved else (i, i + half) for i in range(half)]
    expected = turned_by_hand(x, positions, inverse_frequencies(size).astype("float64"), pairs)
    np.testing.assert_allclose(plain(layer(x, positions)), expected, atol=1e-5)
    assert np.array_equal(plain(layer(x, positions))[..., size:], x[..., size:])
    plainly = np.broadcast_to(np.arange(5), (2, 5))
    np.testing.assert_allclose(plain(layer(x)), plain(layer(x, plainly)), atol=1e-6)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotation_of_transformers(random, interleaved):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from transformers.models.glm.modeling_glm import apply_rotary_pos_emb as of_glm
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as of_llama

    x = random.normal(size=(2, 5, 3, 8)).astype("float32")
    size = 4 if interleaved else 8  # GLM turns half of the channels
    cos, sin = layers.RotaryEmbedding(size).cos_sin(np.arange(5)[None])
    twice = [torch.tensor(np.concatenate([plain(wave)] * 2, axis=-1)) for wave in (cos, sin)]
    heads_first = torch.tensor(x).transpose(1, 2)
    expected, _ = (of_glm if interleaved else of_llama)(heads_first, heads_first, *twice)
    found = layers.rotate(ops.convert_to_tensor(x), cos, sin, interleaved=interleaved)
    np.testing.assert_allclose(plain(found), expected.transpose(1, 2).numpy(), atol=1e-6)


def test_products_of_turned_vectors_know_only_the_distance(random):
    q, k = random.normal(size=(2, 1, 6, 1, 16)).astype("float32")
    layer = layers.RotaryEmbedding(16)
    positions = np.array([[0, 3, 4, 10, 20, 21]])

    def products(shift):
        turned = [plain(layer(x, positions + shift)) for x in (q, k)]
        return np.einsum("btnh,bsnh->bnts", *turned)

    np.testing.assert_allclose(products(0), products(50), atol=1e-4)
    assert np.abs(products(0) - np.einsum("btnh,bsnh->bnts", q, k)).max() > 0.1


def test_rotation_in_half_precision():
    """The angles are taken in float32: bfloat16 would take position 1001 for 1000."""
    x = ops.ones((1, 1, 1, 8), dtype="bfloat16")
    layer = layers.RotaryEmbedding(8, dtype="bfloat16")
    found = layer(x, np.array([[1001]], "int32"))
    assert keras.backend.standardize_dtype(found.dtype) == "bfloat16"
    exact = plain(layers.RotaryEmbedding(8)(np.ones((1, 1, 1, 8), "float32"), np.array([[1001]], "int32")))
    np.testing.assert_allclose(plain(found), exact, atol=0.02)


def test_sinusoids_by_hand():
    t, i = np.arange(50)[:, None], np.arange(8)[None]
    angles = t / 10000 ** (2 * i / 16)
    found = plain(layers.sinusoidal(np.arange(50), 16))
    np.testing.assert_allclose(found[:, 0::2], np.sin(angles), atol=1e-5)
    np.testing.assert_allclose(found[:, 1::2], np.cos(angles), atol=1e-5)
    assert layers.sinusoidal(np.zeros((2, 3)), 16).shape == (2, 3, 16)


def test_sinusoids_of_whisper():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from transformers.models.whisper.modeling_whisper import sinusoids

    found = layers.sinusoidal(np.arange(100), 16, interleaved=False, steps=7)
    np.testing.assert_allclose(plain(found), sinusoids(100, 16).numpy(), atol=1e-5)


def test_learned_positions(random):
    layer = layers.PositionEmbedding(6)
    x = random.normal(size=(2, 4, 3)).astype("float32")
    y = plain(layer(x))
    table = plain(layer.embeddings)
    assert table.shape == (6, 3) and table.any()
    assert np.array_equal(y, np.broadcast_to(table[:4], (2, 4, 3)))
    positions = np.array([[5, 0, 1, 2], [1, 1, 0, 4]], "int32")
    assert np.array_equal(plain(layer(x, positions)), table[positions])
    with pytest.raises(ValueError, match="6 positions"):
        layer(np.zeros((1, 7, 3), "float32"))
    with pytest.raises(ValueError, match=r"\[0, 6\)"):
        layer(x, positions + 1)


@pytest.mark.parametrize("num_heads", [1, 4, 6, 8, 12, 40])
def test_alibi_of_transformers(num_heads):
    """Its bias m j and ours −m |i − j| are the same to a softmax over j ≤ i."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    expected = build_alibi_tensor(torch.ones(1, 7), num_heads, torch.float32).numpy()  # (N, 1, S)
    np.testing.assert_allclose(position.alibi_slopes(num_heads), expected[:, 0, 1], rtol=1e-6)
    found = plain(layers.alibi_bias(num_heads, 7))
    assert found.shape == (1, num_heads, 7, 7)
    for i in range(7):
        difference = found[0, :, i, : i + 1] - expected[:, 0, : i + 1]
        np.testing.assert_allclose(difference, difference[:, :1].repeat(i + 1, axis=1), atol=1e-6)


def test_alibi_by_hand():
    np.testing.assert_allclose(position.alibi_slopes(8), 2.0 ** -np.arange(1, 9))
    of_40 = position.alibi_slopes(40)
    np.testing.assert_allclose(of_40[:32], 2 ** (-np.arange(1, 33) / 4), rtol=1e-6)
    np.testing.assert_allclose(of_40[32:], 2 ** (-np.arange(1, 17, 2) / 8), rtol=1e-6)
    whole = plain(layers.alibi_bias(4, 6))
    assert np.array_equal(whole[0, 1, 5], -np.arange(5, -1, -1) / 16)
    assert np.array_equal(plain(layers.alibi_bias(4, 2, 6, first=4)), whole[:, :, 4:])


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("num_buckets, max_distance", [(32, 128), (8, 20)])
def test_buckets_of_transformers(bidirectional, num_buckets, max_distance):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = np.arange(-2048, 2049, dtype="int32")
    settings = dict(bidirectional=bidirectional, num_buckets=num_buckets, max_distance=max_distance)
    expected = T5Attention._relative_position_bucket(torch.tensor(distance), **settings).numpy()
    found = position.relative_buckets(ops.convert_to_tensor(distance), **settings)
    assert np.array_equal(ops.convert_to_numpy(found), expected)
    assert set(expected) == set(range(num_buckets)) - ({num_buckets // 2} if bidirectional else set())


def test_relative_bias_by_hand():
    layer = layers.RelativePositionBias(2, num_buckets=4, max_distance=8, bidirectional=False)
    where = np.array([[0, 1, 2, 9]], "int32")
    bias = plain(layer(where))
    table = plain(layer.embeddings)
    assert table.shape == (4, 2) and bias.shape == (1, 2, 4, 4)
    # distance i − j: 0 and 1 have buckets of their own, 2 and 3 share one, all from 4 on the last
    buckets = [[0, 0, 0, 0], [1, 0, 0, 0], [2, 1, 0, 0], [3, 3, 3, 0]]
    np.testing.assert_array_equal(bias[0], table[np.array(buckets)].transpose(2, 0, 1))
    assert np.array_equal(plain(layer(where[:, 3:], where)), bias[:, :, 3:])


def test_relative_bias_learns():
    """Only the buckets that were used change."""
    layer = layers.RelativePositionBias(1, num_buckets=32)
    model = keras.Sequential([keras.Input((4,), dtype="int32"), layer, keras.layers.Flatten(), keras.layers.Dense(1)])
    before = plain(layer.embeddings).copy()
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(np.arange(4)[None], np.ones((1, 1)), verbose=0)
    changed = (plain(layer.embeddings) != before)[:, 0]
    assert np.array_equal(np.flatnonzero(changed), [0, 1, 2, 3, 17, 18, 19])
