"""The design, enforced: who imports whom, where a backend may be named, how long a file may be, what is documented.

Each rule is a function from a tree of files to a list of complaints. It is run on this project, where the list must
be empty, and on a small tree that breaks it, where it must not.
"""

import ast
import functools
import inspect
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BACKENDS = {"tensorflow", "jax", "jaxlib", "torch"}
# What the curriculum names; each has a row in both READMEs, and none has business in an equation.
LANGUAGE_MODELS = ["GPT", "Qwen", "LLaMA", "ChatGLM", "Baichuan", "BERT", "RoBERTa", "LayoutLM", "DeBERTa"]
LANGUAGE_MODELS += ["T5", "BART", "mT5", "Whisper"]
CURRICULUM = ["MLP", "Autoencoder", "PolicyNetwork", "CNN", "SimpleRNN", "LSTM", "GRU", "MultiHeadAttention"]
CURRICULUM += ["Transformer", "WordPiece", "CBOW", "Skip-Gram", *LANGUAGE_MODELS]
# Families named like an equation that layers may speak of.
ALSO_EQUATIONS = {"rnn", "transformer", "policy"}


def sources(root, folder="kerasnets"):
    return sorted((root / folder).rglob("*.py"))


@functools.cache
def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def shown(root, path, node=None):
    return f"{path.relative_to(root)}" + (f":{node.lineno}" if node else "")


def imports(path, root):
    """(node, dotted name) of each import of a file, at its top or in a function, absolute or relative, by name too."""
    package = path.relative_to(root).with_suffix("").parts[:-1]
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from ((node, a.value) for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))


def families(root):
    """The files of models/, one a family."""
    return [path for path in sources(root, "kerasnets/models") if path.stem != "__init__"]


def family_of(name, root):
    """The family's file that a dotted name lies in, or None."""
    parts = name.split(".")
    candidates = (root.joinpath(*parts[:length]).with_suffix(".py") for length in range(len(parts), 2, -1))
    return next((path for path in candidates if path in families(root)), None)


