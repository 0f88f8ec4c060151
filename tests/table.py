"""`make table`: the curriculum's table in both READMEs, its last column measured.

    python -m tests.table [backend …]

runs, on each backend, the tests that hold each system to its reference, and prints the largest difference that they
saw, relative to the largest value of the reference. With all three backends it writes the tables, between the comments
`<!-- make table -->` and `<!-- end of the table -->`; with fewer it only prints. A test that fails stops it.
"""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

from tests.__main__ import BACKENDS, ONE_THREAD, SHARED

ROOT = pathlib.Path(__file__).parent.parent
BEGIN, END = "<!-- make table -->\n", "<!-- end of the table -->\n"
README = {"en": ROOT / "README.md", "zh": ROOT / "README.zh-CN.md"}
HEAD = {
    "en": "curriculum | class | file | tutorial | checked against | largest difference: TensorFlow, JAX, PyTorch",
    "zh": "课程 | 类 | 文件 | 教程 | 对照 | 最大的差：TensorFlow、JAX、PyTorch",
}
WORDS = {
    "en": {"equal": "equal", ", ": ", "},
    "zh": {"equal": "相同", ", ": "、"},
}
KERAS = {"en": "`keras.layers`, Keras's own tests", "zh": "`keras.layers`，Keras 自带的测试"}
TWIN = {
    "en": "`keras.layers` and a readable twin, Keras's own tests",
    "zh": "`keras.layers` 和一份便于阅读的写法，Keras 自带的测试",
}
TRANSFORMERS = {"en": "transformers", "zh": "transformers"}


@dataclasses.dataclass
class Row:
    """A system of the notes. `tests` are pytest's names of tests, up to where they differ in parameters."""

    en: str
    zh: str
    classes: str
    file: str
    tutorials: str
    checked: dict
    tests: str


def tasks(name, *kinds):
    return " ".join([name, *(name + kind for kind in kinds)])


