"""What all tests share."""

import sys
from pathlib import Path

# scikit-learn, which checks our metrics, is kept apart by examples/setup.sh: transformers would import it in every
# process of a training.
sys.path.append(str(Path(sys.prefix) / "oracles"))
