"""The first lines of a report."""

from wsicl_jax.evaluate.records import Score
from wsicl_jax.report.headlines import headlines
from wsicl_jax.report.results import Results, Setting


def results(values, target_dependence=()) -> Results:
    """Of (model, structure, kind, contexts) to Dice."""
    rows = {}
    for (model, structure, kind, contexts), dice in values.items():
        setting = Setting(model, "set", "in_context", kind, contexts, 1)
        rows[setting] = (*rows.get(setting, ()), score(model, structure, kind, contexts, dice))
    return Results((), rows, (), target_dependence=tuple(target_dependence))


def score(model, structure, kind, contexts, dice, **more) -> Score:
    about = {"data_set": "set", "episode": structure, "target": "t", "subject": "t", "prompts": 1}
    return Score(
        **about,
        model=model,
        structure=structure,
        kind=kind,
        contexts=contexts,
        dice=dice,
        **({"protocol": "in_context"} | more),
    )


VALUES = {
    ("it", "liver", "box", 4): 0.7,
    ("prompt_mean", "liver", "box", 4): 0.5,
    ("intensity", "liver", "box", 4): 0.6,
    ("it", "spleen", "box", 4): 0.4,
    ("prompt_mean", "spleen", "box", 4): 0.5,
    ("intensity", "spleen", "box", 4): 0.1,
    ("it", "liver", "mask", 8): 0.9,
    ("prompt_mean", "liver", "mask", 8): 0.6,
    ("it", "liver", "box", 1): 0.0,
    ("prompt_mean", "liver", "box", 1): 0.9,
}


def test_a_network_is_compared_with_the_better_baseline_of_each_cell():
    (sentence,) = headlines(results(VALUES))
    assert "The mean Dice of it is above that of the best baseline in 2 of 3 cells" in sentence
    assert "4 or 8 context images" in sentence
    assert "on average by +0.100 (box +0.000, mask +0.300)." in sentence


def test_small_context_sets_count_where_there_are_no_larger_ones():
    few = {key: dice for key, dice in VALUES.items() if key[3] == 1}
    (sentence,) = headlines(results(few))
    assert "in 0 of 1 cells" in sentence


def test_there_is_no_sentence_without_baselines():
    assert headlines(results({("it", "liver", "box", 4): 0.7})) == []


def test_target_dependence_is_the_mean_dice_with_each_replacement():
    target_dependence = [
        score("it", "liver", "box", 8, dice, protocol="target_dependence", replacement=replacement)
        for replacement, dice in (
            ("constant", 0.2),
            ("constant", 0.4),
            ("shuffled", 0.1),
            ("shuffled", None),
        )
    ]
    _, sentence = headlines(results(VALUES, target_dependence))
    assert "0.300 with a constant target and 0.100 with a shuffled target" in sentence
