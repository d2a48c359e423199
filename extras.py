# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What to install where a package is missing. Who has deliberately no torch gets a command that brings none."""

from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec


PACKAGE, TORCH = "flashsloth", "torch"
WITH_TORCH = (TORCH, "accelerate")  # required, but not of those who run exported models
DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml"}  # by the names that are imported, where these differ


def has_torch() -> bool:
    """Whether torch is installed. It is not imported for that."""
    return find_spec(TORCH) is not None


def extra_command(extra: str, needs_torch: bool = True) -> str:
    """
    The command that installs an extra.

    Args:
        extra (`str`): One of setup.cfg, or several with commas.
        needs_torch (`bool`, *optional*, defaults to `True`): Whether its user needs torch. If not, and there is none,
            the command names the requirements of the extra alone: the extra itself would bring torch.
    """
    alone = {}
    if not needs_torch and not has_torch():
        alone = {name: text for one in extra.split(",") for name, text in _requirements(one).items()}
    return _pip_install([*alone.values()] or [f"{PACKAGE}[{extra}]"])


def package_command(package: str) -> str:
    """
    The command that installs a package; for torch also what is missing beside it.

    Args:
        package (`str`): What is imported, such as "torch".
    """
    required, name = _requirements(), DISTRIBUTIONS.get(package, package)
    beside = [one for one in WITH_TORCH if package == TORCH and one != name and not _is_installed(one)]
    return _pip_install([required.get(one, one) for one in (name, *beside)])


def missing_requirements() -> list[str]:
    """What the package requires and is not installed, by the names of distributions; torch is not counted."""
    return [name for name in _requirements() if name not in WITH_TORCH and not _is_installed(name)]


def _pip_install(requirements: list[str]) -> str:
    return " ".join(["pip install", *(f"'{text}'" for text in requirements)])


def _requirements(extra: str = "") -> dict[str, str]:
    """
    What an extra, or the package itself, requires on this machine, by the names of distributions. Nothing is known of
    it where pip did not install the package, or where `packaging` is what is missing.
    """
    try:
        from packaging.requirements import Requirement

        listed = map(Requirement, requires(PACKAGE) or [])
    except ModuleNotFoundError:  # that of a package without metadata is one, too
        return {}
    found = {}
    for requirement in listed:
        marker, requirement.marker = requirement.marker, None
        if ("extra" in str(marker)) == bool(extra) and (marker is None or marker.evaluate({"extra": extra})):
            found[requirement.name] = str(requirement)
    return found


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True
