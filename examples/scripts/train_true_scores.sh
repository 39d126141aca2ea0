#!/usr/bin/env bash
# A few true scores on one node of 8 GPUs: score samples of the SFT policy, fine-tune it on those that pass, then PPO
# whose reward model true scores correct. A step whose output exists is skipped; remove it to repeat.
#
# Start Ray first (ray start --head --num-gpus 8), then:
# POLICY=... REWARD=... PROMPTS=... SCORE=true_score.py bash train_true_scores.sh [flags of train_ppo]
# POLICY is an SFT checkpoint, REWARD a reward model, PROMPTS a data set with a field "prompt" and, for SCORE, "label"
# (LABEL names another field; LABEL= for none). SCORE is a file like examples/true_score.py.
set -euo pipefail
REWARD=${REWARD:?set REWARD to a reward model checkpoint}
SCORE=$(realpath "${SCORE:?set SCORE to a file with reward_func, like examples/true_score.py}")
LABEL=${LABEL-label}
here=$(dirname "$0")
. "$here/flags.bash"
OUTPUT=$(realpath -m "${OUTPUT:-./ckpt/true-scores}")
mkdir -p "$OUTPUT"

ROLLOUT=(
  "${DATA[@]}"
  "${SHARED[@]}"
  ${LABEL:+--data.label_key "$LABEL"}
  --reward.model_name_or_path "$REWARD"
  --reward.num_nodes 1 --reward.num_gpus_per_node 8
)

# 1. Five answers of the policy to each prompt, with true scores. The prompts are the first ones of the data set.
submit openrlhf_pf.cli.collect \
  --actor.model_name_or_path "$POLICY" \
  "${ROLLOUT[@]}" \
  --rollout.n_samples_per_prompt 5 \
  --rollout.batch_size 1024 \
  --collect.max_prompts "${SCORED_PROMPTS:-1024}" \
  --collect.score "$SCORE" \
  --collect.output "$OUTPUT/samples"

# 2. Fine-tune on the answers that pass.
[ -e "$OUTPUT/right.jsonl" ] || python3 "$here/../right_samples.py" "$OUTPUT/samples" "$OUTPUT/right.jsonl"
[ -e "$OUTPUT/tuned/config.json" ] || deepspeed --module openrlhf.cli.train_sft \
  --model.model_name_or_path "$POLICY" \
  --data.dataset "$OUTPUT/right.jsonl" \
  --data.input_key input \
  --data.output_key output \
  --data.input_template "{}" \
  --data.max_len 2048 \
  --train.batch_size 256 \
  --train.micro_batch_size 8 \
  --train.max_epochs 1 \
  --adam.lr 5e-6 \
  --ds.zero_stage 2 \
  --model.gradient_checkpointing_enable \
  --ckpt.output_dir "$OUTPUT/tuned" \
  --logger.tensorboard_dir "$OUTPUT/tuned/tensorboard"

# 3. PPO from there: 15% of the prompts of each rollout get true scores, which train and correct the reward model.
submit openrlhf.cli.train_ppo \
  --sample_filter_correct head \
  --sample_filter_probe_score "$SCORE" \
  --actor.model_name_or_path "$OUTPUT/tuned" \
  --critic.model_name_or_path "$REWARD" \
  "${ROLLOUT[@]}" \
  --rollout.n_samples_per_prompt 5 \
  --rollout.batch_size 1024 \
  --rollout.micro_batch_size 16 \
  --train.batch_size 256 \
  --train.micro_batch_size 4 \
  --train.num_episodes 5 \
  "${ACTOR[@]}" "${CRITIC[@]}" "${ASLEEP[@]}" "${CRITIC_ASLEEP[@]}" \
  --ckpt.output_dir "$OUTPUT/policy" \
  --logger.tensorboard_dir "$OUTPUT/policy/tensorboard" \
  "$@"
