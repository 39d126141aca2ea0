#!/usr/bin/env bash
# PF-PPO with the paper's hyper-parameters (arXiv 2409.06957) on one node of 8 GPUs, all models sharing them.
#
# Start Ray first (ray start --head --num-gpus 8), then: POLICY=... REWARD=... PROMPTS=... bash train_pf_ppo_ray_hybrid_engine.sh
# POLICY is an SFT checkpoint, REWARD one that openrlhf.cli.train_rm made from it, PROMPTS a data set with a field "prompt".
set -euo pipefail
POLICY=${POLICY:-deepseek-ai/deepseek-coder-6.7b-instruct}
REWARD=${REWARD:?set REWARD to a reward model checkpoint}
PROMPTS=${PROMPTS:?set PROMPTS to a prompt data set}

# N = 5 responses a prompt, all scored; best and worst train. 1024 prompts x 2 kept = 2048 samples = 8 batches of 256.
ray job submit --address="${RAY_API_SERVER:-http://127.0.0.1:8265}" -- \
  python3 -m openrlhf.cli.train_ppo \
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
  --data.prompt_dataset "$PROMPTS" \
  --data.input_key prompt \
  --data.apply_chat_template \
  --data.max_len 2048 \
  --rollout.max_new_tokens 1024 \
  --actor.adam.lr 5e-7 \
  --critic.adam.lr 9e-6 \
  --algo.kl.init_coef 0.01 \
  --actor.num_nodes 1 --actor.num_gpus_per_node 8 \
  --critic.num_nodes 1 --critic.num_gpus_per_node 8 \
  --ref.num_nodes 1 --ref.num_gpus_per_node 8 \
  --reward.num_nodes 1 --reward.num_gpus_per_node 8 \
  --train.colocate_all \
  --vllm.num_engines 8 \
  --vllm.tensor_parallel_size 1 \
  --vllm.gpu_memory_utilization 0.5 \
  --vllm.enable_sleep \
  --ds.enable_sleep \
  --ds.zero_stage 3 \
  --ds.packing_samples \
  --actor.gradient_checkpointing_enable \
  --ckpt.output_dir ./ckpt/pf-ppo \
  --logger.tensorboard_dir ./ckpt/pf-ppo/tensorboard \
  "$@"
