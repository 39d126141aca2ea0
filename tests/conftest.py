"""What all tests share."""

import sys
from pathlib import Path

# Where examples/setup.sh puts scikit-learn, so that no training process imports it.
sys.path.append(str(Path(sys.prefix) / "aside"))
