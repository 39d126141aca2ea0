"""Build script of openrlhf-pf. Everything static that tools read is in pyproject.toml."""

import re
from pathlib import Path

from setuptools import Distribution, find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "openrlhf_pf" / "__init__.py").read_text("utf-8"), re.M)[1]

# What filters, analyze, preferences and evaluate import (tests/test_architecture.py compares). No torch: reading a
# table of scores should not need it.
REQUIRES = [
    "jinja2>=3.1",
    "matplotlib>=3.8",
    "numpy>=1.26",
    "packaging>=22",
    "pyarrow>=15",
    "pydantic>=2.5",
    "rich>=13",
    "scipy>=1.12",
    "typing_extensions>=4.6",
]
EXTRAS = {
    # Training, on top of an OpenRLHF that may also be installed from source.
    "openrlhf": ["openrlhf>=0.11.0,<0.12", "torch>=2.4"],
    "examples": ["scikit-learn>=1.4", "torch>=2.4"],
    "test": [
        "hypothesis>=6.100",
        "pandas>=2",
        "pytest>=8",
        "pytest-timeout>=2.3",
        "pytest-xdist>=3.5",
        "scikit-learn>=1.4",
    ],
}
EXTRAS["dev"] = [*EXTRAS["examples"], *EXTRAS["test"], "black>=25", "isort>=6", "pre-commit", "ruff>=0.9"]


class DistributionWithData(Distribution):
    """An editable install asks for `has_data` before it installs data files, and setuptools defines no such method."""

    has_data = Distribution.has_data_files


setup(
    distclass=DistributionWithData,
    name="openrlhf-pf",
    version=VERSION,
    description="Policy Filtration PPO for OpenRLHF: train on the responses whose reward can be relied on",
    long_description=(ROOT / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    author="The openrlhf-pf authors",
    project_urls={
        "Paper": "https://arxiv.org/abs/2409.06957",
        "OpenRLHF": "https://github.com/OpenRLHF/OpenRLHF",
    },
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["RLHF", "PPO", "reward model", "OpenRLHF", "policy filtration", "LLM"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=find_packages(include=["openrlhf_pf", "openrlhf_pf.*"]),
    package_data={"openrlhf_pf": ["py.typed", "**/*.css", "**/*.html", "**/*.j2", "**/*.js"]},
    # site-packages itself: a wheel unpacks <name>.data/purelib there, and data files start in <name>.data/data.
    data_files=[("../purelib", ["openrlhf_pf/openrlhf_pf.pth"])],
    entry_points={"console_scripts": ["openrlhf-pf = openrlhf_pf.__main__:main"]},
    zip_safe=False,
    install_requires=REQUIRES,
    extras_require=EXTRAS,
)
