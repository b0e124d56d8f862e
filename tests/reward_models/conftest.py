"""Small models that reward models are fitted on."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def bert(tmp_path_factory) -> str:
    from fit_models import save_bert

    path = tmp_path_factory.mktemp("bert")
    save_bert(path)
    return str(path)


@pytest.fixture(scope="session")
def llama(tmp_path_factory) -> str:
    from fit_models import save_llama

    path = tmp_path_factory.mktemp("llama")
    save_llama(path)
    return str(path)
