"""GPUs by their data sheets, and settings to start from; every assumption is a field that a flag changes."""

from openrlhf_pf.cost.setting import Hardware, Model, Setting

#: NVIDIA's data sheets: dense bfloat16 FLOP/s, memory, its bandwidth. Interconnect: one way of NVLink, 400 GB/s where
#: a node of eight has a network card of 400 Gbit/s for each; host: PCIe, one way.
HARDWARE = {
    "h100": Hardware("H100 SXM 80 GB", 989e12, 80e9, 3.35e12, 400e9, 50e9),
    "h200": Hardware("H200 SXM 141 GB", 989e12, 141e9, 4.8e12, 400e9, 50e9),
    "a100": Hardware("A100 SXM 80 GB", 312e12, 80e9, 2.04e12, 200e9, 25e9),
}

#: Widths as Llama 3's of about that size: 8 heads of keys and values, 128 wide.
MODELS = {
    "7B": Model(7e9, layers=32, width=4096, kv_width=1024),
    "70B": Model(70e9, layers=80, width=8192, kv_width=1024),
}


def preset(size: str, gpus: int) -> Setting:
    """PPO, four models of a size that share all GPUs: 1,024 prompts of 512 tokens, 8 responses of 1,024, 2 kept."""
    model = MODELS[size]
    return Setting(
        *(model, model, model, model),
        hardware=HARDWARE["h100"],
        gpus=dict.fromkeys(("actor", "critic", "reward", "reference", "vllm"), gpus),
        tensor_parallel=1 if size == "7B" else 8,
        vllm_memory=0.5 if size == "7B" else 0.6,
    )


PRESETS = {f"{size.lower()}-{gpus}": preset(size, gpus) for size in MODELS for gpus in (8, 64, 512)}
