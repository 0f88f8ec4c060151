"""`generate` and `stream`: transformers' ids for every family and padding side, the same numbers as without a cache."""

import contextlib
import dataclasses

import keras
import numpy as np
import pytest

import kerasnets as kn
from kerasnets import generation
from tests.models import every_family, parity

VOCAB, NEW = 99, 30
DECODERS = [name for name in every_family.CLASSES if name.endswith("CausalLM")]
TOKENS = dict(vocab_size=VOCAB, bos_token_id=1, eos_token_id=2, pad_token_id=0)
SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48)
SIZES |= dict(max_position_embeddings=64)
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 500.0}
THEIRS = {  # transformers' class, its config
    "GPT2": ("GPT2LMHeadModel", dict(n_embd=32, n_layer=2, n_head=4, n_positions=64, tie_word_embeddings=False)),
    "LLaMA": ("LlamaForCausalLM", SIZES | {"rope_parameters": LLAMA3 | {"original_max_position_embeddings": 32}}),
    "Qwen2": ("Qwen2ForCausalLM", SIZES | dict(use_sliding_window=True, sliding_window=5, max_window_layers=1)),
    "Qwen3": ("Qwen3ForCausalLM", SIZES | dict(head_dim=16, tie_word_embeddings=True)),
    "GLM": ("GlmForCausalLM", SIZES | dict(head_dim=16)),
    "GLM4": ("Glm4ForCausalLM", SIZES | dict(head_dim=16)),
}


def small(name="GPT2CausalLM", **changes):
    """One of ours with large random weights, so that its text is not one token again and again."""
    known = {field.name for field in dataclasses.fields(every_family.CLASSES[name].Config)}
    fields = every_family.SMALL | {"vocab_size": VOCAB, "max_length": 64} | changes
    model = every_family.CLASSES[name](**{field: value for field, value in fields.items() if field in known})
    random = np.random.default_rng(3)
    for weight in model.trainable_weights:
        noise = random.normal(size=weight.shape)
        weight.assign(0.4 * noise if len(weight.shape) == 2 else 1 + 0.3 * noise)
    return model


@pytest.fixture(scope="module")
def gpt2():
    return small()


def batch(lengths, side="left"):
    """A batch of these lengths as a tokenizer gives it, and its rows."""
    random = np.random.default_rng(7)
    rows = [random.integers(3, VOCAB, length).astype("int32") for length in lengths]
    ids, mask = np.zeros((2, len(rows), max(lengths)), "int32")
    for i, row in enumerate(rows):
        place = slice(max(lengths) - len(row), None) if side == "left" else slice(0, len(row))
        ids[i, place], mask[i, place] = row, 1
    return {"input_ids": ids, "attention_mask": mask}, rows


@pytest.mark.parametrize("name", THEIRS)
def test_greedy_ids_are_those_of_transformers(name, tmp_path):
    transformers = pytest.importorskip("transformers", reason="the reference runs on torch")
    torch = pytest.importorskip("torch", reason="the reference runs on torch")
    kind, config = THEIRS[name]
    model_class = getattr(transformers, kind)
    theirs = parity.randomized(model_class(model_class.config_class(**TOKENS | config)))
    theirs.save_pretrained(tmp_path)
    inputs, _ = batch((5, 11, 8))
    settings = dict(max_new_tokens=NEW, do_sample=False, pad_token_id=0)
    with torch.no_grad():
        expected = theirs.generate(**{k: torch.tensor(v).long() for k, v in inputs.items()}, **settings).numpy()
    model = kn.from_pretrained(tmp_path)
    for side in ("left", "right"):
        found = model.generate(batch((5, 11, 8), side)[0], max_new_tokens=NEW)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, expected[:, 11:])
    assert len(np.unique(found)) > 5  # no token again and again


@pytest.mark.parametrize("name", DECODERS)
def test_cached_is_uncached(name):
    """The logits of each step, from a batch of two lengths, are those of the whole text read at once."""
    changes = {"position": "alibi"} if name == "BaichuanCausalLM" else {}
    model = small(name, window=5, windowed_blocks=(1,), **changes)
    inputs, rows = batch((4, 9))
    steps = list(model.stream(inputs, max_new_tokens=20, stop_tokens=(), explain=True))
    ids, logits = (np.stack([getattr(s, field) for s in steps], axis=1) for field in ("ids", "logits"))
    for row, new, found in zip(rows, ids, logits, strict=True):
        whole = np.concatenate([row, new])[None]
        expected = parity.to_numpy(model(whole))[0, len(row) - 1 : -1]
        parity.assert_close(found, expected)
        assert (expected.argmax(-1) == new).all()


