"""Constraints for pip: `oldest` prints the lower bounds of pyproject.toml, `newest` none.

The tools of the extra `dev` are left alone: what they say changes with their versions.
"""

import re
import sys
import tomllib
from pathlib import Path

if sys.argv[1:] == ["oldest"]:
    text = Path(__file__).parents[1].joinpath("pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    extras = [r for name, group in project["optional-dependencies"].items() if name != "dev" for r in group]
    for requirement in [*project["dependencies"], *extras]:
        if match := re.match(r"([\w.-]+)>=([\w.]+)", requirement):
            print(f"{match[1]}=={match[2]}{'' if match[2].count('.') > 1 else '.*'}")
elif sys.argv[1:] != ["newest"]:
    sys.exit(f"got {sys.argv[1:]}, expected 'oldest' or 'newest'")
