"""Install with `pip install -e .`; the extras are listed below. The wheel holds `rmas` alone."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
REQUIREMENTS = [
    line.split("#")[0].strip()
    for line in (HERE / "requirements.txt").read_text().splitlines()
    if line.split("#")[0].strip()
]
JAX = next(line for line in REQUIREMENTS if line.startswith("jax"))
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "rmas" / "__init__.py").read_text())[1]
PLOTS = ["matplotlib>=3.9"]
TORCH = ["torch==2.13.0"]  # parity tests only; without it they run on the committed goldens
TAVILY = ["tavily-python>=0.7.9"]  # web search with a key of your own
NOTEBOOKS = ["nbmake>=1.5", "ipykernel>=6.29"]  # runs those of experiments/colab as tests
TEST = ["pytest>=8.0", "pytest-xdist>=3.6", *PLOTS]
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.5", "mkdocstrings[python]>=1.0"]
LINT = ["ruff>=0.8", "mypy>=1.13"]

setup(
    name="rmas",
    version=VERSION,
    description="RecursiveMAS (arXiv 2604.25917) on JAX: agents that think together in latents",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["rmas", "rmas.*"]),
    package_data={"rmas": ["py.typed", "models/*.json", "system/prompt_sets/*.json", "tiny/**/*"]},
    install_requires=REQUIREMENTS,
    extras_require={
        "cuda": [JAX.replace("jax", "jax[cuda12]", 1)],
        "tpu": [JAX.replace("jax", "jax[tpu]", 1)],
        "plots": PLOTS,
        "torch": TORCH,
        "tavily": TAVILY,
        "test": TEST,
        "notebooks": NOTEBOOKS,
        "docs": DOCS,
        "dev": [*TEST, *TORCH, *NOTEBOOKS, *DOCS, *LINT],
    },
)
