"""What ``python -m openrlhf_pf.cli.cost`` says of a setting: tables for a terminal, and the same numbers for JSON."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from openrlhf_pf.cost import memory
from openrlhf_pf.cost.setting import Setting
from openrlhf_pf.cost.step import LOGGED, Comparison, Step

if TYPE_CHECKING:
    from rich.console import Console

HEADINGS = {"none": "no filter", "filter": "filter", "forward_first": "all forwards first", "ideal": "ideal"}
_PARTS_OF = {
    "generation": ("prefill", "decode"),
    "make_experience": ("reward_forward", "actor_forward", "critic_forward", "reference_forward"),
    "ppo_train": ("critic_train", "actor_train", "state_moves"),
    "broadcast": (),
}


def as_dict(setting: Setting, comparison: Comparison) -> dict[str, Any]:
    """All numbers, seconds and bytes, for JSON."""
    return {
        "setting": setting.as_dict(),
        "steps": {
            order: {"parts": dict(step.parts), "logged": dict(step.logged), "total": step.total}
            for order, step in comparison.steps.items()
        },
        "memory": memory.per_gpu(setting),
        "saved": 1 - 1 / comparison.times_as_many,
        "share_of_ideal": comparison.share,
        "share_of_ideal_forward_first": comparison.share_forward_first,
        "keep_at_most": comparison.keep_at_most,
        "samples_at_most": comparison.samples_at_most,
        "times_as_many_steps": comparison.times_as_many,
    }


def assumptions(setting: Setting) -> list[str]:
    """What the numbers rest on, line by line."""
    models = ", ".join(
        f"{role} {model.parameters / 1e9:g}B ({model.layers} layers x {model.width})"
        for role, model in setting.models().items()
    )
    by_group: dict[str, int] = {setting.group(role): setting.gpus[role] for role in (*setting.models(), "vllm")}
    gpus = " + ".join(f"{count} for {group}" for group, count in by_group.items())
    hardware, reached = setting.hardware, setting.efficiency
    switches = {
        "asynchronous": setting.asynchronous,
        "sleep": setting.sleeping,
        "checkpointing": setting.checkpointing,
        "Adam offloaded": setting.adam_offload,
        "prefix caching": setting.prefix_caching,
    }
    return [
        f"models: {models}",
        f"rollout: {setting.prompts} prompts x {setting.samples} samples, {setting.prompt_tokens:g} + "
        f"{setting.response_tokens:g} tokens (longest {setting.longest or setting.response_tokens:g}); "
        f"{setting.keep} of {setting.samples} train, {setting.trained} in all, {setting.epochs} epoch(s) of "
        f"{setting.updates} updates",
        f"GPUs: {gpus}; {hardware.name}: {hardware.flops / 1e12:g} TFLOP/s, {hardware.memory / 1e9:g} GB at "
        f"{hardware.bandwidth / 1e9:g} GB/s, interconnect {hardware.interconnect / 1e9:g} GB/s, host "
        f"{hardware.host_bandwidth / 1e9:g} GB/s",
        f"ZeRO-{setting.zero_stage}, micro-batches {setting.micro_batch} and {setting.train_micro_batch}; vLLM: "
        f"engines of {setting.tensor_parallel}, {setting.vllm_memory:g} of memory, {setting.max_sequences} sequences"
        + "".join(f", {name} {'on' if on else 'off'}" for name, on in switches.items()),
        f"reached: {reached.prefill:g} of peak FLOP/s in prefill, {reached.forward:g} in forward passes, "
        f"{reached.train:g} in training; {reached.decode:g} of the memory's bandwidth, {reached.communication:g} of "
        f"the interconnect's; {1e3 * reached.decode_step:g} ms a decoding step besides"
        + (f"; of the FLOP/s half at a width of {reached.half_width:.0f}" if reached.half_width else ""),
        *(
            f"measured: {phase} x {factor:.3g} + {overhead:.3g} s"
            for phase, (factor, overhead) in setting.corrections.items()
        ),
    ]


def sentences(setting: Setting, comparison: Comparison) -> list[str]:
    """What follows, line by line."""
    none, filtered = (comparison.steps[order] for order in ("none", "filter"))
    k, n = setting.keep, setting.samples
    said = [
        f"A step with {k} of {n} takes {filtered.total / none.total:.2f} of the time without a filter "
        f"({seconds(filtered.total)} s for {seconds(none.total)} s), forward passes and training "
        f"{filtered.learning / none.learning:.2f}; it reaches {comparison.share:.2f} of the ideal saving on these, "
        f"all forward passes first would reach {comparison.share_forward_first:.2f}.",
        f"It pays if it needs less than {comparison.times_as_many:.2f} times as many steps for the same quality.",
    ]
    if comparison.keep_at_most:
        said.append(f"At N = {n} a step is no longer than without a filter up to k = {comparison.keep_at_most}.")
    else:
        said.append(f"At N = {n} a step is longer than without a filter for every k < N.")
    if comparison.samples_at_most:
        said.append(
            f"For the time that a step takes without a filter at N = {n}, {k} can be filtered from up to "
            f"N = {comparison.samples_at_most}."
        )
    if setting.asynchronous and filtered.total == filtered.logged["generation"] + filtered.logged["broadcast"]:
        said.append("Generation decides the step: the GPUs that training no longer needs serve it better.")
    if (needed := memory.largest(setting)) > setting.hardware.memory:
        said.append(
            f"IT DOES NOT FIT: {needed / 1e9:.0f} GB a GPU of {setting.hardware.memory / 1e9:.0f}; it takes more "
            f"GPUs, another sharing{'' if setting.adam_offload else ', or --adam_offload'}."
        )
    return said


def seconds(value: float) -> str:
    """Three digits of it."""
    return f"{value:.0f}" if value >= 99.5 else f"{value:.3g}"


def show(setting: Setting, comparison: Comparison, console: "Console") -> None:
    """Print assumptions, seconds by phase, memory, and what follows."""
    for line in assumptions(setting):
        console.print(line, highlight=False)
    console.print(_phases(comparison.steps))
    console.print(_memory(memory.per_gpu(setting), setting.hardware.memory))
    for line in sentences(setting, comparison):
        console.print(line, highlight=False)


def _phases(steps: Mapping[str, Step]) -> Any:
    from rich.table import Table

    table = Table("seconds a step", title="Time")
    for order in steps:
        table.add_column(HEADINGS[order], justify="right")
    for phase in LOGGED:
        table.add_row(phase, *(seconds(step.logged[phase]) for step in steps.values()), style="bold")
        for part in _PARTS_OF[phase]:
            if any(step.parts.get(part) for step in steps.values()):
                table.add_row(f"  {part}", *(seconds(step.parts[part]) for step in steps.values()))
    table.add_row("step", *(seconds(step.total) for step in steps.values()), style="bold")
    return table


def _memory(groups: Mapping[str, Mapping[str, float]], limit: float) -> Any:
    from rich.table import Table

    table = Table("GB a GPU", title=f"Memory, of {limit / 1e9:g} GB")
    for phase in memory.PHASES:
        table.add_column(phase, justify="right")
    for group, phases in groups.items():
        table.add_row(group, *(f"{phases[phase] / 1e9:.0f}" for phase in memory.PHASES))
    return table


def show_all(compared: Mapping[str, tuple[Setting, Comparison]], console: "Console") -> None:
    """Print a line for each of several settings."""
    from rich.table import Table

    table = Table("setting", title="Seconds a step")
    for heading in ("generation", "none", "filter", "time", "forward + train", "of ideal", "k up to", "N up to", "GB"):
        table.add_column(heading, justify="right")
    for name, (setting, comparison) in compared.items():
        none, filtered = (comparison.steps[order] for order in ("none", "filter"))
        needed = memory.largest(setting)
        table.add_row(
            name,
            seconds(none.logged["generation"]),
            *(seconds(step.total) for step in (none, filtered)),
            f"{filtered.total / none.total:.2f}",
            f"{filtered.learning / none.learning:.2f}",
            f"{comparison.share:.2f}",
            str(comparison.keep_at_most),
            str(comparison.samples_at_most),
            f"{needed / 1e9:.0f}" + (" (too much)" if needed > setting.hardware.memory else ""),
        )
    console.print(table)
