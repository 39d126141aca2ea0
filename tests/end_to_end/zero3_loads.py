"""Loads weights together with their biases under ZeRO-3, on each of the ranks that it is started on, and prints how
many of them are what was loaded, of how many.
"""

from types import SimpleNamespace

import deepspeed
import torch
import torch.distributed as dist
from openrlhf.utils.deepspeed import DeepspeedStrategy

TIMES = 40

args = SimpleNamespace(local_rank=-1, ds=SimpleNamespace(param_dtype="bf16"), train=SimpleNamespace())
DeepspeedStrategy(zero_stage=3, args=args).setup_distributed()
config = {
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
    "bf16": {"enabled": True},
    "train_micro_batch_size_per_gpu": 1,
    "train_batch_size": dist.get_world_size(),
}
with deepspeed.zero.Init(config_dict_or_path=config, dtype=torch.bfloat16):
    layers = [torch.nn.Linear(64, 64) for _ in range(3)]

right = 0
for time in range(TIMES):
    torch.manual_seed(time)
    for layer in layers:
        given = [torch.randn(tuple(parameter.ds_shape)).bfloat16() for parameter in layer.parameters()]
        with deepspeed.zero.GatheredParameters(list(layer.parameters()), modifier_rank=0):
            if dist.get_rank() == 0:
                for parameter, value in zip(layer.parameters(), given):
                    parameter.data.copy_(value)
        loaded = True
        for parameter, value in zip(layer.parameters(), given):
            with deepspeed.zero.GatheredParameters([parameter]):
                loaded = loaded and torch.equal(parameter.data, value)
        right += loaded
print(f"rank {dist.get_rank()}: {right} of {TIMES * len(layers)} right\n", end="", flush=True)
