from pathlib import Path

import torch

from ppokit.testing import conformance, rollout_of
from ppokit_politeness import Politeness

test_conformance = conformance(Path(__file__).parent)


def test_the_share_of_polite_words() -> None:
    output = Politeness().score(rollout_of(["Thank you, and sorry.", "No.", ""]))
    assert torch.allclose(output.scores, torch.tensor([2 / 3, 0.0, 0.0]))
    assert output.outcomes == ("scored", "scored", "abstained")
