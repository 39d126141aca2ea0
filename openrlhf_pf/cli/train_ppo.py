"""``python -m openrlhf.cli.train_ppo``, also ``openrlhf-pf train_ppo``: PPO with a sample filter."""

from openrlhf_pf.training.startup.launch import main

if __name__ == "__main__":
    main()
