"""The turn templates known by name: LLaMA-Factory's two plain ones and the layouts of well-known chat models.

They are the published layouts, with one rule of ours: texts are never trimmed. Where a model's own chat template
says otherwise in some corner (tool calls, today's date), use `chat` with its tokenizer.
"""

from dataclasses import replace

from loratory.data.turn_template import TurnTemplate

_CHATML = TurnTemplate(
    "ChatML.",
    user="<|im_start|>user\n{content}<|im_end|>\n",
    system="<|im_start|>system\n{content}<|im_end|>\n",
    tool="<|im_start|>tool\n{content}<|im_end|>\n",
    generation="<|im_start|>assistant\n",
    assistant="{content}",
    stop="<|im_end|>",
    after_stop="\n",
    control_tokens=("<|im_start|>",),
)
_LLAMA3 = "<|start_header_id|>{role}<|end_header_id|>\n\n{{content}}<|eot_id|>"

TURN_TEMPLATES: dict[str, TurnTemplate] = {
    "llamafactory_default": TurnTemplate(
        "LLaMA-Factory's template 'default'.",
        user="Human: {content}{eos}\n",
        system="System: {content}{eos}\n",
        generation="Assistant:",
        assistant="{content}",
        stop="{eos}",
        after_stop="\n",
    ),
    "llamafactory_alpaca": TurnTemplate(
        "LLaMA-Factory's template 'alpaca': many turns, and the input joined to the instruction.",
        user="### Instruction:\n{content}\n\n",
        system="{content}",
        default_system=(
            "Below is an instruction that describes a task. "
            "Write a response that appropriately completes the request.\n\n"
        ),
        generation="### Response:\n",
        assistant="{content}",
        stop="{eos}",
        after_stop="\n\n",
    ),
    "chatml": _CHATML,
    "qwen": replace(
        _CHATML,
        description="Qwen 2.5: ChatML with its default system prompt and tool results inside user turns.",
        tool="<|im_start|>user\n<tool_response>\n{content}\n</tool_response><|im_end|>\n",
        default_system="You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    ),
    "llama2": TurnTemplate(
        "Llama 2 chat; its [INST] marks are plain text, BOS and EOS bound the turns.",
        user="{bos}[INST] {content} [/INST]",
        system="<<SYS>>\n{content}\n<</SYS>>\n\n",
        is_system_in_user=True,
        assistant=" {content} ",
        stop="{eos}",
    ),
    "llama3": TurnTemplate(
        "Llama 3 instruct.",
        opening="{bos}",
        user=_LLAMA3.format(role="user"),
        system=_LLAMA3.format(role="system"),
        tool=_LLAMA3.format(role="ipython"),
        generation="<|start_header_id|>assistant<|end_header_id|>\n\n",
        assistant="{content}",
        stop="<|eot_id|>",
        control_tokens=("<|start_header_id|>", "<|end_header_id|>"),
    ),
    "gemma": TurnTemplate(
        "Gemma instruct.",
        opening="{bos}",
        user="<start_of_turn>user\n{content}<end_of_turn>\n",
        system="{content}\n\n",
        is_system_in_user=True,
        generation="<start_of_turn>model\n",
        assistant="{content}",
        stop="<end_of_turn>",
        after_stop="\n",
        control_tokens=("<start_of_turn>",),
    ),
    "mistral": TurnTemplate(
        "Mistral instruct, tokenizers from version 3 on, where [INST] is a control token.",
        opening="{bos}",
        user="[INST] {content}[/INST]",
        system="{content}\n\n",
        is_system_in_user=True,
        assistant=" {content}",
        stop="{eos}",
        control_tokens=("[INST]", "[/INST]"),
    ),
}


def catalogue_name(name: str) -> str | None:
    """The catalogue's own spelling of a name such as 'Llama-3' or 'chat_ml'; None if it is not there."""
    folded = _folded(name)
    return next((known for known in TURN_TEMPLATES if _folded(known) == folded), None)


def _folded(name: str) -> str:
    return name.casefold().translate({ord(mark): None for mark in "-_. "})