WAYS = ("by_rows", 3), ("by_columns", 1), ("by_columns", 3), ("side_by_side", 3), ("in_small_parts", 3)


@pytest.mark.parametrize("way, rows", [("fastest", 1), ("fastest", 9), *WAYS])
@pytest.mark.parametrize("is_loaded", [False, True])
@pytest.mark.parametrize("name", ["GPT2CausalLM", "LLaMACausalLM"])
def test_large_products_are_cut_right(name, is_loaded, way, rows, tmp_path, monkeypatch):
    """On torch they are cut in the way that is fastest; in a model from a file the kernels may lie the other way."""
    if way != "fastest":
        if keras.config.backend() != "torch":
            pytest.skip("only torch's products are cut so")
        from kerasnets.backend import torch_products

        monkeypatch.setattr(torch_products, "fastest", lambda *args: getattr(torch_products, way))
    model = small(name, num_layers=1, hidden_size=512, head_size=128, feedforward_size=1024, vocab_size=1024, tied=True)
    for weight in model.trainable_weights:
        weight.assign(weight / 4)  # or attention this wide is so sharp that float32 itself is 1e-5 off
    if is_loaded:
        kn.to_pretrained(model, tmp_path)
        model = kn.from_pretrained(tmp_path)
    prompt = np.random.default_rng(0).integers(3, 1024, (rows, 3))
    with threads(2):
        steps = list(model.stream(prompt, max_new_tokens=4, stop_tokens=(), explain=True))
    whole = np.concatenate([prompt, np.stack([step.ids for step in steps], axis=1)], axis=1)
    expected = parity.to_numpy(model(whole))[:, 2:-1]
    parity.assert_close(np.stack([step.logits for step in steps], axis=1), expected)


@contextlib.contextmanager
def threads(count):
    """Within this, torch has so many threads, where it is the backend."""
    if keras.config.backend() != "torch":
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_batch_of_eight_lengths_is_one_by_one(gpt2):
    inputs, rows = batch((3, 12, 1, 7, 9, 16, 5, 8))
    settings = dict(max_new_tokens=NEW, stop_tokens=(), repetition_penalty=1.2, no_repeat_ngram=3)
    together = gpt2.generate(inputs, **settings)
    for row, expected in zip(rows, together, strict=True):
        np.testing.assert_array_equal(gpt2.generate([row], **settings)[0], expected)
    np.testing.assert_array_equal(gpt2.generate(rows, **settings), together)


def test_penalties_are_those_of_transformers(gpt2, tmp_path):
    transformers = pytest.importorskip("transformers", reason="the reference runs on torch")
    torch = pytest.importorskip("torch", reason="the reference runs on torch")
    kn.to_pretrained(gpt2, tmp_path)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    ids = np.stack(batch((6, 6, 6))[1])
    settings = dict(repetition_penalty=1.3, no_repeat_ngram_size=2, eos_token_id=2, pad_token_id=0, min_new_tokens=5)
    with torch.no_grad():
        expected = theirs.generate(torch.tensor(ids).long(), max_new_tokens=NEW, do_sample=False, **settings).numpy()
    settings = dict(repetition_penalty=1.3, no_repeat_ngram=2, stop_tokens=2, min_new_tokens=5)
    np.testing.assert_array_equal(gpt2.generate(ids, NEW, **settings), expected[:, 6:])


SAMPLER = (kn.samplers.Temperature(3.0), kn.samplers.TopK(30), kn.samplers.TopP(0.95))


