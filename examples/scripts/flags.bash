# Flags that the scripts of this folder share, for one node of 8 GPUs; they source this file.
POLICY=${POLICY:-deepseek-ai/deepseek-coder-6.7b-instruct}
PROMPTS=${PROMPTS:?set PROMPTS to a prompt data set}

# Prompts with a field "prompt", responses of up to 1024 tokens.
DATA=(
  --data.prompt_dataset "$PROMPTS"
  --data.input_key prompt
  --data.apply_chat_template
  --data.max_len 2048
  --rollout.max_new_tokens 1024
)
# All models and engines on the same GPUs.
SHARED=(
  --train.colocate_all
  --vllm.num_engines 8
  --vllm.tensor_parallel_size 1
  --vllm.gpu_memory_utilization 0.5
)
# They sleep in turn while training.
ASLEEP=(
  --actor.num_nodes 1 --actor.num_gpus_per_node 8
  --ref.num_nodes 1 --ref.num_gpus_per_node 8
  --vllm.enable_sleep
  --ds.enable_sleep
)
ACTOR=(
  --actor.adam.lr 5e-7
  --actor.gradient_checkpointing_enable
  --ds.zero_stage 3
  --ds.packing_samples
)
# The paper's (arXiv 2409.06957).
CRITIC=(
  --critic.adam.lr 9e-6
  --algo.kl.init_coef 0.01
)
CRITIC_ASLEEP=(--critic.num_nodes 1 --critic.num_gpus_per_node 8)

submit() {
  ray job submit --address="${RAY_API_SERVER:-http://127.0.0.1:8265}" -- python3 -m "$@"
}
