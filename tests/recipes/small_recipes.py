"""A recipe of few lines, for tests."""


def small_recipe(**changes) -> dict:
    """A valid recipe as a mapping; ``changes`` replace top-level keys."""
    recipe = {
        "source_lang": "de",
        "target_lang": "en",
        "data": {"tests": ["test"]},
        "sentencepiece": {"vocab_size": 300},
        "architecture": "--arch transformer",
        "cross_entropy": {"flags": "--max-update 4 --lr 0.001"},
        "finetune": {"flags": "--max-update 3 --lr 0.0001"},
        "arms": {"cross_entropy": "--criterion a", "other": "--criterion b"},
        "decoding": {"beams": [1]},
        "evaluation": {
            "metrics": ["bleu"],
            "bootstrap_samples": 50,
            "randomization_trials": 50,
        },
    }
    return {**recipe, **changes}