def functions(path):
    return (node for node in ast.walk(parse(path)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def length(node):
    """Lines of a function, its docstring aside: a long equation is no reproach."""
    first = node.body[0]
    is_docstring = ast.get_docstring(node) is not None
    return node.end_lineno - node.lineno + 1 - is_docstring * (first.end_lineno - first.lineno + 1)


def backend_imports(root):
    """Only backend/ imports a backend; tutorials are written for all of them."""
    for path in [*sources(root), *sources(root, "tutorials")]:
        if path.parent == root / "kerasnets" / "backend":
            continue
        for node, name in imports(path, root):
            if name.split(".")[0] in BACKENDS:
                yield f"{shown(root, path, node)} imports {name}"


def backend_files(root):
    """A backend's file imports no other backend; the files beside them import none."""
    for path in sources(root, "kerasnets/backend"):
        own = path.stem.split("_")[0]  # torch.py, and torch_recurrence.py beside it
        allowed = {own, "jaxlib"} if own == "jax" else {own}
        for node, name in imports(path, root):
            if name.split(".")[0] in BACKENDS - allowed:
                yield f"{shown(root, path, node)} imports {name}"


def top_imports(root):
    """What the wheel depends on is imported at the top of a file; the rest, being optional, where it is used."""
    allowed = {*sys.stdlib_module_names, "keras", "numpy", "kerasnets"}
    for path in sources(root):
        at_top = {id(node) for node in parse(path).body}
        also = BACKENDS if path.parent == root / "kerasnets" / "backend" else set()
        for node, name in imports(path, root):
            if id(node) in at_top and name.split(".")[0] not in allowed | also:
                yield f"{shown(root, path, node)} imports {name} at its top"


def kerasnets_first(root):
    """A script imports kerasnets before Keras: where TensorFlow is absent, `import keras` alone would ask for it."""
    for path in sources(root, "tutorials"):
        in_order = sorted(imports(path, root), key=lambda found: found[0].lineno)
        names = [name.split(".")[0] for _, name in in_order]
        if "keras" in names and "kerasnets" not in names[: names.index("keras")]:
            yield f"{shown(root, path)} imports keras first"


def backend_questions(root):
    """Only backend/ asks which backend is active: elsewhere the answer could only serve a branch."""
    for path in sources(root):
        if path.parent == root / "kerasnets" / "backend":
            continue
        for node in ast.walk(parse(path)):
            asks = isinstance(node, ast.Call) and not node.args and ast.unparse(node.func).split(".")[-1] == "backend"
            if asks or isinstance(node, ast.Constant) and node.value == "KERAS_BACKEND":
                yield f"{shown(root, path, node)} asks which backend is active"


def layer_imports(root):
    """Equations know no model and no process: of ours only layers, the backend and the guard."""
    allowed = ("kerasnets.layers", "kerasnets.backend", "kerasnets.guard")
    for path in sources(root, "kerasnets/layers"):
        for node, name in imports(path, root):
            if name.startswith("kerasnets") and not name.startswith(allowed):
                yield f"{shown(root, path, node)} imports {name}"


def process_imports(root):
    """Processes and preprocessing work for all families and import none; preprocessing needs no layer either."""
    processes = [path for path in (root / "kerasnets").glob("*.py") if path.stem not in ("__init__", "cli")]
    inputs = sources(root, "kerasnets/preprocessing")
    for path in [*processes, *inputs, *sources(root, "kerasnets/backend")]:
        banned = ("kerasnets.models", "kerasnets.layers") if path in inputs else ("kerasnets.models",)
        for node, name in imports(path, root):
            if name.startswith(banned):
                yield f"{shown(root, path, node)} imports {name}"


def family_imports(root):
    """A family is read in its own file; a variation may have one parent, and that parent has none."""

    def parents(path):
        return {family_of(name, root) for _, name in imports(path, root)} - {None, path}

    for path in families(root):
        for parent in parents(path):
            if len(parents(path)) > 1 or parents(parent):
                yield f"{shown(root, path)} imports {shown(root, parent)}: one parent, one level deep"


def family_names(root):
    """No family's name where there are equations, in generation.py or in checkpoint.py."""
    stems = {path.stem for path in families(root)} | {name.lower() for name in LANGUAGE_MODELS}
    pattern = re.compile(rf"\b({'|'.join(sorted(stems - ALSO_EQUATIONS))})\b", flags=re.IGNORECASE)
    shared = [root / "kerasnets" / name for name in ("generation.py", "checkpoint.py")]
    for path in [*sources(root, "kerasnets/layers"), *filter(Path.exists, shared)]:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if match := pattern.search(line):
                yield f"{shown(root, path)}:{number} names {match.group()}"


def sizes(root):
    """Longer means two ideas."""
    limits = {"kerasnets/layers": 200, "kerasnets/models": 300}
    for path in sources(root):
        limit = next((n for folder, n in limits.items() if path.is_relative_to(root / folder)), None)
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if limit and lines > limit:
            yield f"{shown(root, path)} has {lines} lines, {limit} are the limit"
        for node in functions(path):
            limit = 25 if node.name == "call" else 40
            if length(node) > limit:
                yield f"{shown(root, path, node)} {node.name} has {length(node)} lines, {limit} are the limit"


def leftovers(root):
    """No TODO, and no line of code that has been commented out."""
    for path in [*sources(root), *sources(root, "tutorials"), *sources(root, "benchmarks")]:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            comment = re.fullmatch(r"\s*# ?(\w[\w.]* = .*|(import|from|return|def|if|for) .*|[\w.]+\(.*\))", line)
            if "TODO" in line or "FIXME" in line or comment and is_code(comment.group(1)):
                yield f"{shown(root, path)}:{number} {line.strip()}"


def is_code(text):
    try:
        ast.parse(text.removesuffix(":") + ": pass" if text.endswith(":") else text)
    except SyntaxError:
        return False
    return True


def file_docstrings(root):
    """A file says what it is before it begins."""
    for path in [*sources(root), *sources(root, "benchmarks")]:
        if path.read_text(encoding="utf-8").strip() and not ast.get_docstring(parse(path)):
            yield f"{shown(root, path)} has no docstring"


def family_tests(root):
    """Each family has its tests where its file has its place."""
    for path in families(root):
        test = root / "tests" / path.relative_to(root / "kerasnets").with_name(f"test_{path.name}")
        if not test.exists():
            yield f"{shown(root, path)} has no {shown(root, test)}"


def readmes(root):
    return [root / "README.md", root / "README.zh-CN.md"]


def readme_files(root):
    """What a README points at is there."""
    for readme in readmes(root):
        for text in re.findall(r"`([\w./-]+\.(?:py|md|txt|toml|keras))`|\]\(([\w./-]+)\)", readme.read_text("utf-8")):
            name = "".join(text)
            if "/" in name and not name.startswith("saved_models/") and not (root / name).exists():
                yield f"{readme.name} names {name}, which does not exist"


def table_rows(readme):
    """The table of the curriculum: the cells of each row whose first cell names a system in bold."""
    lines = readme.read_text(encoding="utf-8").splitlines()
    rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| "))
    return [row for row in rows if "**" in row[0]]


def readme_rows(root):
    """Both READMEs hold the whole curriculum, and a system that is not planned any more has its class and files."""
    for readme in readmes(root):
        rows = table_rows(readme)
        named = re.findall(r"\*\*([^*]+)\*\*", " ".join(row[0] for row in rows))
        yield from (f"{readme.name} has no row for {name}" for name in CURRICULUM if name not in named)
        for row in rows:
            planned = any(cell in ("planned", "计划中") for cell in row)
            if not planned and not re.search(r"kerasnets/[\w/]+\.py", " ".join(row)):
                yield f"{readme.name}: the row {row[0]} names no file and is not planned"
    first, second = (re.findall(r"[\w/]+/\w+\.py", readme.read_text(encoding="utf-8")) for readme in readmes(root))
    yield from (f"only one README names {name}" for name in sorted(set(first) ^ set(second)))


def pins(root):
    """Every package that pyproject.toml names has its exact version in constraints.txt."""
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    pinned = re.findall(r"^([\w.-]+)==", (root / "constraints.txt").read_text(encoding="utf-8"), flags=re.MULTILINE)
    known = {name.lower().replace("_", "-") for name in [*pinned, "kerasnets"]}
    for requirement in needed:
        name = re.match(r"[\w.-]+", requirement).group().lower()
        if name not in known:
            yield f"constraints.txt has no version of {name}"


RULES = [backend_imports, backend_files, top_imports, kerasnets_first, backend_questions, layer_imports]
RULES += [process_imports, family_imports, family_names, sizes, leftovers, file_docstrings]
RULES += [family_tests, readme_files, readme_rows, pins]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(rule):
    complaints = list(rule(ROOT))
    assert not complaints, "\n".join([rule.__doc__, *complaints])


A_ROW = "| **MLP** | `MLP` | `kerasnets/models/classic/mlp.py` | planned |"
A_PROJECT = "[project]\ndependencies = ['a>=1']\noptional-dependencies = {x = ['b']}"
# (rule, {file: text} that breaks it, how often)
BROKEN = [
    (backend_imports, {"kerasnets/layers/dense.py": "def f():\n    from torch import nn"}, 1),
    (backend_imports, {"tutorials/01_x.py": "import jax.numpy as jnp, numpy"}, 1),
    (backend_imports, {"kerasnets/model.py": "import importlib\nimportlib.import_module('tensorflow')"}, 1),
    (backend_files, {"kerasnets/backend/jax.py": "import jax\nimport torch"}, 1),
    (backend_files, {"kerasnets/backend/__init__.py": "import jax"}, 1),
    (top_imports, {"kerasnets/datasets.py": "import numpy, pandas\ndef f():\n    import sklearn"}, 1),
    (
        kerasnets_first,
        {"tutorials/01_x.py": "import keras\nimport kerasnets as kn", "tutorials/02_x.py": "import keras"},
        2,
    ),
    (backend_questions, {"kerasnets/model.py": "if keras.config.backend() == 'jax':\n    pass"}, 1),
    (backend_questions, {"kerasnets/guard.py": "import os\nos.environ['KERAS_BACKEND']"}, 1),
    (layer_imports, {"kerasnets/layers/dense.py": "from kerasnets.models.classic import cnn"}, 1),
    (layer_imports, {"kerasnets/layers/dense.py": "from kerasnets import model\nfrom ..checkpoint import f"}, 2),
    (process_imports, {"kerasnets/generation.py": "import kerasnets.models.decoder.gpt2"}, 1),
    (process_imports, {"kerasnets/preprocessing/text.py": "from kerasnets.layers import Dense"}, 1),
    (process_imports, {"kerasnets/backend/jax.py": "from kerasnets.models.classic.cnn import CNN"}, 1),
    (
        family_imports,  # two parents, and a parent that has a parent
        {
            "kerasnets/models/encoder/bert.py": "from kerasnets.layers import Dense",
            "kerasnets/models/encoder/roberta.py": "from kerasnets.models.encoder.bert import BERT",
            "kerasnets/models/encoder/xlm.py": "from .roberta import RoBERTa",
            "kerasnets/models/decoder/odd.py": "from kerasnets.models.encoder import bert\nfrom ..encoder import xlm",
        },
        3,
    ),
    (family_names, {"kerasnets/layers/heads.py": "# as BERT does\nx = 1", "kerasnets/generation.py": "gpt"}, 2),
    (family_names, {"kerasnets/models/decoder/olmo.py": "", "kerasnets/checkpoint.py": "x = 'olmo'"}, 1),
    (sizes, {"kerasnets/layers/dense.py": "x = 1\n" * 201, "kerasnets/models/encoder/bert.py": "x = 1\n" * 301}, 2),
    (sizes, {"kerasnets/model.py": "def call():\n" + "    x = 1\n" * 25}, 1),
    (sizes, {"kerasnets/model.py": "def f():\n" + "    x = 1\n" * 40}, 1),
    (leftovers, {"kerasnets/model.py": "# x = f(1)\n# return x\n# the equation: y = x W\n# TODO: more\n"}, 3),
    (file_docstrings, {"kerasnets/model.py": "x = 1"}, 1),
    (family_tests, {"kerasnets/models/encoder/bert.py": "", "tests/models/decoder/test_bert.py": ""}, 1),
    (readme_files, {"README.md": "`kerasnets/no.py` [a](docs/b)", "README.zh-CN.md": "`tutorials/01_no.py`"}, 3),
    (readme_rows, {"README.md": A_ROW, "README.zh-CN.md": A_ROW}, 2 * (len(CURRICULUM) - 1)),
    (pins, {"pyproject.toml": A_PROJECT, "constraints.txt": "a==1\nbb==1"}, 1),
]


@pytest.mark.parametrize(("rule", "files", "times"), BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_rule_catches(tmp_path, rule, files, times):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    complaints = list(rule(tmp_path))
    assert len(complaints) == times, complaints


def public_objects():
    import kerasnets

    for module in (kerasnets, kerasnets.layers):
        for name in module.__all__:
            yield f"{module.__name__}.{name}", getattr(module, name)


def test_all_names_are_sorted_and_there():
    import kerasnets

    for module in (kerasnets, kerasnets.layers):
        assert list(module.__all__) == sorted(module.__all__), module.__name__
        assert all(hasattr(module, name) for name in module.__all__)


def test_what_is_public_is_documented():
    """A docstring of its own: an inherited one describes something else."""
    silent = [name for name, thing in public_objects() if not own_docstring(thing)]
    assert not silent
    modules = [name for name in sys.modules if name.startswith("kerasnets.")]
    assert modules
    for name in modules:
        for attribute, thing in vars(sys.modules[name]).items():
            is_ours = inspect.isclass(thing) and thing.__module__ == name
            assert not is_ours or own_docstring(thing), f"{name}.{attribute} has no docstring"


def own_docstring(thing):
    return vars(thing).get("__doc__") if inspect.isclass(thing) else inspect.getdoc(thing)
