"""MultiHeadAttention and GroupQueryAttention against Keras's, with its weights, and what Keras's can't do."""

import keras
import numpy as np
import pytest
from keras import ops

from kerasnets import layers
from kerasnets.layers.multi_head_attention import GroupedQueryAttention

BATCH, QUERIES, KEYS, WIDTH = 2, 5, 4, 8
PADDING = {
    "query": [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]],
    "value": [[1, 1, 1, 0], [0, 0, 0, 0]],
    "key": [[0, 1, 1, 1]] * 2,
}
RANDOM_BIASES = {"bias_initializer": "random_normal"}

MULTI_HEAD = [
    {"num_heads": 2, "key_dim": 3},
    {"num_heads": 3, "key_dim": 4, "use_bias": False, "dropout": 0.3},
    {"num_heads": 2, "key_dim": 3, "use_gate": True, "output_shape": (3, 2)},
    {"num_heads": 2, "key_dim": 3, "sliding_window": 2, "output_shape": 7},
]
GROUPED = [
    {"head_dim": 3, "num_query_heads": 4, "num_key_value_heads": 2},
    {"head_dim": 3, "num_query_heads": 4, "num_key_value_heads": 1, "use_bias": False, "dropout": 0.3},
    {"head_dim": 4, "num_query_heads": 2, "num_key_value_heads": 2, "use_gate": True, "sliding_window": 2},
]
CASES = [("MultiHeadAttention", case) for case in MULTI_HEAD] + [("GroupQueryAttention", case) for case in GROUPED]


