"""`Transformer`: agreement with torch's layers in float64, which share no line with ours, and how it is trained."""

import keras
import numpy as np
import pytest

import kerasnets as kn
from kerasnets.seq2seq import shift_right
from tests.models import parity
from tests.models.encoder_decoder import seq2seq

VOCAB = 99
SMALL = dict(vocab_size=VOCAB, hidden_size=32, num_layers=2, num_heads=4, feedforward_size=40, dropout=0.0)


@pytest.fixture
def model():
    model = kn.TransformerSeq2SeqLM(**SMALL, epsilon=0.01)
    random = np.random.default_rng(3)
    for weight in model.weights:
        noise = random.normal(size=weight.shape)
        weight.assign(0.3 * noise + (weight.name == "gamma"))
    return model


def torch_layer(block, is_decoder):
    """torch's own layer with the weights of a block of ours."""
    torch = pytest.importorskip("torch", reason="it is the reference")
    kind = torch.nn.TransformerDecoderLayer if is_decoder else torch.nn.TransformerEncoderLayer
    layer = kind(32, 4, 40, 0.0, layer_norm_eps=0.01, batch_first=True, dtype=torch.float64)

    def tensor(weight):
        return torch.tensor(parity.to_numpy(weight), dtype=torch.float64)

    parts, norms = [("self_attn", block.attention)], [block.attention_norm, block.feedforward_norm]
    if is_decoder:
        parts.append(("multihead_attn", block.cross_attention))
        norms.insert(1, block.cross_attention_norm)
    state = {name: torch.zeros_like(value) for name, value in layer.state_dict().items()}
    for name, part in parts:
        rows = [tensor(dense.kernel).T for dense in (part.query, part.key, part.value)]
        state |= {f"{name}.in_proj_weight": torch.cat(rows), f"{name}.out_proj.weight": tensor(part.out.kernel).T}
    for i, norm in enumerate(norms, start=1):
        state |= {f"norm{i}.weight": tensor(norm.gamma), f"norm{i}.bias": tensor(norm.beta)}
    for i, dense in enumerate((block.feedforward.wide, block.feedforward.narrow), start=1):
        state |= {f"linear{i}.weight": tensor(dense.kernel).T, f"linear{i}.bias": tensor(dense.bias)}
    layer.load_state_dict(state)
    return layer


def embedded(table, ids):
    """√D E[i] + PE, by the formulas of section 3.5, position by position and channel by channel."""
    encoding = np.zeros((ids.shape[1], 32))
    for place in range(ids.shape[1]):
        for i in range(16):
            encoding[place, 2 * i] = np.sin(place / 10000 ** (2 * i / 32))
            encoding[place, 2 * i + 1] = np.cos(place / 10000 ** (2 * i / 32))
    return table[ids] * np.sqrt(32) + encoding


def test_agrees_with_torch(model):
    torch = pytest.importorskip("torch", reason="it is the reference")
    inputs, backbone = seq2seq.some_inputs(VOCAB), model.backbone
    table = parity.to_numpy(backbone.token_embedding.embeddings).astype("float64")
    x, y = (torch.tensor(embedded(table, inputs[name])) for name in ("input_ids", "decoder_input_ids"))
    is_padding = torch.tensor(inputs["attention_mask"] == 0)
    later = torch.triu(torch.ones(8, 8, dtype=torch.bool), diagonal=1)
    trace = kn.trace(model, inputs)
    with torch.no_grad():
        for i, block in enumerate(backbone.encoder_blocks):
            x = torch_layer(block, False)(x, src_key_padding_mask=is_padding)
            parity.assert_close(trace[f"backbone.encoder_blocks.{i}"][~is_padding], x[~is_padding])
        for i, block in enumerate(backbone.decoder_blocks):
            y = torch_layer(block, True)(y, x, later, memory_key_padding_mask=is_padding)
            parity.assert_close(trace[f"backbone.decoder_blocks.{i}"], y)
    parity.assert_close(trace.output, y.numpy() @ table.T)


def test_padding_and_cache_change_nothing(model):
    inputs = seq2seq.some_inputs(VOCAB)
    seq2seq.assert_padding_changes_nothing(model, inputs)
    seq2seq.assert_cache_changes_nothing(model, inputs)


def test_learns_to_turn_a_text_around(tmp_path):
    """As in the paper: label smoothing, the warm-up, Adam; then what is generated is the text turned around."""
    keras.utils.set_random_seed(0)
    sizes = {"vocab_size": 10, "hidden_size": 32, "num_layers": 1, "num_heads": 4, "feedforward_size": 64}
    model = kn.TransformerSeq2SeqLM(**sizes, dropout=0.0)
    ids = np.random.default_rng(0).integers(3, 10, (1024, 4)).astype("int32")
    labels = np.concatenate([ids[:, ::-1], np.full((1024, 1), 2, "int32")], axis=1)
    inputs = {"input_ids": ids, "decoder_input_ids": shift_right(labels, 1, 0)}
    optimizer = keras.optimizers.Adam(kn.WarmUp(32, 60), beta_2=0.98, epsilon=1e-9)
    model.compile(optimizer, kn.losses.TokenCrossEntropy(label_smoothing=0.1))
    model.fit(inputs, labels, batch_size=64, epochs=16, verbose=0)
    found = model.generate({"input_ids": ids[:20]}, max_new_tokens=6)
    assert np.mean(found == labels[:20]) > 0.9
    model.save(tmp_path / "x.keras")
    again = keras.models.load_model(tmp_path / "x.keras")
    assert np.array_equal(again.generate({"input_ids": ids[:20]}, max_new_tokens=6), found)
    assert float(again.optimizer.learning_rate) == float(model.optimizer.learning_rate) < 0.02


def test_warm_up():
    schedule = kn.WarmUp(512)
    rates = [float(schedule(step - 1)) for step in (1, 2000, 4000, 16000)]
    expected = [512**-0.5 * 4000**-1.5, 512**-0.5 * 2000 * 4000**-1.5, 512**-0.5 * 4000**-0.5, 512**-0.5 / 16000**0.5]
    assert np.allclose(rates, expected, rtol=1e-6)
    assert kn.WarmUp.from_config(schedule.get_config()).get_config() == schedule.get_config()


def test_no_checkpoint_format_and_no_wrong_sizes(model, tmp_path):
    with pytest.raises(ValueError, match="no checkpoint format"):
        kn.to_pretrained(model, tmp_path)
    with pytest.raises(ValueError, match="5 heads can't share hidden_size=32"):
        kn.Transformer(**{**SMALL, "num_heads": 5})


def test_base_has_the_published_size():
    """Table 3 counts 65 million, with a vocabulary of 37,000 tokens."""
    model = kn.Transformer.from_preset("transformer-base", num_layers=1, vocab_size=100)
    blocks = 6 * (model.count_params() - 100 * 512)
    assert kn.Transformer.Config().vocab_size == 37000 and 63e6 < 37000 * 512 + blocks < 66e6
