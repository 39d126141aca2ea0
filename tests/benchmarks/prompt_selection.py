"""Which share of the selected prompts gives a signal, where chances stay as they are and where training raises them?

    python tests/benchmarks/prompt_selection.py [--seeds 5] [--prompts 2000]

A prompt's chance of success is drawn from Beta(.35, .35); 240 steps of 64 prompts with 8 responses each. "Rising":
after a step the logit of a selected prompt grows by sqrt(q (1 - q)), q its observed share of successes, and every
logit by .01. A group gives a signal where its responses are neither all right nor all wrong.
"""

import argparse

import numpy as np

from openrlhf_pf.selection import build_selection

ARMS = {
    "uniform": ("uniform", ()),
    "vade": ("vade", ()),
    "p (1 - p)": ("vade", ("gain=variance",)),
    "mean, no draw": ("vade", ("explore=mean",)),
    "last rollout only": ("vade", ("decay=0,0.999",)),
    "no forgetting": ("vade", ("decay=1,1",)),
    "target": ("target", ()),
}
SAMPLES, PER_STEP, STEPS = 8, 64, 240


def informative(arm: str, rising: bool, seed: int, prompts: int = 2000) -> tuple[float, float]:
    """Share of informative groups over all steps, and over the last 20."""
    setting = np.random.default_rng(seed)
    chance = setting.beta(0.35, 0.35, prompts).clip(1e-4, 1 - 1e-4)
    logit = np.log(chance / (1 - chance))
    name, options = ARMS[arm]
    selection = build_selection(name, prompts, options)
    generator = np.random.default_rng(seed + 1000)
    shares = []
    for _ in range(STEPS):
        chosen = selection.select(PER_STEP, generator)
        right = generator.binomial(SAMPLES, 1 / (1 + np.exp(-logit[chosen])))
        selection.observe(chosen, right, np.full(PER_STEP, SAMPLES))
        shares.append(float(((right > 0) & (right < SAMPLES)).mean()))
        if rising:
            share = right / SAMPLES
            logit[chosen] += np.sqrt(share * (1 - share))
            logit += 0.01
    return float(np.mean(shares)), float(np.mean(shares[-20:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=2000)
    options = parser.parse_args()
    print(f"share of informative groups (of the last 20 steps), mean over {options.seeds} seeds, and spread of seeds")
    for rising in (False, True):
        print("chances rise" if rising else "fixed chances")
        for arm in ARMS:
            found = np.array([informative(arm, rising, seed, options.prompts) for seed in range(options.seeds)])
            mean, spread = found.mean(axis=0), found.std(axis=0, ddof=1)
            print(f"  {arm:<18} {mean[0]:.3f} ({mean[1]:.3f})   +- {spread[0]:.3f} ({spread[1]:.3f})", flush=True)


if __name__ == "__main__":
    main()