def plain(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def inputs(random, width=WIDTH, **more):
    query = random.normal(size=(BATCH, QUERIES, width)).astype("float32")
    return {"query": query, "value": random.normal(size=(BATCH, KEYS, width)).astype("float32"), **more}


def pair(name, arguments, shapes):
    """Ours with the weights of Keras's, and Keras's."""
    theirs, ours = (getattr(library, name)(**{**RANDOM_BIASES, **arguments}) for library in (keras.layers, layers))
    for layer in (theirs, ours):
        layer.build(*shapes)
    assert [w.shape for w in ours.weights] == [w.shape for w in theirs.weights]
    assert [w.path.split("/")[1:] for w in ours.weights] == [w.path.split("/")[1:] for w in theirs.weights]
    ours.set_weights(theirs.get_weights())
    return ours, theirs


def assert_close(ours, theirs, tolerance=1e-5):
    ours, theirs = (plain(y) for y in (ours, theirs))
    assert ours.shape == theirs.shape and np.isfinite(ours).all()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


def masked(x, mask):
    """x with Keras's padding mask on it."""
    x = ops.convert_to_tensor(x)
    keras.src.backend.set_keras_mask(x, ops.convert_to_tensor(np.array(mask, bool)))
    return x


MASKS = [(mask, causal) for mask in ("none", "of places", "of padding", "all") for causal in (False, True)]


@pytest.mark.parametrize("mask, causal", [*MASKS, ("of places and heads", False)])  # Keras can't merge it with others
@pytest.mark.parametrize("name, arguments", CASES)
def test_same_as_keras(name, arguments, mask, causal, random):
    call = {"use_causal_mask": causal}
    x = inputs(random, key=random.normal(size=(BATCH, KEYS, 6)).astype("float32"))
    if mask in ("of places", "all"):
        call["attention_mask"] = random.random((BATCH, QUERIES, KEYS)) < 0.6
    if mask == "of places and heads":
        arguments = {**arguments, "sliding_window": None}
        call["attention_mask"] = random.random((BATCH, 1, QUERIES, KEYS)) < 0.6
    if mask in ("of padding", "all"):
        x = {key: masked(value, PADDING[key]) for key, value in x.items()}
    ours, theirs = pair(name, arguments, (x["query"].shape, x["value"].shape, x["key"].shape))
    assert_close(ours(**x, **call), theirs(**x, **call))
    if mask in ("of padding", "all"):  # a layer of Keras's takes them off
        x = {key: masked(value, PADDING[key]) for key, value in x.items()}
    y, A = ours(**x, **call, return_attention_scores=True)
    expected, wanted = theirs(**x, **call, return_attention_scores=True)
    assert_close(y, expected)
    assert_close(A, wanted)


# One axis of three is not here, since Keras's softmax refuses it on TensorFlow; the test after this one has it.
@pytest.mark.parametrize("places, axes", [((3, 4), axes) for axes in (None, 1, -2, (1, 2))] + [((3, 4, 5), (1, 3))])
def test_attended_axes_same_as_keras(places, axes, random):
    rank = len(places) + 2
    attended = list(range(1, rank - 1)) if axes is None else [axis % rank for axis in np.atleast_1d(axes)]
    query = random.normal(size=(2, *places, WIDTH)).astype("float32")
    lengths = [2 if axis in attended else query.shape[axis] for axis in range(1, rank - 1)]  # keys of another number
    value = random.normal(size=(2, *lengths, WIDTH)).astype("float32")
    arguments = {"num_heads": 2, "key_dim": 3, "attention_axes": axes, "use_gate": True}
    ours, theirs = pair("MultiHeadAttention", arguments, (query.shape, value.shape))
    pairs = [query.shape[axis] for axis in attended] + [2] * len(attended)
    alone = [1] * (len(places) - len(attended))
    for mask in (None, random.random(pairs) < 0.7, random.random((2, *alone, *pairs)) < 0.7):
        assert_close(ours(query, value, attention_mask=mask), theirs(query, value, attention_mask=mask))
        both = [x(query, value, attention_mask=mask, return_attention_scores=True) for x in (ours, theirs)]
        for y, expected in zip(*both, strict=True):
            assert_close(y, expected)


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_one_axis_of_several_is_attention_in_a_larger_batch(axis, random):
    x = random.normal(size=(2, 3, 4, 5, WIDTH)).astype("float32")
    layer, flat = (layers.MultiHeadAttention(2, 3, attention_axes=places) for places in (axis, None))
    y = plain(layer(x, x, use_causal_mask=True))
    rows = np.moveaxis(x, axis, 3)
    flat.build(*[(1, x.shape[axis], WIDTH)] * 2)
    flat.set_weights(layer.get_weights())
    joined = rows.reshape(-1, x.shape[axis], WIDTH)
    expected = plain(flat(joined, joined, use_causal_mask=True)).reshape(rows.shape)
    assert_close(y, np.moveaxis(expected, 3, axis))


@pytest.mark.parametrize("name, arguments", CASES)
def test_begins_with_the_same_numbers(name, arguments):
    weights = []
    for library in (keras.layers, layers):
        keras.utils.set_random_seed(3)
        layer = getattr(library, name)(**arguments)
        layer.build((1, 2, WIDTH), (1, 2, WIDTH))
        weights.append(layer.get_weights())
    for ours, theirs in zip(*weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name, arguments", [CASES[0], CASES[2], CASES[6]])
def test_trains_like_keras(name, arguments, random):
    x = inputs(random)
    results = []
    for library in (keras.layers, layers):
        keras.utils.set_random_seed(1)
        symbols = [keras.Input(array.shape[1:]) for array in x.values()]
        settings = {"kernel_regularizer": "l2", "bias_constraint": "non_neg", "activity_regularizer": "l1"}
        y = getattr(library, name)(**arguments, **settings)(*symbols)
        model = keras.Model(symbols, y)
        model.compile(keras.optimizers.SGD(0.1), "mse")
        targets = np.ones((BATCH, *y.shape[1:]), "float32")
        losses = model.fit(list(x.values()), targets, epochs=3, batch_size=BATCH, verbose=0).history["loss"]
        results.append((losses, model.get_weights()))
    np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-5)
    assert results[1][0][2] < results[1][0][0]
    for ours, theirs in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("name, arguments", [CASES[2], CASES[4]])
def test_weights_come_from_a_file_of_keras(name, arguments, random, tmp_path):
    x = inputs(random)
    models = []
    for library in (keras.layers, layers):
        symbols = [keras.Input(array.shape[1:]) for array in x.values()]
        models.append(keras.Model(symbols, getattr(library, name)(**RANDOM_BIASES, **arguments)(*symbols)))
    theirs, ours = models
    theirs.save_weights(tmp_path / "keras.weights.h5")
    ours.load_weights(tmp_path / "keras.weights.h5")
    assert_close(ours(list(x.values())), theirs(list(x.values())))


@pytest.mark.parametrize("value_size", [1, 6])
@pytest.mark.parametrize("causal", [False, True])
def test_values_of_another_width(value_size, causal, random):
    """Keras's own fails here on JAX, whose kernel wants both alike; its scores path does not."""
    x = inputs(random)
    arguments = {"num_heads": 2, "key_dim": 3, "value_dim": value_size}
    ours, theirs = pair("MultiHeadAttention", arguments, (x["query"].shape, x["value"].shape))
    expected, _ = theirs(**x, use_causal_mask=causal, return_attention_scores=True)
    assert_close(ours(**x, use_causal_mask=causal), expected)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("name, arguments", [CASES[0], CASES[5]])
def test_a_row_that_sees_nothing(name, arguments, policy, random):
    x = inputs(random)
    seen = np.ones((BATCH, QUERIES, KEYS), bool)
    seen[0, 2], seen[1] = False, False
    symbols = [*(keras.Input(array.shape[1:]) for array in x.values()), keras.Input(seen.shape[1:], dtype="bool")]
    layer = getattr(layers, name)(**arguments, dtype=policy)
    model = keras.Model(symbols, layer(*symbols[:2], attention_mask=symbols[2]))
    assert np.isfinite(plain(model([*x.values(), seen]))).all()
    before = model.get_weights()
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit([*x.values(), seen], np.ones((BATCH, QUERIES, WIDTH), "float32"), batch_size=BATCH, verbose=0)
    assert all(np.isfinite(w).all() for w in model.get_weights())
    assert not np.array_equal(before[0], model.get_weights()[0])


@pytest.mark.parametrize("policy", ["float16", "mixed_bfloat16"])
@pytest.mark.parametrize("name, arguments", [CASES[1], CASES[6]])
def test_half_precision_is_near_keras(name, arguments, policy, random):
    x = inputs(random)
    shapes = (x["query"].shape, x["value"].shape)
    ours, theirs = pair(name, {**arguments, "dtype": policy}, shapes)
    y, scores = ours(**x, return_attention_scores=True)
    dtype = policy.removeprefix("mixed_")
    assert keras.backend.standardize_dtype(y.dtype) == keras.backend.standardize_dtype(scores.dtype) == dtype
    tolerance = {"float16": 5e-3, "bfloat16": 5e-2}[dtype]  # each rounds at its own steps
    assert_close(y, theirs(**x), tolerance)
    assert_close(ours(**x), theirs(**x), tolerance)


def test_dropout_drops_only_in_training(random):
    x = inputs(random)
    layer = layers.MultiHeadAttention(2, 3, dropout=0.5, seed=1)
    calm, lively = layer(**x, training=False), layer(**x, training=True)
    np.testing.assert_array_equal(plain(calm), plain(layer(**x)))
    assert np.abs(plain(calm) - plain(lively)).max() > 1e-3
    _, A = layer(**x, training=True, return_attention_scores=True)
    np.testing.assert_allclose(plain(A).sum(-1), 1, rtol=1e-5)  # before they are dropped


def test_an_explicit_padding_mask_counts(random):
    x = inputs(random)
    layer = layers.MultiHeadAttention(2, 3)
    mask = np.array(PADDING["value"], bool) | np.array([[False] * 4, [True] * 4])
    expected = layer(**x, attention_mask=np.broadcast_to(mask[:, None], (BATCH, QUERIES, KEYS)))
    assert_close(layer(**x, value_mask=mask), expected)
    assert_close(layer(**x, key_mask=mask), expected)
    assert np.abs(plain(layer(**x)) - plain(expected)).max() > 1e-4


def test_one_by_one_by_hand(random):
    """The equation on small numbers, written again in NumPy."""
    x = inputs(random)
    layer = layers.GroupQueryAttention(3, 4, 2, **RANDOM_BIASES)
    y, A = layer(**x, return_attention_scores=True)
    q, b_q, k, b_k, v, b_v, o, b_o = layer.get_weights()
    Q, K, V = x["query"] @ q.reshape(8, 12), x["value"] @ k.reshape(8, 6), x["value"] @ v.reshape(8, 6)
    Q, K, V = Q.reshape(2, 5, 4, 3) + b_q, K.reshape(2, 4, 2, 3) + b_k, V.reshape(2, 4, 2, 3) + b_v
    out = np.zeros((2, 5, WIDTH))
    for n in range(4):
        scores = np.exp(Q[:, :, n] @ K[:, :, n // 2].swapaxes(1, 2) / np.sqrt(3))
        weights = scores / scores.sum(-1, keepdims=True)
        np.testing.assert_allclose(plain(A)[:, n], weights, atol=1e-6)
        out += weights @ V[:, :, n // 2] @ o[n]
    np.testing.assert_allclose(plain(y), out + b_o, atol=1e-5)


def test_sublayers_follow_a_map_of_dtypes(random):
    policies = keras.dtype_policies.DTypePolicyMap()
    policies["mha/query"] = keras.dtype_policies.DTypePolicy("bfloat16")
    layer = layers.MultiHeadAttention(2, 3, use_bias=False, dtype=policies, name="mha")
    layer.build((1, 2, WIDTH), (1, 2, WIDTH))
    assert [w.dtype for w in layer.weights] == ["bfloat16", "float32", "float32", "float32"]
    assert np.isfinite(plain(layer(**inputs(random)))).all()


def test_symbolic_shapes():
    query, value = keras.Input((None, WIDTH)), keras.Input((4, 6))
    y, A = layers.MultiHeadAttention(2, 3, output_shape=5)(query, value, return_attention_scores=True)
    assert y.shape == (None, None, 5) and A.shape == (None, 2, None, 4)
    pictures = keras.Input((3, 5, WIDTH))
    y, A = layers.MultiHeadAttention(2, 3, attention_axes=1)(pictures, pictures, return_attention_scores=True)
    assert y.shape == (None, 3, 5, WIDTH) and A.shape == (None, 5, 2, 3, 3)


def test_lengths_known_only_when_called(random):
    query, value = keras.Input((None, WIDTH)), keras.Input((None, WIDTH))
    layer = layers.MultiHeadAttention(2, 3, sliding_window=3)
    model = keras.Model([query, value], layer(query, value, use_causal_mask=True))
    x = inputs(random)
    y = model.predict([x["query"], x["value"]], verbose=0)
    assert_close(y, layer(**x, use_causal_mask=True))


def test_axes_are_kept_when_saved(random, tmp_path):
    pictures = keras.Input((3, 4, WIDTH))
    layer = layers.MultiHeadAttention(2, 3, attention_axes=(1,), output_shape=6, flash_attention=False)
    model = keras.Model(pictures, layer(pictures, pictures))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    x = random.normal(size=(2, 3, 4, WIDTH)).astype("float32")
    assert_close(again(x), model(x), 1e-7)
    assert again.layers[1].flash_attention is False


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_heads": 0}, "`num_heads` must be a positive integer. Received: num_heads=0"),
        ({"value_dim": 1.5}, "`value_dim` must be a positive integer"),
        ({"sliding_window": True}, "`sliding_window` must be a positive integer"),
        ({"attention_axes": "all"}, "`attention_axes` must be an int, list, or tuple. Received: 'all'"),
        ({"output_shape": 2.5}, "Invalid `output_shape`: 2.5"),
        ({"flash_attention": True, "dropout": 0.1}, "Dropout is not supported when flash attention is enabled"),
    ],
)
def test_refuses_what_makes_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        layers.MultiHeadAttention(**{"num_heads": 2, "key_dim": 3, **arguments})


def test_refuses_heads_that_do_not_divide():
    with pytest.raises(ValueError, match="`num_query_heads` must be divisible by `num_key_value_heads`.*=4.*=3"):
        layers.GroupQueryAttention(2, 4, 3)


def test_refuses_keys_and_values_that_do_not_belong_together(random):
    x = inputs(random, key=np.ones((BATCH, KEYS + 1, WIDTH), "float32"))
    for layer in (layers.MultiHeadAttention(2, 3), layers.GroupQueryAttention(2, 4, 2)):
        with pytest.raises(ValueError, match="must be equal"):
            layer(**x)


def test_named_as_in_keras():
    assert layers.GroupQueryAttention is GroupedQueryAttention
    assert keras.layers.GroupQueryAttention.__name__ == layers.GroupQueryAttention.__name__
