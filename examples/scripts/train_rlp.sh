#!/usr/bin/env bash
# Reward learning on policy (arXiv 2403.19279) on one node of 8 GPUs: samples of a trained policy, pairs out of them, a
# new reward model, and PF-PPO from the SFT policy again. A step whose output exists is skipped; remove it to repeat.
#
# Start Ray first (ray start --head --num-gpus 8), then:
# SFT=... POLICY=... REWARD=... PROMPTS=... PAIRS=... HELDOUT=... bash train_rlp.sh [flags of the last train_ppo]
# PPO trained POLICY from SFT with REWARD. PAIRS trained REWARD, HELDOUT did not; both are JSONL with the columns prompt,
# chosen and rejected, prompts with the chat template applied.
# CLUSTER is a value of --cluster; behaviour needs tests in the field LABEL of PROMPTS ("label"; LABEL= for none),
# entailment an NLI_MODEL.
set -euo pipefail
POLICY=${POLICY:?set POLICY to the policy that PPO has trained}
SFT=${SFT:-deepseek-ai/deepseek-coder-6.7b-instruct}
REWARD=${REWARD:?set REWARD to the reward model that trained it}
PAIRS=${PAIRS:?set PAIRS to the preference pairs that REWARD was trained on}
HELDOUT=${HELDOUT:?set HELDOUT to pairs that no reward model trains on}
CLUSTER=${CLUSTER:-behaviour}
LABEL=${LABEL-label}
. "$(dirname "$0")/flags.bash"
OUTPUT=$(realpath -m "${OUTPUT:-./ckpt/rlp}")
mkdir -p "$OUTPUT"

# Sampling as in training; both stages share these.
ROLLOUT=(
  "${DATA[@]}"
  "${SHARED[@]}"
  ${LABEL:+--data.label_key "$LABEL"}
  --rollout.temperature 1.0
  --reward.num_nodes 1 --reward.num_gpus_per_node 8
)

# 1. Ten answers of the policy to each prompt, with the old rewards. With --collect.score FILE.py instead of
#    --collect.unscored, the report of step 2 says whether the pairs are right. An interrupted run continues.
submit openrlhf_pf.cli.collect \
  --actor.model_name_or_path "$POLICY" \
  --reward.model_name_or_path "$REWARD" \
  "${ROLLOUT[@]}" \
  --rollout.n_samples_per_prompt 10 \
  --rollout.batch_size 1024 \
  --collect.unscored \
  --collect.output "$OUTPUT/samples"

# 2. Pairs: an answer that most agree on before one that few do. Read its warnings before step 3.
[ -e "$OUTPUT/spg.jsonl" ] || python3 -m openrlhf_pf.cli.preferences "$OUTPUT/samples" \
  --cluster "$CLUSTER" \
  ${NLI_MODEL:+--entailment_model "$NLI_MODEL"} \
  --threshold 0.5 \
  --output "$OUTPUT/spg.jsonl"

# 3. A new reward model from the SFT policy's weights.
[ -e "$OUTPUT/spg-reward/config.json" ] || deepspeed --module openrlhf.cli.train_rm \
  --model.model_name_or_path "$SFT" \
  --data.dataset "$PAIRS,$OUTPUT/spg.jsonl" \
  --eval.dataset "$HELDOUT" \
  --data.prompt_key prompt \
  --data.chosen_key chosen \
  --data.rejected_key rejected \
  --data.max_len 2048 \
  --train.batch_size 256 \
  --train.micro_batch_size 8 \
  --train.max_epochs 1 \
  --adam.lr 9e-6 \
  --ds.zero_stage 2 \
  --model.gradient_checkpointing_enable \
  --ckpt.output_dir "$OUTPUT/spg-reward" \
  --logger.tensorboard_dir "$OUTPUT/spg-reward/tensorboard"

# 4. PF-PPO from the SFT policy, not from POLICY, by the new reward model.
submit openrlhf.cli.train_ppo \
  --sample_filter best_worst \
  --sample_filter_keep 2 \
  --actor.model_name_or_path "$SFT" \
  --reward.model_name_or_path "$OUTPUT/spg-reward" \
  --critic.model_name_or_path "$OUTPUT/spg-reward" \
  "${ROLLOUT[@]}" \
  --rollout.n_samples_per_prompt 5 \
  --rollout.batch_size 1024 \
  --rollout.micro_batch_size 16 \
  --train.batch_size 256 \
  --train.micro_batch_size 4 \
  --train.num_episodes 5 \
  "${ACTOR[@]}" "${CRITIC[@]}" "${ASLEEP[@]}" "${CRITIC_ASLEEP[@]}" \
  --ckpt.output_dir "$OUTPUT/spg-policy" \
  --logger.tensorboard_dir "$OUTPUT/spg-policy/tensorboard" \
  "$@"
