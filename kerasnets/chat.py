"""Text from a checkpoint on the terminal: `kerasnets generate SOURCE PROMPT` and `kerasnets chat SOURCE`.

The words appear as they are written. What was written so far is decoded as a whole and its new part shown, because one
character may take several tokens, and a word may begin with a space only behind another one.
"""

import sys
import time
import types
from typing import Annotated

import kerasnets as kn

HELP = "/explain: why the last answer has these words · /reset: begin anew · /exit: leave · Ctrl-C: stop an answer"
WRITING = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "seed", "quantize")  # options of both commands
GENERATE, CHAT = (*WRITING, "explain"), (*WRITING, "system")
HALF = "\ufffd"  # what a decoder gives for a character whose last bytes have not come


class Writer:
    """A model and its tokenizer, how they are to write, and what was written last: `ids`, `seconds` of each."""

    def __init__(self, source, quantize=None, max_new_tokens=256, seed=0, **sampling):
        self.settings = {"max_new_tokens": max_new_tokens, "sampler": sampler_of(**sampling), "seed": seed}
        self.tokenizer = kn.Tokenizer.from_pretrained(source)
        self.model = kn.from_pretrained(source, quantize=quantize)
        if not hasattr(self.model, "stream"):
            raise ValueError(f"{source}: {type(self.model).__name__} writes no text.")
        if not getattr(self.model.config, "eos_token_id", None) and self.tokenizer.eos_token_id is not None:
            self.settings["stop_tokens"] = (self.tokenizer.eos_token_id,)
        self.prompt, self.ids, self.seconds = [], [], []

    def write(self, prompt, before=()):
        """Show what follows the ids of `prompt` as it comes, and return it; Ctrl-C ends it where it is.

        before: ids whose text stands there already.
        """
        self.prompt, self.ids, self.seconds = list(prompt), [], []
        shown, start = len(self.tokenizer.decode(list(before))), time.perf_counter()
        beginning = shown
        try:
            for (token,) in self.model.stream([self.prompt], **self.settings):
                self.ids.append(int(token))
                self.seconds.append(time.perf_counter() - start)
                text = self.tokenizer.decode([*before, *self.ids])
                if not text.endswith(HALF):
                    print(text[shown:], end="", flush=True)
                    shown = len(text)
        except KeyboardInterrupt:
            print(" …", end="")
        text = self.tokenizer.decode([*before, *self.ids])
        print(text[shown:])
        return text[beginning:]

    def speed(self):
        """How fast that was, in words."""
        if not self.seconds:
            return "no token"
        first, last, more = self.seconds[0], self.seconds[-1], len(self.seconds) - 1
        later = f", then {more / (last - first):.1f} tokens/s" if more else ""
        return f"{len(self.seconds)} tokens, the first after {first:.2f} s{later}"

    def explain(self):
        """A table of why each of the last ids was written; they are written again, which gives the same."""
        from kerasnets import explain

        settings = self.settings | {"max_new_tokens": len(self.ids), "explain": True}
        return explain.table(self.model.stream([self.prompt], **settings), self.tokenizer)


def sampler_of(temperature=None, top_k=None, top_p=None, min_p=None):
    """The samplers that the options ask for; the most probable token always, where there are none."""
    samplers = kn.samplers
    kinds = ((samplers.TopK, top_k), (samplers.TopP, top_p), (samplers.MinP, min_p))
    found = [kind(value) for kind, value in kinds if value is not None]
    if temperature == 0:
        if found:
            raise ValueError("temperature 0 always takes the most probable token: leave top-k, top-p and min-p out.")
        return samplers.Greedy()
    if temperature is not None:
        found.insert(0, samplers.Temperature(temperature))
    return tuple(found) or samplers.Greedy()


def generate(source, prompt, explain=False, **options):
    """Print a prompt and what follows it, or what an encoder–decoder makes of it; the exit status."""
    writer = Writer(source, **options)
    ids = writer.tokenizer.encode(prompt)
    continues = not hasattr(writer.model, "remember_source")
    if continues:
        print(writer.tokenizer.decode(ids), end="", flush=True)
    writer.write(ids, before=ids if continues else ())
    tell(writer.speed())
    if explain and writer.ids:
        show(writer.explain())
    return 0


def chat(source, system=None, **options):
    """Talk until /exit or the end of the input; the exit status."""
    writer = Writer(source, **options)
    begin = [] if system is None else [{"role": "system", "content": system}]
    writer.tokenizer.chat([*begin, {"role": "user", "content": "?"}])  # or an error, before anyone has asked anything
    messages = list(begin)
    tell(HELP)
    while True:
        try:
            words = input("> ").strip()
        except EOFError:
            return 0
        except KeyboardInterrupt:
            tell("\n/exit leaves")
            continue
        if words == "/exit":
            return 0
        if words == "/reset":
            messages = list(begin)
            tell("What was said is forgotten.")
        elif words == "/explain" and writer.ids:
            show(writer.explain())
        elif words.startswith("/"):
            tell(HELP)
        elif words:
            messages = answered(writer, [*messages, {"role": "user", "content": words}])


