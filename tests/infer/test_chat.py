"""A conversation: history grows by whole turns, streams whole characters, and switches the adapter."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from loratory.data.records import Turn
from loratory.data.templates import bind_template
from loratory.errors import AdapterError, DataError, TemplateError
from loratory.infer.chat import Chat
from loratory.infer.fusion import FusedAdapter
from loratory.infer.sampling import Sampling
from loratory.infer.session import Session

# PEFT asks transformers for a property under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")


@pytest.fixture
def session(tiny_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast) -> Session:
    return Session(tiny_llama, tiny_tokenizer, bind_template("chat", tiny_tokenizer))


@pytest.fixture
def adapted(tiny_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast) -> Session:
    torch.manual_seed(0)
    model: PeftModel = get_peft_model(
        tiny_llama, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "up_proj"])
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.5)
    return Session(model.eval(), tiny_tokenizer, bind_template("chat", tiny_tokenizer), FusedAdapter(model))


def test_history_holds_whole_turns_and_reset_keeps_the_system_prompt(session: Session) -> None:
    chat = Chat(session, system="Be brief.", max_new_tokens=5)
    first = chat.say("cancel it")
    second = chat.say("and now?")
    assert chat.history == (
        Turn("system", "Be brief."),
        Turn("user", "cancel it"),
        Turn("assistant", first),
        Turn("user", "and now?"),
        Turn("assistant", second),
    )
    chat.reset()
    assert chat.history == (Turn("system", "Be brief."),)
    assert chat.say("cancel it") == first


def test_earlier_turns_reach_the_model(session: Session) -> None:
    seen: list[int] = []
    handle = session.model.get_input_embeddings().register_forward_hook(
        lambda _module, args, _out: seen.append(args[0].shape[1])
    )
    chat = Chat(session, max_new_tokens=1)
    chat.say("cancel it")
    chat.say("cancel it")
    handle.remove()
    assert seen[1] > seen[0]


def test_streamed_pieces_are_the_answer_in_whole_characters(session: Session, tiny_tokenizer: object) -> None:
    """A random byte-level model says broken bytes; what is whole must come out as it will stand in the answer."""
    pieces: list[str] = []
    answer = Chat(session, max_new_tokens=40, sampling=Sampling(seed=5)).say("请问?", pieces.append)
    assert "".join(pieces) == answer
    assert len(pieces) > 3
    assert "" not in pieces


def test_characters_of_several_tokens_are_never_split(
    session: Session, tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = tiny_tokenizer.encode("好的 🙂 ok", add_special_tokens=False)
    script = iter([*ids, session.template.stop_token_ids[0]])
    monkeypatch.setattr("loratory.infer.flat.generation._next_tokens", lambda *_args: [next(script)])
    pieces: list[str] = []
    assert Chat(session).say("hi", pieces.append) == "好的 🙂 ok"
    assert pieces[:2] == ["好", "的"]
    assert "🙂" in "".join(pieces)
    assert not any("\ufffd" in piece for piece in pieces)
    assert len(ids) > len(pieces)


def test_switching_the_adapter_changes_the_answer_and_back(adapted: Session) -> None:
    chat = Chat(adapted, max_new_tokens=10)
    with_adapter = chat.say("cancel it")
    chat.reset()
    chat.use_adapter = False
    without = chat.say("cancel it")
    chat.reset()
    chat.use_adapter = True
    assert chat.say("cancel it") == with_adapter != without


def test_session_without_adapter_has_nothing_to_switch(session: Session) -> None:
    chat = Chat(session)
    assert not chat.use_adapter
    with pytest.raises(AdapterError, match="no adapter"):
        chat.use_adapter = False


def test_failed_turn_leaves_the_history(session: Session) -> None:
    chat = Chat(session, max_new_tokens=500)
    with pytest.raises(DataError, match="leave no room"):
        chat.say("cancel " * 50)
    assert chat.history == ()


def test_single_turn_template_says_so_at_the_second_turn(session: Session) -> None:
    alpaca = Session(session.model, session.tokenizer, bind_template("alpaca", session.tokenizer))
    chat = Chat(alpaca, max_new_tokens=3)
    chat.say("cancel it")
    with pytest.raises(TemplateError, match="use template 'chat'"):
        chat.say("and now?")
    assert len(chat.history) == 2


def test_asking_again_draws_anew_and_a_seed_repeats_a_conversation(session: Session, tmp_path: Path) -> None:
    def talk(seed: int) -> list[str]:
        chat = Chat(session, max_new_tokens=12, sampling=Sampling(temperature=2.0, seed=seed))
        return [chat.say("cancel"), chat.say("cancel")]

    assert talk(1) == talk(1)
    assert talk(1) != talk(2)
    assert talk(1)[0] != talk(1)[1]


def test_oldest_exchanges_are_forgotten_when_the_context_is_full(session: Session) -> None:
    chat = Chat(session, system="Answer with codes.", max_new_tokens=120)
    forgotten: list[int] = []
    for number in range(8):
        chat.say(f"question {number}", on_forgotten=forgotten.append)
    assert forgotten
    assert set(forgotten) <= {2, 4, 6, 8}
    assert chat.history[0] == Turn("system", "Answer with codes.")
    assert chat.history[1].role == "user"
    assert chat.history[-2] == Turn("user", "question 7")


def test_both_answer_from_the_same_history_and_the_adapters_is_kept(adapted: Session) -> None:
    chat = Chat(adapted, max_new_tokens=6)
    chat.say("hello")
    before = chat.history
    pieces: list[tuple[str, str]] = []
    base, adapter = chat.say_both("cancel it", lambda name, piece: pieces.append((name, piece)))
    assert base != adapter
    assert chat.history == (*before, Turn("user", "cancel it"), Turn("assistant", adapter))
    assert "".join(piece for name, piece in pieces if name == "base") == base
    assert "".join(piece for name, piece in pieces if name == "adapter") == adapter
    alone = Chat(adapted, max_new_tokens=6)
    alone.say("hello")
    assert alone.say("cancel it") == adapter
    assert chat.use_adapter


def test_both_without_an_adapter_leaves_everything(session: Session) -> None:
    chat = Chat(session, max_new_tokens=3)
    with pytest.raises(AdapterError, match="no adapter"):
        chat.say_both("cancel it")
    assert chat.history == ()


def test_a_stopped_answer_stays_as_far_as_it_came(adapted: Session) -> None:
    whole = Chat(adapted, max_new_tokens=12).say("cancel it")
    chat = Chat(adapted, max_new_tokens=12)
    shown: list[str] = []

    def stop(piece: str) -> None:
        shown.append(piece)
        raise KeyboardInterrupt

    chat.use_adapter = True
    with pytest.raises(KeyboardInterrupt):
        chat.say("cancel it", stop)
    assert chat.history[-1].role == "assistant"
    assert whole.startswith(chat.history[-1].content)
    assert chat.history[-1].content == "".join(shown)
    chat.reset()
    assert chat.say("cancel it") == whole


def test_another_system_text_keeps_the_conversation(session: Session) -> None:
    chat = Chat(session, system="one", max_new_tokens=3)
    chat.say("a")
    chat.set_system("two")
    assert [turn.content for turn in chat.history[:2]] == ["two", "a"]
    chat.set_system(None)
    assert chat.history[0] == Turn("user", "a")
    chat.reset()
    assert chat.history == ()
