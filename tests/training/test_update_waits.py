"""How often the update waits for the model's device, counted on a pretended card."""

from __future__ import annotations

import pytest

from ppokit.models.roles import ModelRoles
from ppokit.training.backend import ReplicatedBackend
from ppokit.training.microbatches import MicroBatcher
from ppokit.training.parity import ParityCheck
from ppokit.training.update import Updater
from pretended_card import CARD, PretendedCard
from rollouts import single_process
from small_models import tiny_llama
from update_bench import both_losses, samples, settings_of


def test_an_epoch_waits_once_per_micro_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """And once for the gradient's norm of its optimizer step. What an update does once falls out."""
    processes, settings = single_process(), settings_of(minibatches=1, tokens_per_microbatch=40)
    rollout, advantages = samples()
    waits = {}
    with PretendedCard() as card:
        model = tiny_llama(num_hidden_layers=1, vocab_size=512).to(CARD)
        roles = ModelRoles(model, lora=None, value="policy_trunk", reference=False)
        backend = ReplicatedBackend(roles, processes, weight_decay=0.0)
        monkeypatch.setattr(backend, "step", lambda rate: backend.zero())  # AdamW knows this device
        batcher = MicroBatcher(settings.update, seed=0, processes=processes, device=roles.device)
        parity = ParityCheck(roles, processes, temperature=0.9, engine="rollout engine", limit=None)
        updater = Updater(roles, backend, both_losses(), batcher, settings, processes, parity)
        micros = len(batcher.divide(rollout, 1).micros[0])
        for epochs in (2, 4):
            card.syncs.clear()
            updater.update(rollout, advantages, 1, epochs=epochs)
            waits[epochs] = card.syncs.total()
    assert micros > 2
    assert waits[4] - waits[2] == 2 * (micros + 1), card.syncs
