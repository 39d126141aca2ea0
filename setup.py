"""Build script of openrlhf-pf. Everything static that tools read is in pyproject.toml."""

import re
from pathlib import Path

from setuptools import Distribution, find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "openrlhf_pf" / "__init__.py").read_text("utf-8"), re.M)[1]
README = ROOT / "README.md"

EXTRAS = {
    "openrlhf": ["openrlhf>=0.11.0,<0.12"],
    "cpu": ["patch-ng>=1.19,<2"],
    "plot": ["matplotlib>=3.8", "rich>=13"],
    "analyze": ["jinja2>=3.1", "matplotlib>=3.8", "numpy>=1.26", "rich>=13", "scipy>=1.12"],
    "test": ["hypothesis>=6.100", "pandas>=2", "pytest>=8", "pytest-timeout>=2.3", "scikit-learn>=1.4", "scipy>=1.11"],
}
EXTRAS["examples"] = [*EXTRAS["analyze"], "gymnasium>=1.4,<2", "scikit-learn>=1.4"]  # beyond_language, noise_mask
EXTRAS["dev"] = (
    EXTRAS["cpu"]
    + EXTRAS["plot"]
    + EXTRAS["examples"]
    + EXTRAS["test"]
    + ["black>=25", "isort>=6", "pre-commit", "ruff>=0.9"]
)


class DistributionWithData(Distribution):
    """An editable install asks for `has_data` before it installs data files, and setuptools defines no such method."""

    has_data = Distribution.has_data_files


setup(
    distclass=DistributionWithData,
    name="openrlhf-pf",
    version=VERSION,
    description="Policy Filtration PPO for OpenRLHF: train on the responses whose reward can be relied on",
    long_description=README.read_text("utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.10",
    # A top-level folder in the repository, a part of the package once installed.
    package_dir={"openrlhf_pf.patches": "patches"},
    packages=[*find_packages(include=["openrlhf_pf", "openrlhf_pf.*"]), "openrlhf_pf.patches"],
    package_data={"openrlhf_pf.patches": ["*.patch", "*.md"]},
    # site-packages itself: a wheel unpacks <name>.data/purelib there, and data files start in <name>.data/data.
    data_files=[("../purelib", ["openrlhf_pf/openrlhf_pf.pth"])],
    zip_safe=False,
    # The plugin alone installs beside any OpenRLHF, also beside one that was installed from source.
    install_requires=["torch>=2.4", "pyarrow>=15", "packaging>=22"],
    extras_require=EXTRAS,
)
