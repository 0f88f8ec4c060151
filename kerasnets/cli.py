"""The command line: `kerasnets list`, `inspect FOLDER`, `tag FOLDER TEXT …`; `python -m kerasnets.cli` is the same.

`inspect` says whether `kn.from_pretrained` would take a checkpoint, and everything that it would refuse. It makes the
model of weights that have a shape and no numbers, within a `keras.StatelessScope`, so that a checkpoint larger than the
memory can be looked at; of the files it reads the headers, and those tensors that must be equal to one another.
"""

import ast
import json
import math
import pathlib
import re
import sys
from typing import Annotated

import keras

import kerasnets as kn
from kerasnets import chat, checkpoint, formats
from kerasnets.backend.select import elsewhere  # Keras is there already: another backend takes another process
from kerasnets.trace import joined, paths

THIS = ("-m", "kerasnets.cli")
VERBS = {
    "embed": "A vector for each text.",
    "fill_mask": "What may stand in place of each [MASK], or as the tokenizer calls it.",
    "classify": "Of which kind each text is.",
    "tag": "The names in each text.",
    "answer": "Where each text answers the question, which is the first of the texts.",
}


def main():
    """The program `kerasnets`."""
    try:
        app = make_app()
    except ModuleNotFoundError as error:
        sys.exit(f"The command line of kerasnets needs {error.name}: pip install 'kerasnets[hub]'")
    app()


def make_app():
    """The commands, for typer."""
    import rich  # noqa: F401  missed here, if it is missing, and not in the middle of a command
    import typer

    app = typer.Typer(name="kerasnets", no_args_is_help=True, add_completion=False, help=kn.__doc__.splitlines()[0])
    Backend = Annotated[str | None, typer.Option(help="tensorflow, jax or torch; else the usual one.")]
    Task = Annotated[str | None, typer.Option(help="backbone, causal_lm, …; else what config.json says.")]
    Source = Annotated[str, typer.Argument(help="A folder with config.json and tensors, a GGUF file, or a hub id.")]

    def say_version(wanted: bool):
        if wanted:
            print(f"kerasnets {kn.__version__}")
            raise typer.Exit

    Version = Annotated[bool, typer.Option("--version", callback=say_version, is_eager=True, help="Say it and stop.")]

    @app.callback()
    def options(version: Version = False):
        pass

    def run(command, backend, *arguments):
        try:
            status = elsewhere(backend, *THIS, *arguments)
        except (ImportError, ValueError) as error:
            raise typer.BadParameter(str(error)) from None
        raise typer.Exit(command() if status is None else status)

    @app.command("list", help="Families with their model types, tasks and presets; layers; tutorials.")
    def list_command(backend: Backend = None):
        run(list_all, backend, "list")

    @app.command("inspect", help="What a checkpoint holds and which weight each tensor is; status 1 if it is refused.")
    def inspect_command(source: Source, task: Task = None, backend: Backend = None):
        run(lambda: inspect(source, task), backend, "inspect", *(["--task", task] if task else []), "--", source)

    for verb, about in VERBS.items():
        add_verb(app, verb, about, run, Source, Backend)
    add_transcribe(app, run, Backend)
    chat.add_commands(app, run, Source, Backend)
    return app


def add_transcribe(app, run, Backend):
    """The command that writes down what is said in a file."""
    import typer

    File = Annotated[str, typer.Argument(help="A sound: WAV, FLAC or what else libsndfile reads.")]
    Model = Annotated[str, typer.Option(help="A folder with a model of speech and its tokenizer, or a hub id.")]
    Language = Annotated[str | None, typer.Option(help="A code such as zh; else the one that is heard.")]
    Translate = Annotated[bool, typer.Option("--translate", help="Write English, whatever is spoken.")]

    @app.command("transcribe", help="What is said in a file, a line for each segment: start, end, text.")
    def command(
        file: File, model: Model, language: Language = None, translate: Translate = False, backend: Backend = None
    ):
        task = "translate" if translate else "transcribe"
        more = [*(["--language", language] if language else []), *(["--translate"] if translate else [])]
        run(lambda: transcribe(file, model, language, task), backend, "transcribe", "--model", model, *more, "--", file)


def transcribe(file, source, language, task):
    """Print the segments; the exit status."""
    try:
        model, tokenizer = kn.from_pretrained(source), kn.Tokenizer.from_pretrained(source)
        said = kn.transcribe(model, tokenizer, file, language, task)
    except (ImportError, OSError, ValueError) as error:
        return refuse([str(error)])
    for segment in said["segments"]:
        print(f"{segment['start']:8.2f} {segment['end']:8.2f}  {segment['text']}")
    return 0


def add_verb(app, verb, about, run, Source, Backend):
    """A command that does with texts what `kn.verb` does, one JSON value for each on a line of its own."""
    import typer

    Texts = Annotated[list[str] | None, typer.Argument(help="The texts; without any, the lines of the standard input.")]
    name = verb.replace("_", "-")

    @app.command(name, help=about)
    def command(source: Source, texts: Texts = None, backend: Backend = None):
        given = texts or sys.stdin.read().splitlines()
        run(lambda: tell(verb, source, given), backend, name, "--", source, *given)


def tell(verb, source, texts):
    """Print what `kn.verb` makes of the texts; the exit status."""
    try:
        model = kn.from_pretrained(source, "backbone" if verb == "embed" else None)
        tokenizer = kn.Tokenizer.from_pretrained(source)
        texts = ([texts[0]] * len(texts[1:]), texts[1:]) if verb == "answer" and texts else (texts,)
        results = getattr(kn, verb)(model, tokenizer, *texts)
    except (ImportError, OSError, ValueError) as error:
        return refuse([str(error)])
    for result in results:
        print(json.dumps(result.tolist() if verb == "embed" else result, ensure_ascii=False))
    return 0


