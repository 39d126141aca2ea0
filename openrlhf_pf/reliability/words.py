"""The page's words: what each term means, said where it is first used, and what goes with each figure."""

import re

#: What a filter keeps, k being the responses of a prompt that train.
FILTER_MEANINGS = {
    "none": "no filter: all responses train",
    "best_of_n": "the k highest rewards of each prompt",
    "best_random": "the highest rewards of each prompt (half of k), and random others",
    "best_worst": "the highest and the lowest rewards of each prompt (half of k each)",
    "rank_weights": "by weights that were given to the ranks of a prompt's rewards",
    "max_variance": "those k of each prompt whose rewards differ most",
    "top": "rewards above a threshold",
    "top_random": "rewards above a threshold, and half of the others",
    "top_bottom": "rewards above one threshold or below another",
    "reward_power": "the further a reward is from 0, the more often (a power of it)",
    "shortest": "the k shortest responses of each prompt",
    "reward_per_token": "the k of each prompt with the most reward for their length",
    "pareto": "the k of each prompt with the best trade between reward and length",
    "ensemble_agreement": "the k of each prompt that several reward models rank alike",
}

#: What the ranks keep that were found from the samples.
LEARNED_RANKS = "the k ranks that gain most, judged on prompts that they were not chosen from"

#: A term, how it is recognised in a text, and its meaning. In the order in which meanings build on each other.
TERMS = [
    (
        "gain",
        r"gains?\b",
        "how much the mean true score rises with the first training step on what a filter keeps, all filters taking"
        " steps of one size; 0 if rewards do not tell the better of two responses",
    ),
    ("strategy", r"strateg(?:y|ies)\b", "a filter with its settings, or no filter"),
    ("k", r"k = \d|\bk of N\b|\bk\b(?=[:.,]| and)", "how many responses of each prompt train"),
    ("N", r"\bN\b", "how many responses are drawn for each prompt"),
    ("interval", r"intervals?\b", "where the number would most likely lie if all prompts of this kind were known"),
    ("joint interval", r"joint \d+% interval", "one that holds for all filters that are compared, at the same time"),
    (
        "resampled prompts",
        r"resampled|repetitions",
        "the numbers are computed again and again (in repetitions) on prompts drawn at random from these ones: how"
        " much they vary says how far to trust them",
    ),
    (
        "within a prompt",
        r"between prompts|within (?:a |one |the )?prompts?",
        "among the responses to one prompt, which is all that a filter of them can use; rewards also differ between"
        " prompts, where all responses to one get more than those to another",
    ),
    ("pairwise accuracy", r"pairwise accuracy", "share of pairs that are right"),
    (
        "baseline per prompt",
        r"baseline per prompt|kept baseline",
        "training on how much better a response is than the mean of its prompt's, as many methods do",
    ),
    (
        "R²",
        r"R²",
        "how well a straight line from reward to true score fits, 1 being perfect; here, through the means of groups"
        " of similar reward",
    ),
    (
        "advantage",
        r"advantages?\b",
        "how much a response's reward is above what was expected of its prompt; whitened: shifted and scaled, so that"
        " all responses that train have mean 0 and spread 1",
    ),
    (
        "over-confident",
        r"over-confident",
        "responses with these rewards are worth less than the rewards of all others let expect",
    ),
    (
        "correlate",
        r"correlat\w+",
        "how strictly two numbers rise together: 1 always, 0 not at all, -1 one falls as the other rises",
    ),
]


class Glossary:
    """Hands out each meaning once: with the first text that uses the term."""

    def __init__(self, filters: list[str]) -> None:
        known = [
            (name, rf"(?<![\w`]){name}\b", FILTER_MEANINGS.get(name))
            for name in dict.fromkeys(filters)
            if name != "none"
        ]
        self._left = [*TERMS, *(row for row in known if row[2])]

    def new_in(self, *texts: str) -> list[tuple[str, str]]:
        """Term and meaning of what no earlier text used."""
        text = " ".join(texts)
        found = [row for row in self._left if re.search(row[1], text)]
        self._left = [row for row in self._left if row not in found]
        return [(term, meaning) for term, _, meaning in found]


#: Kind of figure to its title and to how it is read.
CAPTIONS = {
    "gains": (
        "The gain of each filter",
        "Dots are estimates, bars their intervals, the dashed line is training on all responses: further right is"
        " better, and filters whose bars overlap much may well be equally good.",
    ),
    "keep": (
        "Training on more or fewer of the responses",
        "To the right, training costs more; at the end, all responses train, whichever the filter. Where a line is as"
        " high as at its end, training on fewer loses nothing.",
    ),
    "samples": (
        "Drawing more or fewer responses",
        "To the right, generation costs more, and with a filter training costs the same. Where a line is flat, more"
        " responses a prompt are not worth drawing.",
    ),
    "reliability": (
        "Reward against true score",
        "Responses in groups of similar reward. Each thin line is a random half of the prompts, the thick one all of"
        " them: where the thin lines lie close together and the thick one rises, a higher reward means a better"
        " response; where they spread or run flat, the reward says little.",
    ),
    "rank": (
        "Rank by reward against true score",
        "Rank 1 is the response of a prompt that the reward model likes best: the line should fall from left to right,"
        " and where it is flat, those ranks are interchangeable.",
    ),
    "histogram": (
        "Rewards of correct and wrong responses",
        "Correct is a true score above {threshold:g}. The less the two areas overlap, the better the reward"
        " tells right from wrong.",
    ),
    "calibration": (
        "Where the reward model promises too much",
        "Dots are actual mean scores, the lines what the reward predicts: high rewards whose dots lie below the"
        " straight line (ringed) promise more than they keep, and training would chase them.",
    ),
    "drift": (
        "Reliability over the training steps",
        "Where the line falls, the reward model judges the responses of the newer policy less well than those of the"
        " older one.",
    ),
}
