"""What people have: labels of many forms, a file each, and the answers that models write."""

from openrlhf_pf.code_reward.tasks.human_eval import humaneval
from openrlhf_pf.code_reward.tasks.labels import BENCHMARKS, FORMS, from_label
from openrlhf_pf.code_reward.tasks.leetcode_contest import leetcode
from openrlhf_pf.code_reward.tasks.mbpp_family import mbpp
from openrlhf_pf.code_reward.tasks.task import Task

__all__ = ["BENCHMARKS", "FORMS", "Task", "from_label", "humaneval", "leetcode", "mbpp"]