def test_stream_is_generate_and_seeds_decide(gpt2):
    ids = batch((5, 9))[0]
    settings = dict(max_new_tokens=NEW, sampler=SAMPLER, stop_tokens=())
    first = gpt2.generate(ids, seed=1, **settings)
    np.testing.assert_array_equal(np.stack(list(gpt2.stream(ids, seed=1, **settings)), axis=1), first)
    np.testing.assert_array_equal(gpt2.generate(ids, seed=1, **settings), first)
    assert not np.array_equal(gpt2.generate(ids, seed=2, **settings), first)
    several = gpt2.generate(ids, seed=1, samples=3, **settings)
    assert several.shape == (6, NEW) and len(np.unique(several[:3], axis=0)) == 3
    np.testing.assert_array_equal(several[0], first[0])


def test_a_row_stops_and_is_padded(gpt2, monkeypatch):
    monkeypatch.setattr(gpt2, "config", dataclasses.replace(gpt2.config, pad_token_id=5))
    ids = batch((5, 9))[0]
    free = gpt2.generate(ids, NEW, stop_tokens=())
    stop = int(free[0, 6])
    ends = [int(np.argmax(row == stop)) if stop in row else NEW for row in free]
    assert ends[0] != ends[1]
    stopped = gpt2.generate(ids, NEW, stop_tokens=(stop,))
    assert stopped.shape[1] == min(NEW, max(ends) + 1)
    for row, expected, end in zip(stopped, free, ends, strict=True):
        np.testing.assert_array_equal(row[: end + 1], expected[: end + 1][: len(row)])
        assert (row[end + 1 :] == 5).all()
    streamed = np.stack(list(gpt2.stream(ids, NEW, stop_tokens=stop)), axis=1)
    np.testing.assert_array_equal(streamed, stopped)
    monkeypatch.setattr(gpt2, "config", dataclasses.replace(gpt2.config, eos_token_id=(stop,)))
    np.testing.assert_array_equal(gpt2.generate(ids, NEW), stopped)


class Letters:
    """A tokenizer of which generation needs one thing."""

    def decode(self, ids):
        return "".join(chr(40 + i) for i in ids)


def test_stop_strings(gpt2):
    ids = batch((5, 9))[0]
    free = gpt2.generate(ids, NEW, stop_tokens=())
    string = Letters().decode(free[1, 3:5])
    found = gpt2.generate(ids, NEW, stop_tokens=(), stop_strings=string, tokenizer=Letters())
    text = Letters().decode(free[1])
    end = text.index(string) + 2
    np.testing.assert_array_equal(found[1, :end], free[1, :end])
    assert (found[1, end:] == 0).all() and string in Letters().decode(found[1])


def test_few_compilations(gpt2):
    """Another prompt of the same bucket, other numbers in the samplers, another seed: nothing is traced anew."""
    seen, decode = [], gpt2.backbone.decode
    object.__setattr__(gpt2.backbone, "decode", lambda *a, **k: seen.append(a[0].shape) or decode(*a, **k))
    try:
        for length, temperature, seed in ((5, 2.0, 0), (9, 1.5, 3), (16, 0.5, 4)):
            sampler = (kn.samplers.Temperature(temperature), kn.samplers.TopP(temperature / 4))
            new = gpt2.generate(batch((length,))[0], 20, sampler=sampler, seed=seed, stop_tokens=())
            assert new.shape == (1, 20)
            if length == 5:
                first = len(seen)
    finally:
        object.__delattr__(gpt2.backbone, "decode")
    steps = [shape for shape in seen[first:] if shape[1] == 1]
    assert first and not steps


def test_the_cache_grows(gpt2, monkeypatch):
    ids = batch((5, 9))[0]
    expected = gpt2.generate(ids, 45, stop_tokens=())
    monkeypatch.setattr(generation, "ROOM", 20)
    sizes, grown = [], generation.grown
    monkeypatch.setattr(generation, "grown", lambda carry, size: sizes.append(size) or grown(carry, size))
    np.testing.assert_array_equal(gpt2.generate(ids, 45, stop_tokens=()), expected)
    assert sizes == [32, 64]
    np.testing.assert_array_equal(np.stack(list(gpt2.stream(ids, 45, stop_tokens=())), axis=1), expected)


