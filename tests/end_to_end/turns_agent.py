"""An agent of two or three turns: the environment answers between them, and rewards add up."""

import torch
from openrlhf.utils.agent import AgentInstanceBase, MultiTurnAgentExecutor

#: A random policy ends its text once in 258 tokens; a turn is over at every third.
STOP = range(2, 258, 3)


class Agent(AgentInstanceBase):
    def __init__(self, *args, **kwargs):
        self.turn = 0

    async def step(self, states, **kwargs):
        self.turn += 1
        return {
            "rewards": torch.tensor(len(set(states["action_text"])) / 20),
            "environment_feedback": f"<{self.turn}>",
            "done": self.turn == 2 + len(states["label"]) % 2,
            "extra_logs": {"turns": torch.tensor(float(self.turn))},
        }


class AgentExecutor(MultiTurnAgentExecutor):
    def __init__(self):
        super().__init__(Agent)

    async def execute(self, prompt, label, sampling_params, *args, **kwargs):
        own = sampling_params.clone()
        own.stop_token_ids = list(STOP)
        return await super().execute(prompt, label, own, *args, **kwargs)
