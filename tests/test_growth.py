"""What the plugin does between generation and training grows with the rollout, and no faster: no copy of all samples.

Counted in bytes that torch allocates and in looks at a prompt, not in seconds; those are in benchmarks/growth.py.
"""

import pytest
import torch

pytest.importorskip("openrlhf")

from rollouts import make_maker, sample, without_a_cluster  # noqa: F401

TOKENS, N = 512, 8


def long_sample(prompt, token):
    """One of half prompt and half response; the stand-in reward model reads ``token``."""
    made = sample(prompt, None, token=token)
    made.sequences = torch.full((1, TOKENS), 9)
    made.sequences[0, 0] = token
    made.attention_mask = torch.ones(1, TOKENS, dtype=torch.long)
    made.action_mask = (torch.arange(1, TOKENS) >= TOKENS // 2).long().unsqueeze(0)
    made.response_length, made.total_length = torch.tensor([TOKENS // 2]), torch.tensor([TOKENS])
    return made


def rollout_of(prompts):
    return [long_sample(prompt, token=1 + n) for prompt in range(prompts) for n in range(N)]


def bytes_of(samples):
    """Of what a sample has a value a token of."""
    return sum(t.nbytes for s in samples for t in (s.sequences, s.attention_mask, s.action_mask))


def most_allocated(function):
    """The most bytes of tensors that are there at a time, beyond those that were there before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        kept = function()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert events and kept is not None
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def a_step(prompts):
    """Bytes beside the rollout, as a share of it, while 2 of N train on 4 ranks and statistics are taken."""
    maker = make_maker(ranks=4, reward_ranks=4, **{"rollout.n_samples_per_prompt": N, "rollout.micro_batch_size": 8})
    samples = rollout_of(prompts)

    def step():
        experiences = maker.make_experience_batch(samples)
        assert sum(len(experience.sequences) for experience in experiences) == 2 * prompts
        return experiences, maker.rollout.shaped(maker.given), maker.rollout.samples_without_reward()

    return most_allocated(step) / bytes_of(samples)


def test_a_step_holds_less_than_a_copy_of_the_rollout():
    """Ids and attention mask go to the reward model, two thirds of what a sample has a value a token of; what trains,
    a quarter, is stacked, with log-probabilities and advantages beside it, when those are gone.
    """
    few, many = a_step(8), a_step(64)
    assert 0.6 < many < 0.8
    assert many < 1.02 * few, "a sample takes no more in a large step than in a small one"