def test_new_weights_are_seen_and_files_hold_no_program(gpt2, tmp_path):
    ids, weights = batch((5, 9))[0], gpt2.get_weights()
    before = gpt2.generate(ids, NEW, stop_tokens=())
    gpt2.set_weights([weight[::-1] for weight in weights])
    gpt2.save(tmp_path / "x.keras")
    after = gpt2.generate(ids, NEW, stop_tokens=())
    gpt2.set_weights(weights)
    assert not np.array_equal(after, before)
    np.testing.assert_array_equal(gpt2.generate(ids, NEW, stop_tokens=()), before)
    again = keras.models.load_model(tmp_path / "x.keras")
    np.testing.assert_array_equal(again.generate(ids, NEW, stop_tokens=()), after)


def test_half_precision():
    assert small(dtype="mixed_bfloat16").generate(batch((5, 9))[0], 10, stop_tokens=()).shape == (2, 10)


def test_an_abandoned_stream_leaves_the_model_usable(gpt2):
    ids = batch((5, 9))[0]
    expected = gpt2.generate(ids, NEW, stop_tokens=())
    stream = gpt2.stream(ids, NEW, stop_tokens=())
    next(stream), next(stream)
    stream.close()
    stream = gpt2.stream(ids, NEW, stop_tokens=())
    next(stream)
    with pytest.raises(KeyboardInterrupt):
        stream.throw(KeyboardInterrupt)
    np.testing.assert_array_equal(gpt2.generate(ids, NEW, stop_tokens=()), expected)
    np.testing.assert_array_equal(np.stack(list(gpt2.stream(ids, NEW, stop_tokens=())), axis=1), expected)


IDS = np.full((2, 5), 7, "int32")
HOLLOW = np.array([[1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
REFUSED = {
    "no prompt": (np.zeros((0, 5), "int32"), {}, "there must be a prompt"),
    "empty prompt": ([[3, 4], []], {}, "prompt 1 is empty"),
    "only padding": ({"input_ids": IDS, "attention_mask": HOLLOW}, {}, "prompt 1 is empty"),
    "other mask": ({"input_ids": IDS, "attention_mask": HOLLOW[:, :4]}, {}, "shaped like input_ids"),
    "another input": ({"input_ids": IDS, "position_ids": IDS}, {}, "input_ids and attention_mask"),
    "too large": (IDS + np.eye(2, 5, dtype="int32") * 92, {}, "token 0 of prompt 0 is 99"),
    "negative": (-IDS, {}, "must lie in"),
    "not integers": (IDS / 2, {}, "row of integers"),
    "too long": (np.full((1, 70), 7), {}, "the prompt alone is too long"),
    "too many": (IDS, {"max_new_tokens": 60}, "at most 59 new ones fit"),
    "no new token": (IDS, {"max_new_tokens": 0}, "max_new_tokens must be an integer of at least 1"),
    "half a token": (IDS, {"max_new_tokens": 2.5}, "max_new_tokens must be an integer"),
    "no sample": (IDS, {"samples": 0}, "samples must be"),
    "greedy samples": (IDS, {"samples": 2}, "all the same"),
    "penalty": (IDS, {"repetition_penalty": 0.0}, "repetition_penalty must be"),
    "n-gram": (IDS, {"no_repeat_ngram": -1}, "no_repeat_ngram must be"),
    "at least more than at most": (IDS, {"max_new_tokens": 3, "min_new_tokens": 4}, "min_new_tokens must be"),
    "stop token": (IDS, {"stop_tokens": (99,)}, "stop_tokens must be ids below 99"),
    "stop string": (IDS, {"stop_strings": "x"}, "need tokenizer"),
    "empty stop string": (IDS, {"stop_strings": ("",), "tokenizer": Letters()}, "must not be empty"),
    "sampler": (IDS, {"sampler": 0.7}, "sampler must be one of"),
    "samplers": (IDS, {"sampler": (kn.samplers.Greedy(), kn.samplers.TopK(3))}, "whatever the others do"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, gpt2):
    inputs, settings, message = REFUSED[name]
    for verb in (gpt2.generate, gpt2.stream):
        with pytest.raises(ValueError, match=message):
            verb(inputs, **settings)


def test_lengths_are_rounded_up_to_few():
    rounded = {1: 16, 16: 16, 17: 24, 24: 24, 25: 32, 33: 48, 49: 64, 100: 128, 129: 192}
    assert {length: generation.bucket(length) for length in rounded} == rounded
