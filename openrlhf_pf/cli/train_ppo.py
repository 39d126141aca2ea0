"""``python -m openrlhf.cli.train_ppo``, also ``python -m openrlhf_pf.cli.train_ppo``: PPO with a sample filter."""

from openrlhf_pf.training.launch import main

if __name__ == "__main__":
    main()
