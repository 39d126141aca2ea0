"""Memory of a GPU, phase by phase, in bytes.

Counted: weights, gradients and optimizer states as ZeRO shares them (16 bytes a parameter: Rajbhandari et al. 2020,
arXiv 1910.02054, section 3.1); activations (34 bytes a token and width in a layer without the scores of attention, 2
between layers where they are recomputed: Korthikanti et al. 2022, arXiv 2205.05198, sections 4.1 and 5); logits in
two and four bytes; what ZeRO-3 holds gathered (DeepSpeed: at most 1e9 parameters); vLLM's share; half a gigabyte a
process. Not counted: fragments, and what libraries take for themselves beyond that.
"""

from openrlhf_pf.cost.setting import Model, Setting

PROCESS = 0.5e9
GATHERED = 1e9
PHASES = ("generation", "make_experience", "ppo_train")


def weights(model: Model, setting: Setting, gpus: int) -> float:
    """Of a model that only goes forward: 2 P, shared out by ZeRO-3."""
    return 2 * model.parameters / (gpus if setting.zero_stage == 3 else 1)


def states(model: Model, setting: Setting, gpus: int) -> float:
    """Of a model that trains, beside its weights: 2 bytes of gradients, 12 of the optimizer, shared by stage."""
    gradients = 2 / (gpus if setting.zero_stage >= 2 else 1)
    optimizer = 0.0 if setting.adam_offload else 12 / (gpus if setting.zero_stage >= 1 else 1)
    return model.parameters * (gradients + optimizer)


def activations(model: Model, setting: Setting, training: bool, logits: bool) -> float:
    """Of one micro-batch; a forward pass alone holds one layer's and, in the actor and the reference, the logits."""
    tokens = setting.tokens * (setting.train_micro_batch if training else setting.micro_batch)
    layer = 34 * tokens * model.width
    if training:
        layer += 2 * tokens * model.width * model.layers if setting.checkpointing else layer * (model.layers - 1)
    # In two bytes and in four; their gradient in four more.
    return layer + (tokens * model.vocabulary * (10 if training else 6) if logits else 0.0)


def per_gpu(setting: Setting) -> dict[str, dict[str, float]]:
    """Group of GPUs to phase to bytes of one of its GPUs."""
    groups: dict[str, list[str]] = {}
    for role in (*setting.models(), "vllm"):
        groups.setdefault(setting.group(role), []).append(role)
    return {group: {phase: _in_phase(setting, roles, phase) for phase in PHASES} for group, roles in groups.items()}


def largest(setting: Setting) -> float:
    """The most that any GPU holds in any phase."""
    return max(max(phases.values()) for phases in per_gpu(setting).values())


def _in_phase(setting: Setting, roles: list[str], phase: str) -> float:
    models = {role: model for role, model in setting.models().items() if role in roles}
    total = PROCESS * len(roles)
    if "vllm" in roles and (phase == "generation" or not setting.sleeping or len(roles) == 1):
        total += setting.vllm_memory * setting.hardware.memory
    trains = {}
    for role, model in models.items():
        gpus = setting.gpus[role]
        total += weights(model, setting, gpus)
        if role in ("actor", "critic"):
            trains[role] = states(model, setting, gpus) + activations(model, setting, True, role == "actor")
            if not setting.sleeping:
                total += states(model, setting, gpus)
                trains[role] -= states(model, setting, gpus)
    if phase == "make_experience" and models:
        # One after the other where they share GPUs.
        total += max(
            activations(model, setting, False, role in ("actor", "reference")) for role, model in models.items()
        )
    if phase == "ppo_train" and trains:
        # Sleeping models train one after the other.
        total += max(trains.values()) if setting.sleeping else sum(trains.values())
    if phase != "generation" and models and setting.zero_stage == 3:
        total += 2 * min(GATHERED, max(model.parameters for model in models.values()))
    return total
