#!/usr/bin/env bash
# Asynchronous PF-PPO on one node of 8 GPUs: four generate while four train on the samples that best_random kept.
#
# Start Ray first (ray start --head --num-gpus 8), then: POLICY=... REWARD=... PROMPTS=... bash train_pf_ppo_async.sh
set -euo pipefail
REWARD=${REWARD:?set REWARD to a reward model checkpoint}
. "$(dirname "$0")/flags.bash"

# 256 prompts x 2 kept = 512 samples a rollout; the four training GPUs hold actor, critic, reference and reward model.
submit openrlhf.cli.train_ppo \
  --sample_filter best_random \
  --rollout.n_samples_per_prompt 5 \
  --rollout.batch_size 256 \
  --rollout.micro_batch_size 8 \
  --train.batch_size 256 \
  --train.micro_batch_size 4 \
  --train.async_enable \
  --train.async_queue_size 2 \
  --actor.model_name_or_path "$POLICY" \
  --reward.model_name_or_path "$REWARD" \
  --critic.model_name_or_path "$REWARD" \
  "${DATA[@]}" "${ACTOR[@]}" "${CRITIC[@]}" \
  --actor.num_nodes 1 --actor.num_gpus_per_node 4 \
  --critic.num_nodes 1 --critic.num_gpus_per_node 4 \
  --ref.num_nodes 1 --ref.num_gpus_per_node 4 \
  --reward.num_nodes 1 --reward.num_gpus_per_node 4 \
  --train.colocate_all \
  --vllm.num_engines 4 \
  --vllm.tensor_parallel_size 1 \
  --vllm.gpu_memory_utilization 0.9 \
  --ckpt.output_dir ./ckpt/pf-ppo-async \
  --logger.tensorboard_dir ./ckpt/pf-ppo-async/tensorboard \
  "$@"
