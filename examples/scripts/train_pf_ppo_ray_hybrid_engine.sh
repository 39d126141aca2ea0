#!/usr/bin/env bash
# PF-PPO with the paper's hyper-parameters (arXiv 2409.06957) on one node of 8 GPUs, all models sharing them.
#
# Start Ray first (ray start --head --num-gpus 8), then: POLICY=... REWARD=... PROMPTS=... bash train_pf_ppo_ray_hybrid_engine.sh
# POLICY is an SFT checkpoint, REWARD one that openrlhf.cli.train_rm made from it, PROMPTS a data set with a field "prompt".
set -euo pipefail
REWARD=${REWARD:?set REWARD to a reward model checkpoint}
. "$(dirname "$0")/flags.bash"

# N = 5 responses a prompt, all scored; best and worst train. 1024 prompts x 2 kept = 2048 samples = 8 batches of 256.
submit openrlhf.cli.train_ppo \
  --sample_filter best_worst \
  --sample_filter_keep 2 \
  --rollout.n_samples_per_prompt 5 \
  --rollout.batch_size 1024 \
  --rollout.micro_batch_size 16 \
  --train.batch_size 256 \
  --train.micro_batch_size 4 \
  --train.num_episodes 5 \
  --actor.model_name_or_path "$POLICY" \
  --reward.model_name_or_path "$REWARD" \
  --critic.model_name_or_path "$REWARD" \
  "${DATA[@]}" "${ACTOR[@]}" "${CRITIC[@]}" "${SHARED[@]}" "${ASLEEP[@]}" "${CRITIC_ASLEEP[@]}" \
  --reward.num_nodes 1 --reward.num_gpus_per_node 8 \
  --ckpt.output_dir ./ckpt/pf-ppo \
  --logger.tensorboard_dir ./ckpt/pf-ppo/tensorboard \
  "$@"
