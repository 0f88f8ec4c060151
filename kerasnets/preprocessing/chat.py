"""Chat templates: from messages to the text that a model was trained to continue.

A template comes with a checkpoint and is a program in Jinja. It runs in Jinja's sandbox, which refuses what leads out
of it, and sees nothing but texts, numbers, lists and dicts.
"""

import datetime
import functools
import json

from kerasnets.preprocessing.tokenizer_kinds import library

LARGEST = 10**6  # of what a template may multiply


def render(template, messages, **variables):
    """The text of `messages`, [{"role": …, "content": …}, …], by `template`; `variables` are what else it may ask for.

    Raises `ValueError` for messages that are not of this form, and for a template that fails or leaves the sandbox.
    """
    if not isinstance(messages, (list, tuple)) or not messages or not all(isinstance(m, dict) for m in messages):
        form = '[{"role": …, "content": …}, …]'
        raise ValueError(f"chat: messages must be a list of dicts, {form}; received {messages!r:.200}.")
    messages = [{key: value for key, value in message.items() if value is not None} for message in messages]
    try:
        messages, variables = json.loads(json.dumps([messages, variables]))
    except (TypeError, ValueError) as error:
        raise ValueError(f"chat: messages are texts, numbers, lists and dicts: {error}") from None
    compile_template = compiled(library("jinja2"))
    try:
        return compile_template(template).render(messages=messages, **variables)
    except Exception as error:  # of the template's own making, so it may be any
        raise ValueError(f"the chat template fails: {type(error).__name__}: {error}") from None


@functools.cache
def compiled(jinja2):
    """What turns a template's text into a template; each text is compiled once."""
    import jinja2.ext
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        """{% generation %} … {% endgeneration %} marks the assistant's words for training; here it changes nothing."""

        tags = {"generation"}

        def parse(self, parser):
            next(parser.stream)
            return parser.parse_statements(["name:endgeneration"], drop_needle=True)

    class Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(("*", "**"))

        def call_binop(self, context, operator, left, right):
            """A product is no way to fill the memory either."""
            sizes = [len(x) if hasattr(x, "__len__") else abs(x) for x in (left, right)]
            if operator == "*" and sizes[0] * sizes[1] > LARGEST or operator == "**" and max(sizes) > 64:
                raise OverflowError(f"the result of {operator} would be too large")
            return super().call_binop(context, operator, left, right)

        def unsafe_undefined(self, obj, attribute):  # Jinja's own would print nothing and go on
            raise jinja2.exceptions.SecurityError(f"{attribute!r} of {type(obj).__name__} leads out of the sandbox")

    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return functools.lru_cache(32)(environment.from_string)


def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    """JSON as it is; Jinja's own filter would escape it for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def chosen(templates, name):
    """The template of a name among several, which files hold as a dict or as a list of {"name", "template"}."""
    if isinstance(templates, list):
        templates = {entry["name"]: entry["template"] for entry in templates}
    if isinstance(templates, dict):
        if name not in templates:
            raise ValueError(f"chat: there are the templates {sorted(templates)}, none is named {name!r}.")
        return templates[name]
    return templates
