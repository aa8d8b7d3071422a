"""The list of packages: three folders of the checkout, one import package (see pyproject.toml)."""

from setuptools import find_namespace_packages, setup


def packages(folder: str, name: str) -> list[str]:
    """`name` and each folder below `folder` as a subpackage; folders of data count, so that they are shipped."""
    below = find_namespace_packages(folder, exclude=["*__pycache__*"])
    return [name, *(f"{name}.{package}" for package in below)]


setup(
    packages=[
        *packages("omnidistill", "omnidistill"),
        *packages("modalities", "omnidistill.modalities"),
        *packages("configs", "omnidistill.configs"),
    ]
)
