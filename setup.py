"""Install with `pip install -e .`; extras: plots, torch, tavily, test, dev."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
REQUIREMENTS = [
    line.split("#")[0].strip()
    for line in (HERE / "requirements.txt").read_text().splitlines()
    if line.split("#")[0].strip()
]
PLOTS = ["matplotlib>=3.9"]
TORCH = ["torch==2.13.0"]  # parity tests only; without it they run on the committed goldens
TAVILY = ["tavily-python>=0.7.9"]  # web search by a user's own key
NOTEBOOKS = ["nbmake>=1.5", "ipykernel>=6.29"]  # runs those of experiments/colab as tests
TEST = ["pytest>=8.0", "pytest-xdist>=3.6", *PLOTS]

setup(
    name="rmas",
    version="0.1.0",
    description="RecursiveMAS (arXiv 2604.25917) on JAX: agents that think together in latents",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["rmas", "rmas.*", "experiments", "experiments.*"]),
    package_data={"rmas": ["models/*.json", "system/prompt_sets/*.json", "tiny/**/*"]},
    install_requires=REQUIREMENTS,
    extras_require={
        "plots": PLOTS,
        "torch": TORCH,
        "tavily": TAVILY,
        "test": TEST,
        "notebooks": NOTEBOOKS,
        "dev": [*TEST, *TORCH, *NOTEBOOKS, "ruff>=0.8"],
    },
)
