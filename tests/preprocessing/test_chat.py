"""Chat templates: the texts and ids of the reference, and nothing that leads out of the sandbox."""

import json
import pathlib

import pytest

import kerasnets as kn
from kerasnets import guard
from kerasnets.preprocessing import chat

tokenizers = pytest.importorskip("tokenizers", reason="tokenizers do the cutting")
pytest.importorskip("jinja2", reason="templates are written in Jinja")

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = """{% if messages[0]['role'] == 'system' %}
    {% set loop_messages = messages[1:] %}
    {% set system_message = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}
{% else %}
    {% set loop_messages = messages %}
    {% set system_message = '' %}
{% endif %}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- set content = system_message + message['content'] if loop.index0 == 0 else message['content'] %}
    {%- if message['role'] == 'user' %}
        {{- bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + content.strip() + ' ' + eos_token }}
    {%- endif %}
{%- endfor %}"""
LLAMA3 = """{{- bos_token }}
{%- set ns = namespace(date=strftime_now("%d %b %Y"), count=0) %}
{%- for message in messages %}
    {%- set ns.count = ns.count + 1 %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- if ns.count > 50 %}{% break %}{% endif %}
{%- endfor %}
{%- if tools is not none %}{{- "Tools, today " + ns.date + "\\n" + tools | tojson(indent=4) }}{%- endif %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""
GLM4 = """[gMASK]<sop>
{%- if tools -%}<|system|>
# 可用工具
{% for tool in tools %}
## {{ tool.function.name }}

{{ tool.function | tojson }}
{%- endfor %}{%- endif -%}
{% for item in messages %}<|{{ item['role'] }}|>{{ item.get('metadata', '') }}
{{ item['content'] }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"""
QWEN3 = """{%- if tools %}
    {{- '<|im_start|>system\\n# Tools\\n<tools>' }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- endif %}
{%- for message in messages[::-1] | reverse %}
    {%- if message.role == "assistant" %}
        {%- set content = message.content.split('</think>')[-1].lstrip('\\n') %}
        {{- '<|im_start|>' + message.role + '\\n' }}{% generation %}{{- content + '<|im_end|>' }}{% endgeneration %}
    {%- elif message.content is string %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""
TEMPLATES = {"ChatML": CHATML, "LLaMA-2": LLAMA2, "LLaMA-3": LLAMA3, "GLM-4": GLM4, "Qwen3": QWEN3}

ONE = [{"role": "user", "content": "What is the capital of France? <b>&amp;</b> 法国 🦙"}]
MANY = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "  Hello  ", "name": None},
    {"role": "assistant", "content": '<think>\nwell\n</think>\n\nHi\'s "there"', "tool_calls": None},
    {"role": "user", "content": "Bye\n"},
]
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "It's <hot> & 热", "parameters": {}}}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small vocabulary with special tokens, and no template."""
    folder = tmp_path_factory.mktemp("chat")
    trained = tokenizers.ByteLevelBPETokenizer()
    prose = pathlib.Path(guard.__file__).read_text(encoding="utf-8")
    trained.train_from_iterator([prose, *TEMPLATES.values()], vocab_size=500, show_progress=False)
    special = [
        "<s>",
        "</s>",
        "<|im_start|>",
        "<|im_end|>",
        "<|eot_id|>",
        "[gMASK]",
        "<sop>",
        "<|user|>",
        "<|assistant|>",
    ]
    trained.add_special_tokens(special)
    trained.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.fixture
def tokenizer(folder):
    return kn.Tokenizer.from_pretrained(folder)


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("name", TEMPLATES)
def test_agrees_with_transformers(name, prompt, folder, tokenizer):
    transformers = pytest.importorskip("transformers", reason="the reference is transformers")
    pytest.importorskip("torch", reason="the reference runs on torch")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    theirs.chat_template = tokenizer.chat_template = TEMPLATES[name]
    for messages in (ONE, MANY):
        for options in ({}, {"tools": TOOLS}, {"enable_thinking": False}):
            options = {**options, "add_generation_prompt": prompt}
            text = tokenizer.chat(messages, text=True, **options)
            assert text == theirs.apply_chat_template(messages, tokenize=False, **options)
            assert messages[-1]["content"].strip() in text
            expected = theirs.apply_chat_template(messages, **options)["input_ids"]
            assert tokenizer.chat(messages, **options) == expected


def test_special_tokens_are_not_added_twice(tokenizer):
    ids = tokenizer.chat(ONE, template=LLAMA2)
    assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id


@pytest.mark.parametrize("place", ["config", "named", "jinja", "json", "saved"])
def test_where_templates_stand(place, folder, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text((folder / name).read_text(encoding="utf-8"), encoding="utf-8")
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    other = {"name": "tool_use", "template": "{{ 'tools' }}"}
    in_config = {"config": CHATML, "named": [{"name": "default", "template": CHATML}, other], "saved": CHATML}
    settings["chat_template"] = in_config.get(place, "{{ 'outdated' }}")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    if place == "jinja":
        (tmp_path / "chat_template.jinja").write_text(CHATML, encoding="utf-8")
    if place == "json":
        (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": CHATML}), encoding="utf-8")
    tokenizer = kn.Tokenizer.from_pretrained(tmp_path)
    if place == "saved":
        tokenizer.save_pretrained(tmp_path / "again")
        tokenizer = kn.Tokenizer.from_pretrained(tmp_path / "again")
    assert tokenizer.chat(ONE, text=True) == chat.render(CHATML, ONE)
    if place == "named":
        assert (
            tokenizer.chat(ONE, tools=TOOLS, text=True)
            == tokenizer.chat(ONE, template="tool_use", text=True)
            == "tools"
        )
        with pytest.raises(ValueError, match="tool_use.*'rag'"):
            tokenizer.chat(ONE, template="rag")


def test_no_template(tokenizer):
    with pytest.raises(ValueError, match="template="):
        tokenizer.chat(ONE)


@pytest.mark.parametrize("messages", [[], "Hello", [["user", "Hello"]], None, [{"role": "user", "content": object()}]])
def test_bad_messages(messages, tokenizer):
    with pytest.raises(ValueError, match="messages"):
        tokenizer.chat(messages, template=CHATML)


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages[0]['role'].format.__globals__ }}",
        "{{ '{0.__class__}'.format(messages) }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ strftime_now.__code__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ (messages | map(attribute='__class__') | list)[0] }}",
        "{{ messages.append(1) }}",
        "{{ range(10**9) | list | length }}",
        "{{ 'a' * 10**9 }}",
        "{{ 9**99999999 }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ open('/etc/passwd') }}",
        "{{ raise_exception('as it says') }}",
        "{{ 1 / 0 }}",
        "{% for %}",
        "{{ messages[0]['content'] + 1 }}",
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    ],
)
def test_nothing_leads_out_of_the_sandbox(template, tokenizer):
    with pytest.raises(ValueError, match="the chat template fails"):
        tokenizer.chat(ONE, template=template, text=True)


def test_an_exception_says_what_the_template_says(tokenizer):
    with pytest.raises(ValueError, match="roles must alternate"):
        tokenizer.chat([*ONE, *ONE], template=LLAMA2)
