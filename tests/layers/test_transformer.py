"""The Transformer's blocks against torch's, against the equation in NumPy, and through files and training."""

import keras
import numpy as np
import pytest
from keras import ops

from kerasnets.layers import Embedding, TransformerDecoderBlock, TransformerEncoderBlock

BATCH, LENGTH, SOURCE, WIDTH = 2, 5, 4, 8
SETTINGS = {"num_heads": 2, "feedforward_size": 12, "bias_initializer": "random_normal"}
PADDING = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
SOURCE_PADDING = np.array([[0, 1, 1, 1], [1, 1, 0, 0]])


def plain(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def arrays(random):
    shapes = (LENGTH, WIDTH), (SOURCE, WIDTH)
    return [random.normal(size=(BATCH, *shape)).astype("float32") for shape in shapes]


def assert_close(y, expected, tolerance=1e-5):
    y, expected = plain(y), np.asarray(expected)
    assert y.shape == expected.shape and np.isfinite(y).all()
    assert np.abs(y - expected).max() <= tolerance * np.abs(expected).max()


def spread(block):
    """Weights far from where they begin, norms and biases too."""
    random = np.random.default_rng(5)
    block.set_weights([w + random.normal(0, 0.3, w.shape) for w in block.get_weights()])


def into_torch(block, theirs):
    """Our weights in torch's layer, and that layer in evaluation."""
    import torch

    def copy(attention, ours):
        weights = [(p.kernel, p.bias) for p in (ours.query, ours.key, ours.value)]
        kernels = [plain(kernel).reshape(WIDTH, WIDTH).T for kernel, _ in weights]
        attention.in_proj_weight.copy_(torch.tensor(np.concatenate(kernels)))
        attention.in_proj_bias.copy_(torch.tensor(np.concatenate([plain(bias).ravel() for _, bias in weights])))
        linear(attention.out_proj, plain(ours.out.kernel).reshape(WIDTH, WIDTH), ours.out.bias)

    def linear(layer, kernel, bias):
        layer.weight.copy_(torch.tensor(plain(kernel).T.copy()))
        layer.bias.copy_(torch.tensor(plain(bias)))

    norms = [block.attention_norm, block.feedforward_norm]
    with torch.no_grad():
        copy(theirs.self_attn, block.attention)
        if hasattr(block, "cross_attention"):
            copy(theirs.multihead_attn, block.cross_attention)
            norms.insert(1, block.cross_attention_norm)
        linear(theirs.linear1, block.feedforward.wide.kernel, block.feedforward.wide.bias)
        linear(theirs.linear2, block.feedforward.narrow.kernel, block.feedforward.narrow.bias)
        for number, norm in enumerate(norms, start=1):
            their_norm = getattr(theirs, f"norm{number}")
            their_norm.weight.copy_(torch.tensor(plain(norm.gamma)))
            their_norm.bias.copy_(torch.tensor(plain(norm.beta)))
    return theirs.eval()


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("mask", ["none", "padding", "places", "both"])
def test_encoder_block_is_that_of_torch(norm_first, activation, mask, random):
    torch = pytest.importorskip("torch")
    x, _ = arrays(random)
    block = TransformerEncoderBlock(**SETTINGS, norm_first=norm_first, activation=activation)
    block(x)
    spread(block)
    options = {"activation": activation, "norm_first": norm_first, "batch_first": True}
    theirs = into_torch(block, torch.nn.TransformerEncoderLayer(WIDTH, 2, 12, **options))
    ours, wanted = {}, {}
    if mask in ("padding", "both"):
        ours["padding_mask"], wanted["src_key_padding_mask"] = PADDING, torch.tensor(PADDING == 0)
    if mask in ("places", "both"):
        looks = random.random((LENGTH, LENGTH)) < 0.5
        looks[:, 0] = True
        ours["attention_mask"], wanted["src_mask"] = looks, torch.tensor(~looks)
    with torch.enable_grad():  # torch's fast path, without gradients, sets padded outputs to 0
        expected = theirs(torch.tensor(x), **wanted).detach().numpy()
    assert_close(block(x, **ours), expected)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_decoder_block_is_that_of_torch(norm_first, causal, padded, random):
    torch = pytest.importorskip("torch")
    x, memory = arrays(random)
    block = TransformerDecoderBlock(**SETTINGS, norm_first=norm_first)
    block(x, memory)
    spread(block)
    theirs = torch.nn.TransformerDecoderLayer(WIDTH, 2, 12, norm_first=norm_first, batch_first=True)
    ours, wanted = {"use_causal_mask": causal}, {}
    if causal:
        wanted["tgt_mask"] = torch.tensor(np.tri(LENGTH) == 0)
    if padded:
        ours |= {"padding_mask": PADDING, "memory_padding_mask": SOURCE_PADDING}
        wanted["tgt_key_padding_mask"] = torch.tensor(PADDING == 0)
        wanted["memory_key_padding_mask"] = torch.tensor(SOURCE_PADDING == 0)
    expected = into_torch(block, theirs)(torch.tensor(x), torch.tensor(memory), **wanted).detach().numpy()
    assert_close(block(x, memory, **ours), expected)


def test_memory_attention_mask(random):
    x, memory = arrays(random)
    block = TransformerDecoderBlock(**SETTINGS)
    wanted = block(x, memory, memory_padding_mask=SOURCE_PADDING)
    looks = np.broadcast_to(SOURCE_PADDING[:, None], (BATCH, LENGTH, SOURCE))
    assert_close(block(x, memory, memory_attention_mask=looks), plain(wanted))
    assert np.abs(plain(wanted) - plain(block(x, memory))).max() > 1e-3


def test_a_decoder_alone_looks_at_nothing_later(random):
    x, _ = arrays(random)
    block = TransformerDecoderBlock(**SETTINGS)
    assert len(block(x).shape) == 3 and not block.reads_memory
    changed = x.copy()
    changed[:, 3:] = 9
    np.testing.assert_allclose(plain(block(x))[:, :3], plain(block(changed))[:, :3], atol=1e-6)
    assert np.abs(plain(block(x, use_causal_mask=False)) - plain(block(changed, use_causal_mask=False))).max() > 0.1
    same = TransformerEncoderBlock(**SETTINGS)
    same.build(x.shape)
    same.set_weights(block.get_weights())
    assert_close(same(x, attention_mask=np.tri(LENGTH)), plain(block(x)))


@pytest.mark.parametrize("norm_first", [False, True])
def test_padding_that_an_embedding_found(norm_first, random):
    """Keras's own masks, from ids, mean what `padding_mask` means, in the encoder and from it in the decoder."""
    ids, targets = np.array([[3, 4, 5, 0, 0], [1, 2, 3, 4, 5]]), np.array([[1, 2, 0, 0], [4, 3, 2, 1]])
    table = Embedding(6, WIDTH, mask_zero=True)
    encoder = TransformerEncoderBlock(**SETTINGS, norm_first=norm_first)
    decoder = TransformerDecoderBlock(**SETTINGS, norm_first=norm_first)
    memory = encoder(table(ids))
    y = decoder(table(targets), memory)
    for output, given in ((memory, ids), (y, targets)):
        mask = keras.src.backend.get_keras_mask(output)
        np.testing.assert_array_equal(ops.convert_to_numpy(mask), given != 0)
    bare = [ops.convert_to_tensor(plain(table(given))) for given in (ids, targets)]
    bare_memory = encoder(bare[0], padding_mask=ids != 0)
    expected = decoder(bare[1], bare_memory, padding_mask=targets != 0, memory_padding_mask=ids != 0)
    assert_close(plain(memory)[ids != 0], plain(bare_memory)[ids != 0])
    assert_close(plain(y)[targets != 0], plain(expected)[targets != 0])
    assert np.abs(plain(y) - plain(decoder(bare[1], bare_memory)))[targets != 0].max() > 1e-4


def test_dropout_drops_only_in_training(random):
    x, memory = arrays(random)
    block = TransformerDecoderBlock(**SETTINGS, dropout=0.5)
    calm = plain(block(x, memory))
    np.testing.assert_array_equal(calm, plain(block(x, memory, training=False)))
    assert np.abs(calm - plain(block(x, memory, training=True))).max() > 0.1


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_trains_and_comes_back_from_a_file(policy, random, tmp_path):
    x, memory = arrays(random)
    symbols = keras.Input((None, WIDTH)), keras.Input((None, WIDTH)), keras.Input((None,), dtype="bool")
    read = TransformerEncoderBlock(**SETTINGS, dtype=policy)(symbols[1], padding_mask=symbols[2])
    y = TransformerDecoderBlock(**SETTINGS, dtype=policy)(symbols[0], read, memory_padding_mask=symbols[2])
    model = keras.Model(symbols, y)
    padding = SOURCE_PADDING.astype(bool)
    padding[1] = False  # nothing to look at
    data = [x, memory, padding]
    model.compile(keras.optimizers.SGD(0.05), "mse")
    losses = model.fit(data, np.zeros_like(x), epochs=4, batch_size=BATCH, verbose=0).history["loss"]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    assert all(np.isfinite(w).all() for w in model.get_weights())
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(plain(again(data)), plain(model(data)))


@pytest.mark.parametrize("cls", [TransformerEncoderBlock, TransformerDecoderBlock])
def test_no_two_kernels_begin_alike(cls, random):
    x, memory = arrays(random)
    block = cls(2, WIDTH)
    block(*([x] if cls is TransformerEncoderBlock else [x, memory]))
    kernels = [w.numpy().ravel() if hasattr(w, "numpy") else np.ravel(w) for w in block.get_weights() if w.ndim > 1]
    assert len({kernel[0] for kernel in kernels if kernel[0] != 0}) == (6 if cls is TransformerEncoderBlock else 10)


def test_refuses_a_width_that_the_heads_cannot_share(random):
    x, _ = arrays(random)
    with pytest.raises(ValueError, match="3 heads can't share 8 channels"):
        TransformerEncoderBlock(3, 12)(x)


def test_refuses_a_memory_unlike_before(random):
    x, memory = arrays(random)
    alone, reading = TransformerDecoderBlock(2, 12), TransformerDecoderBlock(2, 12)
    alone(x), reading(x, memory)
    with pytest.raises(ValueError, match="built without cross-attention, but is called with a memory"):
        alone(x, memory)
    with pytest.raises(ValueError, match="built with cross-attention, but is called without a memory"):
        reading(x)
