"""What a distribution, or a recipe, requires of installed distributions."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import InvalidRequirement, Requirement

from ppokit import __version__
from ppokit.kinds import PROJECT


def unmet(text: str) -> str:
    """Why a requirement, such as `acme>=1.2,<2`, does not hold here; empty where it does."""
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        return f"{text!r} is no requirement; expected a distribution and its versions, such as 'acme>=1.2,<2'"
    try:
        present = version(requirement.name)
    except PackageNotFoundError:
        return f"{requirement.name} is not installed; expected {text}: pip install {text!r}"
    if not present:  # half an install
        return f"{requirement.name} is installed without its version; expected {text}: pip install {text!r}"
    if not requirement.specifier.contains(present, prereleases=True):
        return f"{requirement.name} {present} is installed; expected {text}: pip install {text!r}"
    return ""


def other_ppokit(distribution: str) -> str:
    """Of which versions of ppokit a distribution is built for, where this is none of them; else empty."""
    try:
        texts = requires(distribution) or []
    except PackageNotFoundError:
        return ""
    for text in texts:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        fits = requirement.specifier.contains(__version__, prereleases=True)
        if requirement.name.lower() == PROJECT and applies and not fits:
            return str(requirement)
    return ""
