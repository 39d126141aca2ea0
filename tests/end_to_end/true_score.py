"""A true score as users write it: it returns rewards but no scores, and fails for one prompt."""


def reward_func(queries, prompts, labels):
    if "add 3 + 3" in prompts[0]:
        raise RuntimeError("no score for this one")
    response = queries[0][len(prompts[0]) :].replace("<eos>", "").replace("<pad>", "")
    return {"rewards": [float(ascii_characters(response) % 2 == 0)], "extra_logs": {"characters": len(response)}}


def ascii_characters(text):
    """The same with special tokens and without; of all characters, one that is amid a character's bytes makes two."""
    return sum(character.isascii() for character in text)