ENCODER = ("MaskedLM", "SequenceClassifier", "TokenClassifier", "QuestionAnswerer")
AGREES = "models/{}.py::test_agrees_with_transformers"
# fmt: off
ROWS = [
    Row("1 **MLP**, fully connected, supervised", "1 全连接网络 **MLP**，监督学习",
        "MLP layers.Dense", "models/classic/mlp.py", "01_mlp_digits", KERAS,
        "models/classic/test_mlp.py::test_equals_the_same_network_of_keras"),
    Row("1 Unsupervised: **Autoencoder**, clusters", "1 无监督学习：自编码器 **Autoencoder**，聚类",
        "Autoencoder", "models/classic/autoencoder.py", "02_autoencoder_clusters", KERAS,
        "models/classic/test_autoencoder.py::test_equals_the_same_network_of_keras"),
    Row("1 Reinforcement: **PolicyNetwork**", "1 强化学习：策略网络 **PolicyNetwork**",
        "PolicyNetwork", "models/classic/policy.py", "03_policy_cartpole",
        {"en": "the gradient by hand", "zh": "手算的梯度"},
        "models/classic/test_policy.py::test_a_step_is_the_policy_gradient_by_hand"),
    Row("1 **Numbers → standardise → flatten**", "1 数值化 → 标准化 → 扁平化 **Numbers → standardise → flatten**",
        "layers.Flatten", "layers/reshaping.py layers/standardisation.py", "01_mlp_digits", KERAS,
        "layers/test_reshaping.py::test_flatten_same_as_keras layers/test_standardisation.py::test_equation"),
    Row("2 **CNN**", "2 卷积网络 **CNN**", "CNN", "models/classic/cnn.py", "04_cnn_digits", KERAS,
        "models/classic/test_cnn.py::test_equals_the_same_network_of_keras"),
    Row("2 **Padding**", "2 扩充 **Padding**", "layers.ZeroPadding2D", "layers/reshaping.py", "04_cnn_digits", KERAS,
        "layers/test_reshaping.py::test_zero_padding_same_as_keras"),
    Row("2 **Kernels**", "2 特征提取（卷积核）**Kernels**",
        "layers.Conv1D layers.Conv2D", "layers/convolution.py", "04_cnn_digits", TWIN,
        "layers/test_convolution.py::test_conv1d_same layers/test_convolution.py::test_conv2d_same"),
    Row("2 **Pooling**", "2 池化 **Pooling**",
        "layers.MaxPooling2D layers.AveragePooling2D", "layers/pooling.py", "04_cnn_digits", TWIN,
        "layers/test_pooling.py::test_same_as_keras layers/test_pooling.py::test_global_same_as_keras"),
    Row("3 **SimpleRNN**", "3 普通循环网络 **SimpleRNN**",
        "layers.SimpleRNN RNN", "layers/recurrent.py", "05_simple_rnn_sunspots", KERAS,
        "layers/test_recurrent.py::test_every_kind_of_output_equals_keras[SimpleRNN"),
    Row("3 **LSTM**", "3 长短期记忆网络 **LSTM**",
        "layers.LSTM RNN", "layers/recurrent.py", "06_lstm_long_memory", KERAS,
        "layers/test_recurrent.py::test_every_kind_of_output_equals_keras[LSTM"),
    Row("3 **GRU**", "3 门控循环单元 **GRU**",
        "layers.GRU RNN", "layers/recurrent.py", "07_gru_reviews", KERAS,
        "layers/test_recurrent.py::test_every_kind_of_output_equals_keras[GRU"),
    Row("4 Attention: **MultiHeadAttention**", "4 注意力机制 **MultiHeadAttention**",
        "layers.MultiHeadAttention layers.GroupQueryAttention", "layers/attention.py layers/multi_head_attention.py",
        "08_attention_by_hand", TWIN, "layers/test_multi_head_attention.py::test_same_as_keras"),
    Row("4 **Transformer**, machine translation", "4 **Transformer**，机器翻译",
        "Transformer TransformerSeq2SeqLM", "models/encoder_decoder/transformer.py", "25_transformer_translation",
        {"en": "torch.nn.Transformer", "zh": "torch.nn.Transformer"},
        "models/encoder_decoder/test_transformer.py::test_agrees_with_torch"),
    Row("5 **WordPiece** tokenizer: `input_ids`, `token_type_ids`, `attention_mask`",
        "5 **WordPiece** 分词器：`input_ids`、`token_type_ids`、`attention_mask`",
        "Tokenizer preprocessing.WordPiece preprocessing.BytePairs preprocessing.Unigram",
        "preprocessing/wordpiece.py preprocessing/byte_pairs.py preprocessing/unigram.py", "15_wordpiece",
        {"en": "tokenizers, ids on real English and Chinese text", "zh": "tokenizers，真实中英文文本上的编号"},
        "preprocessing/test_readable_tokenizers.py::test_real_text "
        "preprocessing/test_readable_tokenizers.py::test_the_notes_example"),
    Row("5 Word2Vec: **CBOW**, **Skip-Gram**", "5 词向量 Word2Vec：**CBOW**、**Skip-Gram**",
        "Word2Vec", "models/classic/word2vec.py word_vectors.py", "16_word2vec",
        {"en": "a step by hand; gensim, which opens its files", "zh": "手算的一步；gensim，能打开它的文件"},
        "models/classic/test_word2vec.py::test_step_by_hand models/classic/test_word2vec.py::test_word2vec_file"),
    Row("5 **BERT**: embedding, encoder, classification, named entities, question answering, sentence pairs",
        "5 **BERT**：嵌入、编码器、文本分类、命名实体、问答、句对",
        tasks("BERT", *ENCODER), "models/encoder/bert.py",
        "17_bert_embedding 18_masked_lm 19_classify_sentences 20_sentence_pairs 21_name_entities 22_semantic_search",
        {"en": "transformers, the real MiniLM-L6 too", "zh": "transformers，含真实的 MiniLM-L6"},
        AGREES.format("encoder/test_bert")),
    Row("6 Causal LM: **GPT**", "6 因果语言模型 **GPT**",
        "GPT2 GPT2CausalLM", "models/decoder/gpt2.py", "09_gpt_from_scratch 11_kv_cache 12_sampling", TRANSFORMERS,
        AGREES.format("decoder/test_gpt2")),
    Row("6 Causal LM: **Qwen**", "6 因果语言模型 **Qwen**",
        "Qwen2 Qwen2CausalLM Qwen3 Qwen3CausalLM", "models/decoder/qwen2.py models/decoder/qwen3.py",
        "10_llama_blocks", TRANSFORMERS,
        AGREES.format("decoder/test_qwen2") + " " + AGREES.format("decoder/test_qwen3")),
    Row("6 Causal LM: **LLaMA**", "6 因果语言模型 **LLaMA**",
        "LLaMA LLaMACausalLM", "models/decoder/llama.py", "10_llama_blocks 13_chat_with_smollm2 14_int8",
        {"en": "transformers, the real SmolLM2-135M too", "zh": "transformers，含真实的 SmolLM2-135M"},
        AGREES.format("decoder/test_llama")),
    Row("6 Causal LM: **ChatGLM**", "6 因果语言模型 **ChatGLM**",
        "ChatGLM ChatGLMCausalLM GLM GLMCausalLM GLM4 GLM4CausalLM", "models/decoder/chatglm.py models/decoder/glm.py",
        "10_llama_blocks",
        {"en": "transformers' GLM, renamed and packed", "zh": "transformers 的 GLM，改名并打包后对照"},
        AGREES.format("decoder/test_chatglm") + " " + AGREES.format("decoder/test_glm")),
    Row("6 Causal LM: **Baichuan**", "6 因果语言模型 **Baichuan**",
        "Baichuan BaichuanCausalLM", "models/decoder/baichuan.py", "10_llama_blocks",
        {"en": "transformers' LLaMA, packed; NumPy for ALiBi and NormHead",
         "zh": "transformers 的 LLaMA，打包后对照；ALiBi 和 NormHead 对照 NumPy"},
        "models/decoder/test_baichuan.py::test_agrees_with_numpy "
        "models/decoder/test_baichuan.py::test_agrees_with_llama"),
    Row("6 Masked LM: **RoBERTa** (BERT: see 5)", "6 掩码语言模型 **RoBERTa**（BERT 见第 5 节）",
        tasks("RoBERTa", *ENCODER), "models/encoder/roberta.py", "21_name_entities", TRANSFORMERS,
        AGREES.format("encoder/test_roberta")),
    Row("6 Masked LM: **LayoutLM**", "6 掩码语言模型 **LayoutLM**",
        tasks("LayoutLM", *ENCODER), "models/encoder/layoutlm.py", "23_layout_forms", TRANSFORMERS,
        AGREES.format("encoder/test_layoutlm")),
    Row("6 Masked LM: **DeBERTa**", "6 掩码语言模型 **DeBERTa**",
        tasks("DeBERTa", *ENCODER) + " " + tasks("DeBERTaV2", *ENCODER),
        "models/encoder/deberta.py models/encoder/deberta_v2.py", "24_deberta_disentangled", TRANSFORMERS,
        AGREES.format("encoder/test_deberta") + " " + AGREES.format("encoder/test_deberta_v2")),
    Row("6 Seq2Seq: **T5**", "6 序列到序列 **T5**",
        "T5 T5Seq2SeqLM", "models/encoder_decoder/t5.py", "26_t5_dates 27_t5_span_corruption", TRANSFORMERS,
        AGREES.format("encoder_decoder/test_t5")),
    Row("6 Seq2Seq: **BART**", "6 序列到序列 **BART**",
        "BART BARTSeq2SeqLM BARTSequenceClassifier", "models/encoder_decoder/bart.py", "28_bart_denoising",
        TRANSFORMERS,
        AGREES.format("encoder_decoder/test_bart") + " models/encoder_decoder/test_bart.py::test_classifier"),
    Row("6 Seq2Seq: **mT5**", "6 序列到序列 **mT5**",
        "MT5 MT5Seq2SeqLM", "models/encoder_decoder/mt5.py", "29_mt5_multilingual", TRANSFORMERS,
        AGREES.format("encoder_decoder/test_mt5")),
    Row("6 Seq2Seq: **Whisper**", "6 序列到序列 **Whisper**",
        "Whisper WhisperSeq2SeqLM", "models/encoder_decoder/whisper.py preprocessing/audio.py", "30_whisper_speech",
        {"en": "transformers, log-mel too", "zh": "transformers，含对数梅尔谱"},
        AGREES.format("encoder_decoder/test_whisper")),
]
# fmt: on


