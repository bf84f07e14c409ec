"""A template told as fixed texts: Jinja and Go say what the template says."""

import json
from pathlib import Path

import jinja2
import pytest
from transformers import PreTrainedTokenizerFast

from loratory.data.records import Origin, Record, Turn
from loratory.data.templates import bind_template
from loratory.errors import TemplateError
from loratory.export.conversation import conversation_frame, to_go, to_jinja
from loratory.export.ollama import modelfile

TALKS = [
    (Turn("user", "Hi"),),
    (Turn("user", "a"), Turn("assistant", "b {{ c }}"), Turn("user", "d\n'\"")),
    (Turn("system", "Be brief."), Turn("user", "Name two."), Turn("assistant", "1|2"), Turn("user", "more")),
]
DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def prompt(name: str, tokenizer: PreTrainedTokenizerFast, turns: tuple[Turn, ...]) -> str:
    fields = {"instruction": next(turn.content for turn in turns if turn.role == "user")}
    ids = bind_template(name, tokenizer).generation_prompt(Record(turns, Origin("t", 1), fields))
    return str(tokenizer.decode(ids, skip_special_tokens=False))


@pytest.mark.parametrize("source", [None, DEFAULT_SYSTEM], ids=["chatml", "default system"])
@pytest.mark.parametrize("turns", TALKS, ids=["one", "many", "system"])
def test_jinja_renders_what_the_template_renders(
    source: str | None, turns: tuple[Turn, ...], tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    tiny_tokenizer.chat_template = source or tiny_tokenizer.chat_template
    frame = conversation_frame(bind_template("chat", tiny_tokenizer), tiny_tokenizer)
    wanted = prompt("chat", tiny_tokenizer, turns)
    assert frame.render(turns) == wanted
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    assert jinja2.Environment().from_string(to_jinja(frame)).render(messages=messages) == wanted


def test_a_space_before_given_answers(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    frame = conversation_frame(bind_template("llama2", tiny_tokenizer), tiny_tokenizer)
    assert (frame.answer_start, frame.answer_end) == (" ", " </s><s>[INST] ")
    wanted = prompt("llama2", tiny_tokenizer, TALKS[1])
    assert frame.render(TALKS[1]) == wanted
    messages = [{"role": turn.role, "content": turn.content} for turn in TALKS[1]]
    assert jinja2.Environment().from_string(to_jinja(frame)).render(messages=messages) == wanted


def test_alpaca_is_one_exchange(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    frame = conversation_frame(bind_template("alpaca", tiny_tokenizer), tiny_tokenizer)
    assert frame.answer_end is None
    assert frame.generation == "\n\n### Response:\n"
    turns = (Turn("user", "Hi"),)
    assert frame.render(turns) == prompt("alpaca", tiny_tokenizer, turns)
    assert to_go(frame).endswith("{{ .Prompt }}\n\n### Response:\n{{ .Response }}")
    with pytest.raises(jinja2.UndefinedError, match="raise_exception"):
        jinja2.Environment().from_string(to_jinja(frame)).render(
            messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        )


def test_go_template_of_chatml_is_the_golden_text(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    # Go's own text/template renders it as the frame does (see docs/export.md for how that was checked).
    frame = conversation_frame(bind_template("chat", tiny_tokenizer), tiny_tokenizer)
    assert to_go(frame) == (
        "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n<|im_start|>user\n{{ else }}<|im_start|>user\n"
        '{{ end }}{{ range $i, $m := .Messages }}{{ if eq $m.Role "user" }}{{ $m.Content }}<|im_end|>\n'
        '<|im_start|>assistant\n{{ end }}{{ if eq $m.Role "assistant" }}{{ $m.Content }}'
        "{{ if gt (len (slice $.Messages $i)) 1 }}<|im_end|>\n<|im_start|>user\n{{ end }}{{ end }}{{ end }}"
    )


def test_braces_of_the_template_stay_text_in_go(tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    file = tmp_path / "braces.json"
    parts = {"prompt_input": "{{{{x}}}} {instruction} {input}=", "prompt_no_input": "{{{{x}}}} {instruction}="}
    file.write_text(json.dumps({"description": "", "response_split": "=", **parts}), encoding="utf-8")
    frame = conversation_frame(bind_template(str(file), tiny_tokenizer), tiny_tokenizer)
    assert frame.opening.endswith("{{x}} ")
    assert to_go(frame).endswith('{{ else }}{{ "{{" }}x}} {{ end }}{{ .Prompt }}={{ .Response }}')


def test_a_template_that_rewrites_contents_is_refused(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    tiny_tokenizer.chat_template = str(tiny_tokenizer.chat_template).replace(
        "message['content']", "message['content'] | replace('Name', 'NAME')"
    )
    with pytest.raises(TemplateError, match="no fixed frame"):
        conversation_frame(bind_template("chat", tiny_tokenizer), tiny_tokenizer)


def test_bos_is_left_to_the_engine(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    tiny_tokenizer.chat_template = "{{ bos_token }}" + str(tiny_tokenizer.chat_template)
    frame = conversation_frame(bind_template("chat", tiny_tokenizer), tiny_tokenizer)
    assert frame.opening.startswith("<s>")
    without = frame.without_bos("<s>")
    assert not without.opening.startswith("<s>")
    assert without.system_start == "<|im_start|>system\n"


def test_modelfile(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    frame = conversation_frame(bind_template("chat", tiny_tokenizer), tiny_tokenizer)
    text = modelfile("./model.gguf", frame, context_length=512, system="Answer with codes.", temperature=0.0)
    assert text.startswith('FROM ./model.gguf\nTEMPLATE """{{ if .System }}')
    assert text.endswith(
        'SYSTEM """Answer with codes."""\nPARAMETER stop "<|im_end|>"\nPARAMETER stop "</s>"\n'
        "PARAMETER num_ctx 512\nPARAMETER temperature 0\n"
    )
    with pytest.raises(TemplateError, match="cannot carry"):
        modelfile("./model.gguf", frame, context_length=512, system='say """')
