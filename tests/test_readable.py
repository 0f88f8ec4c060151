"""The promise of readability, counted: a whole GPT-2 with its cache and its loader in four files and few lines.

What stands in these files is all that is not a layer which Keras has too (`Dense`, `Embedding`, `LayerNormalization`),
a mask, a file format, or the reading of one field of a config. Blank lines aside, as no reader reads them.
"""

from pathlib import Path

ROOT = Path(__file__).parents[1] / "kerasnets"
GPT2 = ("models/decoder/gpt2.py", "layers/attention.py", "model.py", "checkpoint.py")


def lines(path):
    return sum(bool(line.strip()) for line in (ROOT / path).read_text(encoding="utf-8").splitlines())


def test_gpt2_from_its_file_to_its_logits():
    assert len(GPT2) <= 4
    assert sum(map(lines, GPT2)) < 600


def test_each_decoder_is_a_file_of_a_few_pages():
    families = [path for path in (ROOT / "models" / "decoder").glob("*.py") if path.stem != "__init__"]
    assert len(families) >= 7
    assert max(len(path.read_text(encoding="utf-8").splitlines()) for path in families) <= 300
