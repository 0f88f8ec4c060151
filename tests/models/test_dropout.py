"""Dropout acts while a model is trained, on every backend and in every family, and at no other time."""

import contextlib

import keras
import numpy as np
import pytest

import kerasnets as kn
from kerasnets.layers.reading import calling_fully

SIZES = {"vocab_size": 30, "hidden_size": 16, "num_layers": 1, "num_heads": 2, "feedforward_size": 16}
IDS = np.random.default_rng(0).integers(3, 30, (2, 6)).astype("int32")
SOUND = np.random.default_rng(0).normal(size=(2, 8, 16)).astype("float32")
WHISPER = {**SIZES, "num_mels": 8, "max_source_length": 8, "max_length": 16}
HEARD = {"input_features": SOUND, "decoder_input_ids": IDS}
PAIR = {"input_ids": IDS, "decoder_input_ids": IDS}

MODELS = {  # class, fields, those of them that say how much is dropped, inputs
    "GPT2CausalLM": (kn.GPT2CausalLM, {**SIZES, "max_length": 8}, ("embedding_dropout",), IDS),
    "GPT2CausalLM, attention": (kn.GPT2CausalLM, {**SIZES, "max_length": 8}, ("attention_dropout",), IDS),
    "GPT2CausalLM, residual": (kn.GPT2CausalLM, {**SIZES, "max_length": 8}, ("dropout",), IDS),
    "LLaMACausalLM": (kn.LLaMACausalLM, SIZES, ("attention_dropout",), IDS),
    "BERTMaskedLM": (kn.BERTMaskedLM, {**SIZES, "max_length": 8}, ("dropout",), IDS),
    "BERTSequenceClassifier": (kn.BERTSequenceClassifier, {**SIZES, "max_length": 8}, ("classifier_dropout",), IDS),
    "BERTTokenClassifier": (kn.BERTTokenClassifier, {**SIZES, "max_length": 8}, ("attention_dropout",), IDS),
    "DeBERTaV2MaskedLM": (kn.DeBERTaV2MaskedLM, {**SIZES, "max_length": 8}, ("dropout",), IDS),
    "LayoutLMTokenClassifier": (kn.LayoutLMTokenClassifier, {**SIZES, "max_length": 8}, ("dropout",), IDS),
    "T5Seq2SeqLM": (kn.T5Seq2SeqLM, {**SIZES, "head_size": 8}, ("dropout",), PAIR),
    "BARTSeq2SeqLM": (kn.BARTSeq2SeqLM, {**SIZES, "max_length": 8}, ("attention_dropout",), PAIR),
    "TransformerSeq2SeqLM": (kn.TransformerSeq2SeqLM, SIZES, ("dropout",), PAIR),
    "WhisperSeq2SeqLM": (kn.WhisperSeq2SeqLM, WHISPER, ("dropout",), HEARD),
}
RATES = ("dropout", "attention_dropout", "embedding_dropout", "classifier_dropout")


def made(name, rate):
    """A model that drops at `rate` where it says, and nowhere else, and that learns nothing."""
    kind, fields, dropped, inputs = MODELS[name]
    known = kind.Config.__dataclass_fields__
    rates = {field: rate if field in dropped else 0.0 for field in RATES if field in known}
    keras.utils.set_random_seed(0)
    model = kind(**fields, **rates)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    shape = model(inputs).shape
    return model, inputs, np.zeros(shape, "float32")


def losses(step, *data):
    found = [step(*data) for _ in range(3)]
    return [float(np.ravel(loss)[0]) for loss in found]


@pytest.mark.parametrize("name", MODELS)
def test_it_acts_in_training_alone(name):
    model, *data = made(name, 0.5)
    trained, tested = losses(model.train_on_batch, *data), losses(model.test_on_batch, *data)
    assert len(set(trained)) == 3
    assert len(set(tested)) == 1


@pytest.mark.parametrize("name", ["GPT2CausalLM", "BERTMaskedLM", "T5Seq2SeqLM"])
def test_a_model_without_it_is_the_same_in_training(name):
    model, *data = made(name, 0.0)
    np.testing.assert_allclose(losses(model.train_on_batch, *data), losses(model.test_on_batch, *data), rtol=1e-5)


@pytest.mark.parametrize("name", ["GPT2CausalLM, attention", "T5Seq2SeqLM"])
def test_layers_that_are_called_barely_drop_as_others_do(name):
    found = []
    for _ in range(2):
        model, inputs, _ = made(name, 0.5)
        keras.utils.set_random_seed(1)
        with calling_fully() if found else contextlib.nullcontext():
            found.append(keras.ops.convert_to_numpy(model(inputs, training=True)))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5, atol=1e-6)


def test_a_model_within_another_is_trained_with_it():
    inner = made("BERTMaskedLM", 0.5)[0]
    ids = keras.Input((6,), dtype="int32")
    outer = keras.Model(ids, inner(ids))
    outer.compile(keras.optimizers.SGD(0.0), "mse")
    assert len(set(losses(outer.train_on_batch, IDS, np.zeros((2, 6, 30), "float32")))) == 3