def main(backends):
    asked = [backend for backend in BACKENDS if not backends or backend in backends]
    measured = [measure(backend) for backend in asked]
    differences = [[largest(row, found) for found in measured] for row in ROWS]
    print("largest difference:", *asked)
    for row, values in zip(ROWS, differences, strict=True):
        print(*(f"{shown(value, 'en'):8}" for value in values), row.en)
    if len(asked) == len(BACKENDS):
        for language in README:
            write(language, differences)


def measure(backend):
    """{test: largest difference} of all tests that the rows name."""
    names = {"tests/" + name.partition("[")[0] for row in ROWS for name in row.tests.split()}
    functions = sorted({function for name in names for function in functions_of(name)})
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder, "differences.json")
        compiled = {**SHARED, "JAX_COMPILATION_CACHE_DIR": str(pathlib.Path(folder, "compiled"))}
        settings = {"KERAS_BACKEND": backend, "KERASNETS_DIFFERENCES": str(report)}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.differences", *functions]
        subprocess.run(command, check=True, cwd=ROOT, env={**ONE_THREAD, **compiled, **os.environ, **settings})
        return json.loads(report.read_text(encoding="utf-8"))


def functions_of(name):
    """pytest's full names of the tests whose names begin like this."""
    path, _, stem = name.partition("::")
    text = (ROOT / path).read_text(encoding="utf-8")
    found = re.findall(rf"^def ({stem}\w*)\(", text, flags=re.MULTILINE)
    if not found:
        raise ValueError(f"no test of {path} begins with {stem}")
    return [f"{path}::{function}" for function in found]


