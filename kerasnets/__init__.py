"""Every classic network of the curriculum, written once on Keras 3 for TensorFlow, JAX and PyTorch.

    import kerasnets as kn

    model = kn.CNN(num_classes=10)
    layer = kn.layers.LSTM(64, return_sequences=True)

The backend is the one in `KERAS_BACKEND` or `~/.keras/keras.json`; where that names none that is installed, it is the
first one installed of TensorFlow, JAX and PyTorch.
"""

from kerasnets.backend import select as _select

_select.choose_backend()

from kerasnets import datasets, layers, losses, optimizers, preprocessing, samplers  # noqa: E402
from kerasnets.checkpoint import from_pretrained, to_pretrained  # noqa: E402
from kerasnets.guard import guarded, set_guard  # noqa: E402
from kerasnets.model import Model, Sequential  # noqa: E402
from kerasnets.models.classic.autoencoder import Autoencoder  # noqa: E402
from kerasnets.models.classic.cnn import CNN  # noqa: E402
from kerasnets.models.classic.mlp import MLP  # noqa: E402
from kerasnets.models.classic.policy import PolicyNetwork  # noqa: E402
from kerasnets.models.classic.rnn import RNN  # noqa: E402
from kerasnets.models.classic.word2vec import Word2Vec  # noqa: E402
from kerasnets.models.decoder.baichuan import Baichuan, BaichuanCausalLM  # noqa: E402
from kerasnets.models.decoder.chatglm import ChatGLM, ChatGLMCausalLM  # noqa: E402
from kerasnets.models.decoder.glm import GLM, GLM4, GLM4CausalLM, GLMCausalLM  # noqa: E402
from kerasnets.models.decoder.gpt2 import GPT2, GPT2CausalLM  # noqa: E402
from kerasnets.models.decoder.llama import LLaMA, LLaMACausalLM  # noqa: E402
from kerasnets.models.decoder.qwen2 import Qwen2, Qwen2CausalLM  # noqa: E402
from kerasnets.models.decoder.qwen3 import Qwen3, Qwen3CausalLM  # noqa: E402
from kerasnets.models.encoder.bert import (  # noqa: E402
    BERT,
    BERTMaskedLM,
    BERTQuestionAnswerer,
    BERTSequenceClassifier,
    BERTTokenClassifier,
)
from kerasnets.models.encoder.deberta import (  # noqa: E402
    DeBERTa,
    DeBERTaMaskedLM,
    DeBERTaQuestionAnswerer,
    DeBERTaSequenceClassifier,
    DeBERTaTokenClassifier,
)
from kerasnets.models.encoder.deberta_v2 import (  # noqa: E402
    DeBERTaV2,
    DeBERTaV2MaskedLM,
    DeBERTaV2QuestionAnswerer,
    DeBERTaV2SequenceClassifier,
    DeBERTaV2TokenClassifier,
)
from kerasnets.models.encoder.layoutlm import (  # noqa: E402
    LayoutLM,
    LayoutLMMaskedLM,
    LayoutLMQuestionAnswerer,
    LayoutLMSequenceClassifier,
    LayoutLMTokenClassifier,
)
from kerasnets.models.encoder.roberta import (  # noqa: E402
    RoBERTa,
    RoBERTaMaskedLM,
    RoBERTaQuestionAnswerer,
    RoBERTaSequenceClassifier,
    RoBERTaTokenClassifier,
)
from kerasnets.models.encoder_decoder.bart import BART, BARTSeq2SeqLM, BARTSequenceClassifier  # noqa: E402
from kerasnets.models.encoder_decoder.mt5 import MT5, MT5Seq2SeqLM  # noqa: E402
from kerasnets.models.encoder_decoder.t5 import T5, T5Seq2SeqLM  # noqa: E402
from kerasnets.models.encoder_decoder.transformer import Transformer, TransformerSeq2SeqLM, WarmUp  # noqa: E402
from kerasnets.models.encoder_decoder.whisper import Whisper, WhisperSeq2SeqLM  # noqa: E402
from kerasnets.preprocessing.tokenizer import Tokenizer  # noqa: E402
from kerasnets.quantization import quantize  # noqa: E402
from kerasnets.rewriting import rewrite  # noqa: E402
from kerasnets.speech import transcribe  # noqa: E402
from kerasnets.text import answer, classify, embed, fill_mask, tag  # noqa: E402
from kerasnets.trace import trace  # noqa: E402

__version__ = "0.1.0"

__all__ = [
    "Autoencoder",
    "BART",
    "BARTSeq2SeqLM",
    "BARTSequenceClassifier",
    "BERT",
    "BERTMaskedLM",
    "BERTQuestionAnswerer",
    "BERTSequenceClassifier",
    "BERTTokenClassifier",
    "Baichuan",
    "BaichuanCausalLM",
    "CNN",
    "ChatGLM",
    "ChatGLMCausalLM",
    "DeBERTa",
    "DeBERTaMaskedLM",
    "DeBERTaQuestionAnswerer",
    "DeBERTaSequenceClassifier",
    "DeBERTaTokenClassifier",
    "DeBERTaV2",
    "DeBERTaV2MaskedLM",
    "DeBERTaV2QuestionAnswerer",
    "DeBERTaV2SequenceClassifier",
    "DeBERTaV2TokenClassifier",
    "GLM",
    "GLM4",
    "GLM4CausalLM",
    "GLMCausalLM",
    "GPT2",
    "GPT2CausalLM",
    "LLaMA",
    "LLaMACausalLM",
    "LayoutLM",
    "LayoutLMMaskedLM",
    "LayoutLMQuestionAnswerer",
    "LayoutLMSequenceClassifier",
    "LayoutLMTokenClassifier",
    "MLP",
    "MT5",
    "MT5Seq2SeqLM",
    "Model",
    "PolicyNetwork",
    "Qwen2",
    "Qwen2CausalLM",
    "Qwen3",
    "Qwen3CausalLM",
    "RNN",
    "RoBERTa",
    "RoBERTaMaskedLM",
    "RoBERTaQuestionAnswerer",
    "RoBERTaSequenceClassifier",
    "RoBERTaTokenClassifier",
    "Sequential",
    "T5",
    "T5Seq2SeqLM",
    "Tokenizer",
    "Transformer",
    "TransformerSeq2SeqLM",
    "WarmUp",
    "Whisper",
    "WhisperSeq2SeqLM",
    "Word2Vec",
    "answer",
    "classify",
    "datasets",
    "embed",
    "fill_mask",
    "from_pretrained",
    "guarded",
    "layers",
    "losses",
    "optimizers",
    "preprocessing",
    "quantize",
    "rewrite",
    "samplers",
    "set_guard",
    "tag",
    "to_pretrained",
    "trace",
    "transcribe",
]
