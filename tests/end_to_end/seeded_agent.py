"""An agent whose responses depend on prompt, weights and nothing else.

vLLM draws from one stream of random numbers for all requests of a batch, and computes in another order in a batch of
another size. Here each response has a seed of its own, and one is generated at a time.
"""

import asyncio
import zlib
from collections import Counter

from openrlhf.utils.agent import SingleTurnAgentExecutor

SAMPLES = 4  #: N, of whoever uses this


class AgentExecutor(SingleTurnAgentExecutor):
    def __init__(self):
        super().__init__()
        self.asked: Counter[str] = Counter()
        self.alone = asyncio.Lock()

    async def execute(self, prompt, label, sampling_params, *args, **kwargs):
        """A response of 3 to 12 tokens; its reward is a hash of them, so that no two are the same."""
        seed = zlib.crc32(f"{prompt} {self.asked[prompt] % SAMPLES}".encode())
        self.asked[prompt] += 1
        own = sampling_params.clone()
        own.seed, own.max_tokens = seed, 3 + seed % 10
        async with self.alone:
            response = await super().execute(prompt, label, own, *args, **kwargs)
        reward = zlib.crc32(str(response["observation_tokens"]).encode()) / 2**32
        return {**response, "reward": reward, "scores": reward}
