#!/usr/bin/env bash
# PF-PPO without a critic on one node of 8 GPUs, with rewards from an HTTP server or a Python file.
#
# Start Ray first (ray start --head --num-gpus 8), then: POLICY=... REWARD_URL=... PROMPTS=... bash train_pf_ppo_remote_rm.sh
# REWARD_URL is what OpenRLHF's --reward.remote_url takes: http://host:port/path, or a path that ends in .py.
set -euo pipefail
REWARD_URL=${REWARD_URL:?set REWARD_URL to a reward server or a .py file}
. "$(dirname "$0")/flags.bash"

# group_norm takes its baseline from the kept samples of a prompt: 4 of 8 here, two best and two worst.
submit openrlhf.cli.train_ppo \
  --sample_filter best_worst \
  --sample_filter_keep 4 \
  --algo.advantage.estimator group_norm \
  --algo.kl.use_loss \
  --algo.kl.estimator k3 \
  --algo.kl.init_coef 0.001 \
  --rollout.n_samples_per_prompt 8 \
  --rollout.batch_size 256 \
  --rollout.micro_batch_size 8 \
  --train.batch_size 512 \
  --train.micro_batch_size 4 \
  --actor.model_name_or_path "$POLICY" \
  --reward.remote_url "$REWARD_URL" \
  --data.label_key label \
  "${DATA[@]}" "${ACTOR[@]}" "${SHARED[@]}" "${ASLEEP[@]}" \
  --ckpt.output_dir ./ckpt/pf-ppo-remote \
  --logger.tensorboard_dir ./ckpt/pf-ppo-remote/tensorboard \
  "$@"
