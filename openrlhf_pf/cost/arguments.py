"""From text to a setting: the flags of ``python -m openrlhf_pf.cli.cost``."""

import argparse
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from openrlhf_pf.cost.presets import HARDWARE, PRESETS
from openrlhf_pf.cost.setting import COLOCATE, ROLES, Efficiency, Model, Setting

_HARDWARE_UNITS = {"flops": 1e12, "memory": 1e9, "bandwidth": 1e9, "interconnect": 1e9, "host_bandwidth": 1e9}
_COUNTS = {
    "prompts": "a step",
    "samples": "N, responses a prompt that are scored",
    "keep": "k, of them that train",
    "epochs": "PPO epochs",
    "updates": "optimizer steps an epoch",
    "zero_stage": "of DeepSpeed",
    "micro_batch": "samples a GPU at a time while experience is made",
    "train_micro_batch": "samples a GPU at a time in training",
    "tensor_parallel": "GPUs a vLLM engine",
    "max_sequences": "that a vLLM engine decodes at the same time",
}
_NUMBERS = {
    "prompt_tokens": "mean",
    "response_tokens": "mean",
    "longest": "tokens of the longest response (the mean)",
    "vllm_memory": "share of a GPU's memory that vLLM may take",
}
_SWITCHES = {
    "asynchronous": ("asynchronous", True, "generation beside training, on GPUs of its own"),
    "prefix_caching": ("prefix_caching", True, "vLLM runs a prompt once for its N responses"),
    "adam_offload": ("adam_offload", True, "optimizer states in the host's memory"),
    "no_checkpointing": ("checkpointing", False, "activations are kept instead of recomputed"),
    "no_sleep": ("sleep", False, "vLLM and optimizer states stay on the GPU, as they do unless all is colocated"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that describe a setting; whatever is not given is the preset's."""
    add = parser.add_argument
    add("--preset", default="7b-8", choices=PRESETS, metavar="NAME", help=f"{', '.join(PRESETS)} (%(default)s)")
    size = "7B, or 7B:layers=32,width=4096,kv_width=1024,vocabulary=128256"
    add("--model", metavar="SIZE", help=f"of all four models: {size}")
    for role in ROLES:
        add(f"--{role}", metavar="SIZE", help="likewise" + ("" if role == "actor" else ", or none"))
    for name, text in _COUNTS.items():
        add(f"--{name}", type=int, metavar="NUMBER", help=text)
    for name, text in _NUMBERS.items():
        add(f"--{name}", type=float, metavar="NUMBER", help=text)
    add("--gpus", nargs="+", metavar="NUMBER", help="and ROLE=NUMBER (actor, critic, reward, reference, vllm)")
    add("--colocate", nargs="*", metavar="WHAT", help=f"{', '.join(COLOCATE)}; nothing: GPUs of their own")
    for flag, (_, _, text) in _SWITCHES.items():
        add(f"--{flag}", action="store_true", help=text)
    add("--hardware", choices=HARDWARE, metavar="NAME", help=f"{', '.join(HARDWARE)}")
    for name, unit in _HARDWARE_UNITS.items():
        add(f"--{name}", type=float, metavar="TFLOP/s" if unit == 1e12 else "GB" if name == "memory" else "GB/s")
    shares = ", ".join(f.name for f in fields(Efficiency))
    add("--efficiency", nargs="+", metavar="NAME=SHARE", help=f"of {shares}")


def setting_of(options: argparse.Namespace) -> Setting:
    """What the flags describe.

    Raises:
        ValueError: they describe no training; the message is one sentence.
    """
    found = PRESETS[options.preset]
    changes: dict[str, Any] = {
        name: value for name in (*_COUNTS, *_NUMBERS) if (value := getattr(options, name)) is not None
    }
    changes |= {name: value for flag, (name, value, _) in _SWITCHES.items() if getattr(options, flag)}
    for role in ROLES:
        if text := getattr(options, role) or options.model:
            changes[role] = None if text == "none" and role != "actor" else model_of(text)
    if options.colocate is not None:
        changes["colocate"] = tuple(options.colocate)
    if options.gpus:
        changes["gpus"] = _gpus_of(options.gpus)
    hardware = HARDWARE[options.hardware] if options.hardware else found.hardware
    given = {name: getattr(options, name) * unit for name, unit in _HARDWARE_UNITS.items() if getattr(options, name)}
    changes["hardware"] = replace(hardware, **given, **({"name": f"{hardware.name}, changed"} if given else {}))
    changes["efficiency"] = replace(found.efficiency, **_named(options.efficiency or (), Efficiency, "--efficiency"))
    return found.but(**changes)


def model_of(text: str) -> Model:
    """``7B``, ``500M`` or ``7e9``, and what else is known of it after a colon.

    Raises:
        ValueError: it is no size; the message is one sentence.
    """
    size, _, more = text.partition(":")
    units = {"B": 1e9, "M": 1e6}
    try:
        parameters = float(size[:-1]) * units[size[-1]] if size[-1:] in units else float(size)
    except ValueError:
        raise ValueError(f"{text!r} is no model's size: write 7B, 500M or 7e9.") from None
    values = _named(filter(None, more.split(",")), Model, text)
    return Model(parameters, **{name: round(value) for name, value in values.items()})


def _gpus_of(words: Sequence[str]) -> dict[str, int]:
    roles = (*ROLES, "vllm")
    found: dict[str, int] = {}
    for word in words:
        name, _, number = word.rpartition("=")
        if not number.isdecimal() or (name and name not in roles):
            raise ValueError(f"--gpus takes NUMBER and ROLE=NUMBER for {', '.join(roles)}, got {word!r}.")
        for role in [name] if name else [role for role in roles if role not in found]:
            found[role] = int(number)
    return found


def _named(pairs: Any, of: type, where: str) -> dict[str, float]:
    names = [f.name for f in fields(of) if f.name != "parameters"]
    found = {}
    for pair in pairs:
        name, _, number = pair.partition("=")
        if name not in names:
            raise ValueError(
                f"{where} has {name!r}, of which nothing is known: write NAME=NUMBER of {', '.join(names)}."
            )
        try:
            found[name] = float(number)
        except ValueError:
            raise ValueError(f"{where} has {pair!r}, which is no number: write {name}=NUMBER.") from None
    return found
