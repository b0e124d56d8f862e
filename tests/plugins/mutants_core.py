"""Wrong variants of what the algorithms share in the core, and of the rewards around them; see `mutants.py`.

Module -> (its test files, variants); a variant is (name, text that occurs exactly once, text in its place).
"""

from __future__ import annotations

MUTANTS: dict[str, tuple[str, list[tuple[str, str, str]]]] = {
    "ppokit.plugin.masked": (
        "../plugin_api/test_masked.py test_monte_carlo.py test_ppo_clip.py",
        [
            (
                "padding counts in the mean",
                "return x.where(mask, x.new_zeros(())).sum() / mask",
                "return x.sum() / mask",
            ),
            ("padding counts in the number", "/ mask.sum().clamp(min=1)", "/ mask.numel()"),
            (
                "sample and population swapped",
                '1 if variance == "sample" else 0',
                '0 if variance == "sample" else 1',
            ),
            (
                "padding counts in the variance",
                "squares = _centered(x, mask).square()",
                "squares = (x - masked_mean(x, mask)).square()",
            ),
            ("variance for deviation", "variance=variance) + eps).sqrt()", "variance=variance) + eps)"),
            (
                "never centred",
                "return (once - masked_mean(once, mask)).where",
                "return x.where",
            ),
            (
                "rounding is amplified",
                "return (once - masked_mean(once, mask)).where",
                "return once.where",
            ),
            ("the mean is always taken off", "if not center:", "if False:"),
            ("narrow numbers stay narrow", "x.dtype.itemsize < 4", "x.dtype.itemsize < 2"),
        ],
    ),
    "ppokit.plugin.kl_estimators": (
        "../plugin_api/test_kl_estimators.py test_kl_loss.py test_ppo_clip.py",
        [
            (
                "the other direction",
                "log_ratio = logprobs - ref_logprobs",
                "log_ratio = ref_logprobs - logprobs",
            ),
            ("no half", "log_ratio.square() / 2", "log_ratio.square()"),
            ("k3 of the other policy", "clamp_exponent(-log_ratio)", "clamp_exponent(log_ratio)"),
            ("k3 without its control variate", ".expm1() + log_ratio", ".expm1()"),
            ("nothing is held", "_LARGEST_EXPONENT = 60.0", "_LARGEST_EXPONENT = 1e9"),
            (
                "held by a clamp, which stops the gradient",
                "return exponent - (exponent.detach() - _LARGEST_EXPONENT).clamp(min=0)",
                "return exponent.clamp(max=_LARGEST_EXPONENT)",
            ),
            ("the gradient sees the excess", "(exponent.detach() - _L", "(exponent - _L"),
        ],
    ),
    "ppokit.training.aggregation": (
        "../training/test_update.py::TestTokenWeights",
        [
            ("padding counts in the tokens", "real / real.sum().clamp(min=1)", "real / real.numel()"),
            (
                "empty responses count",
                "sequences = (lengths > 0).sum().clamp(min=1)",
                "sequences = len(mask)",
            ),
            ("no mean over the tokens", "real / lengths.clamp(min=1) / sequences", "real / sequences"),
            ("no mean over the sequences", "return real / sequences\n", "return real\n"),
            (
                "a normaliser of this batch's longest",
                "(sequences * max_response)",
                "(sequences * mask.shape[1])",
            ),
            ("padding weighs", "real = mask.float()", "real = mask.float() * 0 + 1"),
        ],
    ),
    "ppokit.training.update": (
        "../training/test_update.py::TestPasses::test_each_minibatch_is_whitened",
        [
            (
                "whitened over the whole step",
                "numbers[minibatch], mask[minibatch], variance=settings.whiten_variance",
                "numbers, mask, variance=settings.whiten_variance",
            ),
        ],
    ),
    "ppokit.training.gradients": (
        "../training/test_update.py::TestCutting",
        [
            (
                "the normaliser is local",
                "to_device(data.weights[micro.indices], mask.device)",
                "to_device(data.weights[micro.indices] / data.weights[micro.indices].sum(), mask.device)",
            ),
        ],
    ),
    "ppokit.training.advantages": (
        "../training/test_advantages.py",
        [
            (
                "what is not scored counts",
                "rows = rewards.trained.nonzero()",
                "rows = (rewards.trained | True).nonzero()",
            ),
            ("truncated ones are trained on", "trained = trained & kept.finished", "pass"),
            (
                "others are left out",
                "trained = trained & kept.finished",
                "trained = trained & ~kept.finished",
            ),
            (
                "whitened with truncated ones",
                "masked_whiten(advantages, mask,",
                "masked_whiten(advantages, kept.loss_mask,",
            ),
            ("padding keeps its numbers", "numbers.float().where(mask, torch.zeros(()))", "numbers.float()"),
        ],
    ),
    "ppokit.rollout.dynamic_sampling": (
        "../rollout/test_dynamic_sampling.py",
        [
            (
                "groups that differ are dropped",
                "bool((scores == scores[:1]).all())",
                "not bool((scores == scores[:1]).all())",
            ),
            (
                "what is not scored counts",
                "rewards.scores[members & rewards.scored]",
                "rewards.scores[members]",
            ),
            (
                "one scored response is kept",
                "(scores == scores[:1]).all()",
                "(scores[:-1] == scores[1:]).any()",
            ),
            (
                "responses are counted, not groups",
                "return len(groups)",
                "return sum(len(rollout) for rollout, _ in parts)",
            ),
            (
                "kept and dropped swapped",
                '"groups/dropped": Sum(asked - kept)',
                '"groups/dropped": Sum(kept)',
            ),
            ("the first are counted as resampled", "Sum(asked - count_groups(parts[:1]))", "Sum(asked)"),
            ("every round weighs the same", "Mean(metric, len(part.scores))", "Mean(metric, 1.0)"),
        ],
    ),
    "ppokit_rewards.kl_penalty": (
        "test_kl_penalty.py",
        [
            ("a bonus", "scores = -coefficient * kl(", "scores = coefficient * kl("),
            ("the mask is forgotten", "return scores.where(mask, scores.new_zeros(()))", "return scores"),
            ("the controller turns the wrong way", "coefficient * (1 + error", "coefficient * (1 - error"),
            ("not clipped", "min(max(kl / target - 1, -_LARGEST_ERROR), _LARGEST_ERROR)", "kl / target - 1"),
            ("steered by a token's KL", ").sum(dim=1)  # [B]", ").mean(dim=1)  # [B]"),
            ("nothing is saved", 'self.coefficient = float(state["coefficient"])', "pass"),
        ],
    ),
    "ppokit_rewards.overlong": (
        "test_overlong.py",
        [
            ("sign", "return -(n.float()", "return (n.float()"),
            ("begins at the limit", "return -(n.float() - (limit - buffer))", "return -(n.float() - limit)"),
            ("no floor", ".clamp(min=0, max=buffer)", ".clamp(min=0)"),
            ("a bonus for short ones", ".clamp(min=0, max=buffer)", ".clamp(max=buffer)"),
            ("not divided", "max=buffer) / buffer", "max=buffer)"),
            ("padding counts", "rollout.lengths", "rollout.lengths * 0 + rollout.response_ids.shape[1]"),
        ],
    ),
}
