"""`Fields`: whatever is wrong with a config.json is said at once, by name."""

import dataclasses
import json

import pytest

from kerasnets.fields import Fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    hidden_size: int = 12
    num_heads: int = 4
    num_kv_heads: int | None = None
    head_size: int | None = None
    epsilon: float = 1e-5
    activation: str = "gelu"
    tied: bool = True
    bos_token_id: int | None = 1
    eos_token_id: tuple = (2,)
    pad_token_id: int | None = None


NAMES = {"d": "hidden_size", "n": "num_heads", "k": "num_kv_heads", "h": "head_size", "eps": "epsilon"}
NAMES |= {"act": "activation", "tie": "tied"}


def read(text):
    fields = Fields(json.loads(text), "folder")
    found = fields.read_all(Config, NAMES, {"activation": ("gelu", "relu")})
    fields.divide(Config, found)
    fields.finish()
    return found


def test_values_are_read_by_type():
    text = '{"d": 8, "k": null, "eps": 0, "act": "relu", "tie": false, "model_type": "x", "eos_token_id": [3, 4]}'
    expected = {"hidden_size": 8, "num_kv_heads": None, "epsilon": 0, "activation": "relu", "tied": False}
    assert read(text) == expected | {"eos_token_id": (3, 4)}


WRONG = {  # text: (name, what is wrong with it)
    '{"d": NaN}': ("d", "positive integer; it is nan"),
    '{"d": -8}': ("d", "positive integer; it is -8"),
    '{"d": 0}': ("d", "positive integer; it is 0"),
    '{"d": 8.0}': ("d", "positive integer; it is 8.0"),
    '{"d": true}': ("d", "positive integer; it is True"),
    '{"d": "8"}': ("d", "positive integer; it is '8'"),
    '{"d": [8]}': ("d", "positive integer"),
    '{"d": null}': ("d", "null"),
    '{"eps": NaN}': ("eps", "finite number, not negative; it is nan"),
    '{"eps": -Infinity}': ("eps", "finite number, not negative; it is -inf"),
    '{"eps": -1e-5}': ("eps", "finite number, not negative; it is -1e-05"),
    f'{{"eps": 1{"0" * 400}}}': ("eps", "finite number"),
    '{"eps": "small"}': ("eps", "finite number"),
    '{"act": "swish9"}': ("act", "one of ['gelu', 'relu']; it is 'swish9'"),
    '{"act": {}}': ("act", "one of ['gelu', 'relu']"),
    '{"tie": 1}': ("tie", "true or false; it is 1"),
    '{"d": 10}': ("hidden_size 10", "not a multiple of num_heads 4"),
    '{"n": 6, "k": 4, "d": 12}': ("num_heads 6", "not a multiple of num_kv_heads 4"),
    '{"eos_token_id": "</s>"}': ("eos_token_id", "token id; it is '</s>'"),
    '{"eos_token_id": [2, null]}': ("eos_token_id", "token id"),
    '{"pad_token_id": -2}': ("pad_token_id", "token id; it is -2"),
    '{"bos_token_id": [1]}': ("bos_token_id", "token id"),
    '{"quantization_config": {"bits": 4}}': ("quantization_config", "not known here"),
    '{"new_switch": true}': ("new_switch", "not known here"),
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_values_are_named(text):
    with pytest.raises(ValueError) as error:
        read(text)
    for part in ("folder: config.json", *WRONG[text]):
        assert part in str(error.value)
    assert len(str(error.value).splitlines()) == 2  # one problem, said once


def test_all_problems_are_said_at_once():
    with pytest.raises(ValueError) as error:
        read('{"d": -1, "eps": NaN, "act": "x", "tie": null, "eos_token_id": 1.5, "one": 1, "two": 2}')
    assert len(str(error.value).splitlines()) == 1 + 7


def test_a_head_size_frees_the_width():
    assert read('{"d": 10, "h": 3}') == {"hidden_size": 10, "head_size": 3}


def test_minus_one_is_no_token():
    assert read('{"pad_token_id": -1, "eos_token_id": -1}') == {"pad_token_id": None, "eos_token_id": ()}


def test_an_unknown_field_without_a_value_says_nothing():
    assert read('{"new_switch": null}') == {}


def test_what_follows_a_wrong_value_may_stumble():
    fields = Fields({"d": "x"}, "folder")
    found = fields.read_all(Config, NAMES, {})
    with pytest.raises(ValueError, match="d must be a positive integer"):
        fields.read_more(lambda fields, config: {"half": config["hidden_size"] / 2}, found)
    with pytest.raises(ZeroDivisionError):  # nothing was wrong with the file
        Fields({}, "folder").read_more(lambda fields, config: 1 / 0, {})


def test_only_expected_values():
    fields = Fields({"a": 0, "b": 2}, "folder")
    fields.expect({"a": (False,), "b": (1, 2), "c": (5,)})
    assert fields.errors == ["a is 0, and only False is done here"]
