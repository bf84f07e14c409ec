"""Encoder-decoders through the loop: their own loss, and an adapter that plain PEFT loads."""

import json

import pytest
import torch
import transformers
from peft import PeftModel
from transformers import AutoModelForSeq2SeqLM

from loratory.data.reader import read_records
from loratory.data.templates import bind_template
from loratory.engine.finished_run import open_run, open_run_session
from loratory.engine.training import run_training
from loratory.infer.label_prediction import predict_labels
from loratory.infer.label_set import bind_labels
from loratory.objective.row import Row, batch_of
from loratory.objective.sft import SftObjective
from loratory.tree.scorers import make_scorer

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture(scope="module")
def rows_and_models(_trained_tokenizer, tmp_path_factory):  # type: ignore[no-untyped-def]
    rows = [{"instruction": f"row {i} please", "output": f"code {i % 3}"} for i in range(12)]
    file = tmp_path_factory.mktemp("rows") / "rows.json"
    file.write_text(json.dumps(rows))
    usual = {
        "vocab_size": len(_trained_tokenizer), "pad_token_id": 2, "eos_token_id": 1, "decoder_start_token_id": 2,
        "d_model": 32,
    }  # fmt: skip
    configs = {
        "t5": transformers.T5Config(**usual, d_ff=64, d_kv=8, num_layers=2, num_heads=4, dropout_rate=0.0),
        "bart": transformers.BartConfig(
            **usual, bos_token_id=0, forced_eos_token_id=None, encoder_layers=2, decoder_layers=2, dropout=0.0,
            encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64,
            max_position_embeddings=128,
        ),
    }  # fmt: skip
    folders = {}
    for name, config in configs.items():
        folders[name] = tmp_path_factory.mktemp(f"tiny-{name}")
        with torch.random.fork_rng():
            torch.manual_seed(0)
            AutoModelForSeq2SeqLM.from_config(config).save_pretrained(folders[name])
        _trained_tokenizer.save_pretrained(folders[name])
    return file, folders


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_the_loss_is_the_models_own(rows_and_models, tiny_tokenizer, family: str) -> None:  # type: ignore[no-untyped-def]
    file, folders = rows_and_models
    model = AutoModelForSeq2SeqLM.from_pretrained(folders[family]).eval()
    template = bind_template("plain", tiny_tokenizer, closes_prompt=True)
    objective, scorer = SftObjective(), make_scorer(model)
    records = read_records(str(file)).records[:5]
    rows = [Row(objective.sequences(record, template), "", 1.0) for record in records]
    expected = 0.0
    for record, row in zip(records, rows, strict=True):
        prompt = template.generation_prompt(record)
        answer = row.sequences[0].token_ids[len(prompt) :].tolist()
        found = model(input_ids=torch.tensor([prompt]), labels=torch.tensor([answer]))
        expected += float(found.loss.detach()) * len(answer)
    assert float(objective.loss(scorer, batch_of(rows)).sum.detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("family", "method"), [("t5", "lora"), ("bart", "lora"), ("t5", "full")])
def test_learns_answers_and_loads_without_us(make_config, rows_and_models, family: str, method: str) -> None:  # type: ignore[no-untyped-def]
    file, folders = rows_and_models
    run = {"model.model_name_or_path": str(folders[family]), "data.train": str(file), "data.template": "plain"}
    result = run_training(make_config(run | {"adapter.method": method, "train.num_epochs": 4}))
    lines = [json.loads(line) for line in (result.run_dir / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert result.loss is not None
    assert result.loss < losses[0] or len(losses) == 1
    session = open_run_session(*open_run(result.run_dir), base=False, force_template=False, trust_remote_code=False)
    records = read_records(str(file)).records[:3]
    predictions = session.predict(records, max_new_tokens=6)
    assert [prediction.label for prediction in predictions] == ["code 0", "code 1", "code 2"]
    if method == "lora":
        assert json.loads((result.final_model / "adapter_config.json").read_text())["task_type"] == "SEQ_2_SEQ_LM"
        plain = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(folders[family]), result.final_model)
    else:
        plain = AutoModelForSeq2SeqLM.from_pretrained(result.final_model)
    ids, labels = torch.tensor([session.template.generation_prompt(records[0])]), torch.tensor([[9, 8, 1]])
    with torch.no_grad():
        ours, theirs = (m.eval()(input_ids=ids, labels=labels).logits for m in (session.model, plain))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_labels_are_chosen_by_the_models_own_likelihood(rows_and_models, tiny_tokenizer, family: str) -> None:  # type: ignore[no-untyped-def]
    file, folders = rows_and_models
    model = AutoModelForSeq2SeqLM.from_pretrained(folders[family]).eval()
    template = bind_template("plain", tiny_tokenizer, closes_prompt=True)
    records, labels = read_records(str(file)).records[:2], ("code 0", "cancel my plan", "yes")
    expected = []
    for record in records:
        answers = bind_labels(labels, template, record).token_ids
        prompt = torch.tensor([template.generation_prompt(record)])
        with torch.no_grad():
            losses = [model(input_ids=prompt, labels=torch.tensor([ids])).loss * -len(ids) for ids in answers]
        expected.append(dict(zip(labels, map(float, losses), strict=True)))
    found = predict_labels(model, tiny_tokenizer, template, records, labels, with_logprobs=True)
    quick = predict_labels(model, tiny_tokenizer, template, records, labels)
    for values, prediction, chosen in zip(expected, found, quick, strict=True):
        assert prediction.label_logprobs == pytest.approx(values, rel=1e-5)
        assert prediction.predict == chosen.predict == max(values, key=values.__getitem__)