def console():
    """Text as it is, on a terminal as wide as that is."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 200
    return Console(width=width, markup=False, emoji=False, highlight=False)


def show_table(title, header, rows):
    """A table whose cells are folded, never cut."""
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console().print(title, style="bold underline")
    console().print(table, "")


def list_all():
    """Print what there is; the exit status."""
    rows = [family_row(family) for family in registered()]
    show_table("Families with checkpoints", ("family", "model types", "tasks", "presets"), rows)
    classic = [model for model in map(vars(kn).get, kn.__all__) if is_classic(model)]
    rows = [(model.__name__, ", ".join(model.presets) or "-", first_line(model)) for model in classic]
    show_table("Classic networks", ("model", "presets", ""), rows)
    layers = [(name, first_line(getattr(kn.layers, name))) for name in kn.layers.__all__]
    show_table("Layers, kn.layers", ("layer", ""), layers)
    folder = pathlib.Path(kn.__file__).parents[1] / "tutorials"
    if folder.is_dir():
        rows = [(path.name, title_of(path)) for path in sorted(folder.glob("[0-9]*.py"))]
        show_table(f"Tutorials, {folder}", ("file", ""), rows)
    return 0


def registered():
    """Each family once."""
    return list({id(family): family for found in checkpoint.FAMILIES.values() for family in found}.values())


def family_row(family):
    tasks = ", ".join(f"{task}: {model.__name__}" for task, model in family.tasks.items())
    backbone = family.tasks["backbone"]
    return backbone.__name__, ", ".join(family.model_types), tasks, ", ".join(backbone.presets) or "-"


def is_classic(thing):
    is_model = isinstance(thing, type) and issubclass(thing, kn.Model)
    return is_model and thing is not kn.Model and getattr(thing, "family", None) is None


def first_line(thing):
    return (thing.__doc__ or "").strip().split("\n")[0]


def title_of(tutorial):
    """The first heading of a tutorial, or the first line of its docstring."""
    text = tutorial.read_text(encoding="utf-8")
    heading = re.search(r"^# # (.+)$", text, flags=re.MULTILINE)
    return heading.group(1) if heading else (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]


def inspect(source, task=None):
    """Print what a checkpoint holds, and all that is refused; the exit status, 1 if anything is."""
    try:
        values, tensors = formats.opened(source)
    except (ImportError, OSError, ValueError) as error:
        return refuse([str(error)])
    try:
        with keras.StatelessScope(initialize_variables=False):
            model = checkpoint.described(values, tensors, source, task)
            rows, names, problems = checkpoint.compared(model, tensors)
    except ValueError as error:
        show_config("config.json", values)
        show_tensors(tensors, {}, [])
        return refuse([str(error)])
    show_config(f"{type(model).__name__}: {values['model_type']}, {model.task}", vars(model.config))
    places = weight_places(model)
    weights_of = {
        names[name]: [describe(w, places) for w in weights] for name, (_, weights) in rows.items() if name in names
    }
    show_tensors(tensors, weights_of, problems)
    show_sizes(model, tensors)
    return refuse(problems)


def refuse(problems):
    """Print why a checkpoint would be refused; the exit status."""
    heading = f"Refused, {len(problems)} problem{'s' * (len(problems) > 1)}:" if problems else "Nothing is refused."
    console().print("\n  ".join([heading, *problems]))
    return int(bool(problems))


def show_config(title, values):
    show_table(title, ("field", "value"), [(name, str(value)) for name, value in values.items()])


def weight_places(model):
    """{id of a weight: the path to it, as `blocks.0.attention.out.kernel`}."""
    layers = {id(layer): layer for layer in model._flatten_layers()}
    found = {}
    for layer, path in {id(model): "", **paths(model)}.items():  # from outside in: the innermost layer has the last say
        found |= {id(weight): joined(path, weight.name) for weight in layers[layer].weights}
    return found


def describe(weight, places):
    return f"{places.get(id(weight), weight.path)} {shape_of(weight.shape)}"


def shape_of(shape):
    return "×".join(map(str, shape)) or "scalar"


def show_tensors(tensors, weights_of, problems):
    """Each tensor of the files and the weights that it becomes."""
    rows = []
    for name in tensors.names():
        label = tensors.label(name)
        weights = "\n".join(weights_of.get(name, ["-" if not weights_of else "not needed"]))
        weights = "refused" if f"not expected: {label}" in problems else weights
        rows.append((label, shape_of(tensors.shape(name)), tensors.stored[name], weights))
    show_table(f"{len(rows)} tensors", ("in the file", "shape", "stored as", "in the model"), rows)


def show_sizes(model, tensors):
    """Parameters, the memory they take, and what the files take."""
    count = sum(math.prod(weight.shape) for weight in model.weights)
    memory = sum(math.prod(weight.shape) * bits(weight.dtype) // 8 for weight in model.weights)
    files = sum(path.stat().st_size for path in set(tensors.found.values()))
    dtypes = ", ".join(sorted({weight.dtype for weight in model.weights}))
    console().print(
        f"{count:,} parameters, {memory / 1e6:,.1f} MB of memory as {dtypes}; {files / 1e6:,.1f} MB of files"
    )


def bits(dtype):
    """float32: 32."""
    return int(re.search(r"\d+", dtype).group())


if __name__ == "__main__":
    main()