def answered(writer, messages):
    """The messages and the answer to the last of them, which is shown; the oldest are forgotten where room is short."""
    limit = getattr(writer.model.config, "max_length", None)
    while True:
        ids = writer.tokenizer.chat(messages, add_generation_prompt=True)
        oldest = next(i for i, message in enumerate(messages) if message["role"] == "user")
        if limit is None or len(ids) + writer.settings["max_new_tokens"] <= limit or oldest == len(messages) - 1:
            break
        messages = [*messages[:oldest], *messages[oldest + 2 :]]
        tell("The oldest question and its answer are forgotten, or the conversation would be too long.")
    try:
        answer = writer.write(ids)
    except ValueError as error:
        tell(str(error))
        return messages[:-1]
    tell(writer.speed())
    return [*messages, {"role": "assistant", "content": answer}]


def tell(words):
    """A line that is no text of the model's."""
    from rich.console import Console

    Console(stderr=True, markup=False, emoji=False, highlight=False).print(words, style="dim")


def show(table):
    """A table as wide as the terminal."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 200).print(table)


def status_of(command, *arguments, **options):
    """The command's exit status, 1 with one line for what cannot be loaded or written."""
    try:
        return command(*arguments, **options)
    except (ImportError, OSError, ValueError) as error:
        tell(str(error))
        return 1


def typed(options):
    """Options as they are typed."""
    flags = {f"--{name.replace('_', '-')}": value for name, value in options.items()}
    flags = {flag: value for flag, value in flags.items() if value is not None and value is not False}
    return [part for flag, value in flags.items() for part in ([flag] if value is True else [flag, str(value)])]


def add_commands(app, run, Source, Backend):
    """`generate` and `chat` for typer's app; `run(command, backend, *arguments)` runs them on a backend."""
    kinds = options(Source, Backend)
    add_generate(app, run, kinds)
    add_chat(app, run, kinds)


def options(Source, Backend):
    """The annotations of the commands' options."""
    import typer

    def option(kind, words, **limits):
        return Annotated[kind, typer.Option(help=words, **limits)]

    return types.SimpleNamespace(
        Source=Source,
        Backend=Backend,
        Prompt=Annotated[str, typer.Argument(help="The text to continue.")],
        New=option(int, "At most so many tokens are written.", min=1),
        Temperature=option(float | None, "Below 1 likely tokens become likelier; 0: always the likeliest.", min=0),
        TopK=option(int | None, "Draw from the K likeliest tokens.", min=1),
        TopP=option(float | None, "Draw from the likeliest that together have P."),
        MinP=option(float | None, "Draw from those at least P times as likely as the likeliest."),
        Seed=option(int, "Another seed, another text, where tokens are drawn."),
        Explain=Annotated[bool, typer.Option("--explain", help="Say why each token was written.")],
        System=option(str | None, "What the model is told before anything else."),
        Quantize=option(str | None, "int8: the weights in 8 bits."),
    )


def add_generate(app, run, kinds):
    @app.command("generate", help="Continue a prompt, or write what a model makes of a text.")
    def command(
        source: kinds.Source,
        prompt: kinds.Prompt,
        max_new_tokens: kinds.New = 64,
        temperature: kinds.Temperature = None,
        top_k: kinds.TopK = None,
        top_p: kinds.TopP = None,
        min_p: kinds.MinP = None,
        seed: kinds.Seed = 0,
        explain: kinds.Explain = False,
        quantize: kinds.Quantize = None,
        backend: kinds.Backend = None,
    ):
        given = {name: value for name, value in locals().items() if name in GENERATE}
        arguments = ("generate", *typed(given), "--", source, prompt)
        run(lambda: status_of(generate, source, prompt, **given), backend, *arguments)


def add_chat(app, run, kinds):
    @app.command("chat", help="Talk with a model that has a chat template. " + HELP)
    def command(
        source: kinds.Source,
        system: kinds.System = None,
        max_new_tokens: kinds.New = 256,
        temperature: kinds.Temperature = None,
        top_k: kinds.TopK = None,
        top_p: kinds.TopP = None,
        min_p: kinds.MinP = None,
        seed: kinds.Seed = 0,
        quantize: kinds.Quantize = None,
        backend: kinds.Backend = None,
    ):
        given = {name: value for name, value in locals().items() if name in CHAT}
        arguments = ("chat", *typed(given), "--", source)
        run(lambda: status_of(chat, source, **given), backend, *arguments)
