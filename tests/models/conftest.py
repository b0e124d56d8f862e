"""How processes share the matrix out: an architecture's checks share its runs, and so a process."""

from __future__ import annotations

import re
from typing import Any

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """For `--dist loadscope`: the architecture is the scope. `loadgroup` does nothing with pytest 9.2."""
    if config.getvalue("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByArchitecture(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            name = re.search(r"::test_matrix\[(.*)-(LoRA|all weights|4 bits|fitted reward)-", nodeid)
            return name[1] if name else nodeid

    return ByArchitecture(config, log)
