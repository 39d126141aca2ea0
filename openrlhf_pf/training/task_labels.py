"""Where a filter has a threshold for each task: can the task of every prompt be told, before anything is loaded?"""

from types import SimpleNamespace

from openrlhf_pf.filters.batch_scope import Top
from openrlhf_pf.filters.quantiles import LABEL, label_fields
from openrlhf_pf.training.arguments import filter_from_args
from openrlhf_pf.training.prompt_rows import prompt_column


def check_task_labels(args: SimpleNamespace) -> None:
    """Look for the tasks of the prompts that are to be trained on, where the filter goes by tasks.

    Raises:
        ValueError: the data set has no data sources, or a label has not the field.
    """
    sample_filter = filter_from_args(args)
    per = sample_filter.per if isinstance(sample_filter, Top) else None
    if per == "datasource":
        prompt_column(args, "datasource")
    elif per is not None:
        if not args.data.label_key:
            raise ValueError(f"per={per} needs labels: name the column that holds them with --data.label_key.")
        labels = prompt_column(args, args.data.label_key)
        label_fields([str(label) for label in labels], per.removeprefix(LABEL))
