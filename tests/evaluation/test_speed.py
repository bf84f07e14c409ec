"""Timing: every step of every run is seen, and the statistics are those of a list one can do by hand."""

import pytest
from transformers import LlamaForCausalLM

from loratory.errors import ConfigError
from loratory.evaluation.measure import Measure
from loratory.evaluation.speed import Timing, Workload, measure_speed, random_prompts, speed_measures, time_generation


def by_short_name(measures: list[Measure]) -> dict[str, Measure]:
    return {measure.name.partition("@")[0]: measure for measure in measures}


@pytest.mark.parametrize("batch_size", [1, 3])
def test_each_token_of_a_row_is_a_step(tiny_llama: LlamaForCausalLM, batch_size: int) -> None:
    timing = time_generation(tiny_llama, Workload(prompt_tokens=6, new_tokens=5, batch_size=batch_size))
    assert timing.first_token_s > 0
    assert len(timing.token_s) == 4
    assert all(step > 0 for step in timing.token_s)


def test_statistics_by_hand() -> None:
    timings = [Timing(0.5, (0.1, 0.1)), Timing(1.0, (0.2, 0.2)), Timing(0.25, (0.1, 0.3))]
    found = by_short_name(speed_measures(Workload(100, 3, 2), timings))
    assert found["prefill"].value == pytest.approx(400)  # 2 rows of 100 tokens in 0.5 s
    assert found["prefill"].spread is not None
    assert (found["prefill"].spread.min, found["prefill"].spread.max) == pytest.approx((200, 800))
    assert found["decode"].value == pytest.approx(10)  # 4 tokens in 0.4 s, twice; 0.2 s once
    assert found["first_token"].value == pytest.approx(500)
    assert found["token_latency_p50"].value == pytest.approx(100)  # 100, 100, 100, 200, 200, 300
    assert found["token_latency_p95"].value == pytest.approx(300)
    assert (found["token_latency_p50"].n, found["token_latency_p50"].n_of) == (6, "steps")
    assert found["decode"].name == "decode@prompt=100,new=3,batch=2"
    assert (found["decode"].n, found["decode"].on) == (3, "batch 2")


def test_warm_up_is_not_counted(tiny_llama: LlamaForCausalLM) -> None:
    seen: list[int] = []
    measures = measure_speed(tiny_llama, Workload(4, 3, 2), repeats=2, warmup=3, on_progress=seen.append)
    assert seen == [1, 2, 3, 4, 5]
    assert by_short_name(measures)["prefill"].n == 2
    assert by_short_name(measures)["token_latency_p95"].n == 4


def test_prompts_are_the_same_for_a_seed_and_share_no_beginning(tiny_llama: LlamaForCausalLM) -> None:
    work = Workload(20, 2, 4)
    prompts = random_prompts(tiny_llama, work)
    assert prompts == random_prompts(tiny_llama, work)
    assert prompts != random_prompts(tiny_llama, work, seed=1)
    assert len({tuple(prompt[:4]) for prompt in prompts}) == 4
    assert max(map(max, prompts)) < tiny_llama.config.vocab_size


def test_a_workload_beyond_the_context_is_refused(tiny_llama: LlamaForCausalLM) -> None:
    with pytest.raises(ConfigError, match=r"500 \+ 13 tokens do not fit into the model's context of 512"):
        time_generation(tiny_llama, Workload(500, 13, 1))
