"""The labels that data sets have, one reader per form, and the answers that models write."""

from openrlhf_pf.code_reward.tasks.functions import humaneval, leetcode, mbpp
from openrlhf_pf.code_reward.tasks.labels import BENCHMARKS, FORMS, from_label
from openrlhf_pf.code_reward.tasks.task import Task

__all__ = ["BENCHMARKS", "FORMS", "Task", "from_label", "humaneval", "leetcode", "mbpp"]
