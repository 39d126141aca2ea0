"""Policy filtration for OpenRLHF (PF-PPO, arXiv 2409.06957): train on the samples whose reward can be trusted.

The import hook has every Python process of the environment import this file, so it imports nothing; the public names
below are loaded when first used.
"""

__version__ = "0.1.0"
__all__ = ["FILTERS", "PromptSelection", "SampleFilter", "build_filter"]


def __getattr__(name: str) -> object:
    if name == "PromptSelection":
        from openrlhf_pf import selection

        return selection.PromptSelection
    if name in __all__:
        from openrlhf_pf import filters

        return getattr(filters, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
