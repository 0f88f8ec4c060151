"""What the files of all encoders have in common: fields of config.json, names of tensors, tasks, labels."""

from kerasnets.checkpoint import transposed

FIELDS = {  # in config.json: in a family's `Config`
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "feedforward_size",
    "max_position_embeddings": "max_length",
    "hidden_act": "activation",
    "layer_norm_eps": "epsilon",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
}
REGRESSION, ONE, SEVERAL = PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")


def read_labels(fields, config):
    """What config.json says of the labels; their names are left out where they are only numbered."""
    names = fields.get("id2label")
    count = fields.get("num_labels", fields.get("_num_labels", 2 if names is None else len(names)))
    found = {"num_labels": count, "labels": None, "problem_type": fields.text("problem_type", (None, *PROBLEMS), None)}
    if names is None:
        return config | found
    numbered = isinstance(names, dict) and sorted(map(str, names)) == sorted(map(str, range(len(names))))
    if not numbered or count != len(names):
        fields.refuse(f"id2label must name the labels 0, 1, 2, … of num_labels; it is {names!r}")
        return config | found
    labels = tuple(str({str(i): name for i, name in names.items()}[str(i)]) for i in range(count))
    is_plain = labels == tuple(f"LABEL_{i}" for i in range(count))
    return config | found | {"labels": None if is_plain else labels}


def write_labels(config, values):
    names = config.labels or [f"LABEL_{i}" for i in range(config.num_labels)]
    values |= {"id2label": {str(i): name for i, name in enumerate(names)}}
    values |= {"label2id": {name: i for i, name in enumerate(names)}}
    return values | ({"problem_type": config.problem_type} if config.problem_type else {})


def pooler_or_not(tensors, config):
    """Whether the files hold a pooler, which config.json does not say."""
    return {"has_pooler": any("pooler." in name for name in tensors.names())}


SIZES = ("num_layers", "hidden_size", "num_heads", "feedforward_size")


def sizes(*numbers, **changes):
    """One line of a table of presets: the numbers of `SIZES`."""
    return dict(zip(SIZES, numbers, strict=True)) | changes


def layer(theirs, ours):
    """The rows of a torch Linear."""
    return [(f"{theirs}.weight", f"{ours}.kernel", transposed), (f"{theirs}.bias", f"{ours}.bias")]


def norm(theirs, ours):
    """The rows of a norm."""
    return [(f"{theirs}.weight", f"{ours}.gamma"), (f"{theirs}.bias", f"{ours}.beta")]


def masked_lm_rows(dense, normed, bias):
    """The rows of a masked LM's head, whose layer, norm and bias have these names."""
    return [*layer(dense, "head.dense"), *norm(normed, "head.norm"), (bias, "head.bias")]


def architectures(*stems):
    """{name in config.json: task} of the families whose classes begin with one of `stems`."""
    tasks = {
        "Model": "backbone",
        "ForMaskedLM": "masked_lm",
        "ForSequenceClassification": "sequence_classifier",
        "ForTokenClassification": "token_classifier",
        "ForQuestionAnswering": "question_answerer",
    }
    return {stem + name: task for stem in stems for name, task in tasks.items()}


def tasks(*classes):
    """{task: class} of a family's five classes."""
    return dict(zip(architectures("").values(), classes, strict=True))
