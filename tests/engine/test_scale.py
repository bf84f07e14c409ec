from loratory.engine.scale import LossScale


def test_inactive_is_one_for_ever() -> None:
    scale = LossScale(active=False)
    for _ in range(5000):
        scale.grow()
    assert scale.value == 1.0
    assert not scale.can_shrink


def test_halves_on_overflow_and_doubles_after_many_good_steps() -> None:
    scale = LossScale(active=True)
    start = scale.value
    scale.shrink()
    assert scale.value == start / 2
    for _ in range(2000):
        scale.grow()
    assert scale.value == start
    while scale.can_shrink:
        scale.shrink()
    assert scale.value == 1.0
