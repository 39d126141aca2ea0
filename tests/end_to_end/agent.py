"""An agent as users write it: one turn, the score is a coin flipped by the response."""

import torch
from openrlhf.utils.agent import AgentInstanceBase, MultiTurnAgentExecutor


class Agent(AgentInstanceBase):
    def __init__(self, *args, **kwargs):
        pass

    async def step(self, states, **kwargs):
        text = states["action_text"]
        return {
            "rewards": torch.tensor(len(set(text)) / 20),
            "scores": torch.tensor(float(len(text) % 2)),
            "environment_feedback": "",
            "done": True,
        }


class AgentExecutor(MultiTurnAgentExecutor):
    def __init__(self):
        super().__init__(Agent)
