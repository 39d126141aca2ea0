"""OpenRLHF's reward-model trainer with a second loss on the policy's own samples (RLP-UML, arXiv 2403.19279).

OpenRLHF's ``fit`` adds the auxiliary loss that ``concatenated_forward`` returns, and logs it.
"""

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from openrlhf.trainer.rm_trainer import RewardModelTrainer
from openrlhf.utils.logging_utils import init_logger
from torch import Tensor

from openrlhf_pf.rlp.multi_view import HEADS, compute_view_loss, make_heads
from openrlhf_pf.rlp.views import View
from openrlhf_pf.training.flags.policy_samples import load_views

logger = init_logger(__name__)

#: Spread of mu over a batch below which the heads distinguish no prompts, see ``ViewLoss.metrics``.
COLLAPSED = 1e-3


def with_heads(build: Callable[..., Any], size: int) -> Callable[..., Any]:
    """Return OpenRLHF's ``get_llm_for_sequence_regression`` with heads in its model.

    They are added before DeepSpeed makes its engine, or they would have no optimizer.
    """

    def built(*args: Any, **kwargs: Any) -> Any:
        model = build(*args, **kwargs)
        parameter = next(model.parameters())
        for name, head in make_heads(model.config.hidden_size, size).items():
            setattr(model, name, head.to(parameter.device, parameter.dtype))
        return model

    return built


class PolicyRewardTrainer(RewardModelTrainer):
    """Adds L_M on a batch of views to the loss of each micro-batch; evaluation and what is saved are unchanged."""

    def __init__(self, model: Any, strategy: Any, *args: Any, **kwargs: Any) -> None:
        settings, self._step = strategy.args, 0
        # The parent's weight of the loss. Not earlier: OpenRLHF's entry module nests its arguments again.
        settings.model.aux_loss_coef = settings.policy_samples_weight
        super().__init__(model, strategy, *args, **kwargs)
        self._views = load_views(settings)
        # Positional, as in OpenRLHF: data set, batch, pin_memory, shuffle, collate_fn.
        loader = self.strategy.setup_dataloader(self._views, settings.policy_samples_batch, False, True, self.tokenize)
        self._batches = self._endless(loader)
        self._metrics: dict[str, float] = {}
        self._warned = False

    def _endless(self, loader: Any) -> Iterator[tuple[Tensor, Tensor]]:
        number = 0
        while True:
            self._views.set_epoch(number)
            if hasattr(loader.sampler, "set_epoch"):  # or each pass has the order of the first
                loader.sampler.set_epoch(number)
            yield from loader
            number += 1

    def tokenize(self, views: Sequence[View]) -> tuple[Tensor, Tensor]:
        """Return (2 B, T) tokens and mask, first views before second ones: padded on the left, ended as OpenRLHF's
        ``RewardDataset`` ends the texts of pairs.
        """
        end = self.tokenizer.eos_token
        texts = [(view[0] + view[place]).rstrip("\n") for place in (1, 2) for view in views]
        texts = [text if text.endswith(end) else f"{text} {end}" for text in texts]
        settings = {"max_length": self.args.data.max_len, "truncation": True, "add_special_tokens": False}
        ids = [torch.tensor(self.tokenizer(text, **settings)["input_ids"]) for text in texts]
        width = max(map(len, ids))
        tokens = torch.full((len(ids), width), self.tokenizer.pad_token_id)
        mask = torch.zeros_like(tokens)
        for row, text_ids in enumerate(ids):
            tokens[row, width - len(text_ids) :], mask[row, width - len(text_ids) :] = text_ids, 1
        tokens[:, -1] = self.tokenizer.eos_token_id
        return tokens, mask

    def concatenated_forward(self, model: Any, *batch: Tensor) -> tuple[Tensor, Tensor, Any]:
        """As in the parent; while it trains, the auxiliary loss is L_M of the next views."""
        chosen, rejected, aux_loss = super().concatenated_forward(model, *batch)
        if not torch.is_grad_enabled():  # evaluation
            return chosen, rejected, aux_loss
        return chosen, rejected, self._loss_of_views(model)

    def _loss_of_views(self, model: Any) -> Tensor:
        plain = self.strategy._unwrap_model(model)
        device = next(plain.parameters()).device
        tokens, mask = (part.to(device) for part in next(self._batches))
        rewards, output = model(tokens, attention_mask=mask, return_output=True)
        # Where the reward is read: the last token, for padding is on the left.
        first, second = output["last_hidden_state"][:, -1].chunk(2)
        found = compute_view_loss(first, second, *(getattr(plain, name) for name in HEADS), self._skl_weight())
        one, other = rewards.detach().float().chunk(2)
        # At 0, the loss has made the rewards of a prompt's responses equal, which a filter has to distinguish.
        metrics = {**found.metrics, "reward_spread": (one - other).abs().mean().item()}
        self._metrics = {f"rlp/{name}": value for name, value in metrics.items()}
        if found.metrics["std"] < COLLAPSED and not self._warned:
            self._warned = True
            logger.warning(
                f"the views' means spread by {found.metrics['std']:.1e} only: they distinguish no prompts, and the "
                "loss on policy samples has no effect; try a longer --policy_samples_ramp."
            )
        return found.loss

    def _skl_weight(self) -> float:
        ramp = self.args.policy_samples_ramp
        return min(1.0, self._step / ramp) if ramp else 1.0

    def save_logs_and_checkpoints(
        self, args: Any, global_step: int, step_bar: Any, logs_dict: Any = None, client_states: Any = None
    ) -> None:
        """As in the parent, with the metrics of the views."""
        self._step = global_step
        metrics = self.strategy.all_reduce(dict(self._metrics)) if self._metrics else {}
        super().save_logs_and_checkpoints(args, global_step, step_bar, {**(logs_dict or {}), **metrics}, client_states)

    def fit(self, *args: Any, **kwargs: Any) -> None:
        """As in the parent; then remove the heads, so that an ordinary reward model is saved."""
        super().fit(*args, **kwargs)
        plain = self.strategy._unwrap_model(self.model)
        for name in HEADS:
            delattr(plain, name)


def install(args: SimpleNamespace, entry: Any) -> None:
    """Replace the model and the trainer that OpenRLHF's entry module looks up."""
    entry.get_llm_for_sequence_regression = with_heads(entry.get_llm_for_sequence_regression, args.policy_samples_dim)
    entry.RewardModelTrainer = PolicyRewardTrainer