def largest(row, measured):
    names = tuple("tests/" + name for name in row.tests.split())
    values = [value for test, value in measured.items() if test.startswith(names)]
    if not values:
        raise ValueError(f"no test of the row {row.en!r} was run: {row.tests}")
    return max((value for value in values if value is not None), default=None)


def shown(value, language):
    """2.1e-6, or 0 where every bit is the same; a word where no numbers were compared, but ids."""
    if value is None:
        return WORDS[language]["equal"]
    return f"{value:.1e}".replace("e-0", "e-") if value else "0"


def cells(row, language, differences):
    words = WORDS[language]
    return [
        getattr(row, language),
        words[", "].join(f"`{name}`" for name in row.classes.split()),
        words[", "].join(f"`kerasnets/{name}`" for name in row.file.split()),
        words[", "].join(f"`tutorials/{name}.py`" for name in row.tutorials.split()),
        row.checked[language],
        words[", "].join(shown(value, language) for value in differences),
    ]


def write(language, differences):
    """The table in its place; the file is replaced when the whole of it is written."""
    lines = [f"| {HEAD[language]} |", "|" + "---|" * (HEAD[language].count("|") + 1)]
    lines += [f"| {' | '.join(cells(row, language, d))} |" for row, d in zip(ROWS, differences, strict=True)]
    before, _, rest = README[language].read_text(encoding="utf-8").partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"{README[language]} must hold the lines {BEGIN.strip()} and {END.strip()}")
    draft = README[language].with_suffix(".draft")
    draft.write_text(before + BEGIN + "\n".join(lines) + "\n" + END + after, encoding="utf-8")
    draft.replace(README[language])


if __name__ == "__main__":
    main(sys.argv[1:])
