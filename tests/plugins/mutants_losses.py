"""Wrong variants of the losses, each of which the loss's tests must notice; `mutants.py` runs them.

Module -> (its test files, variants); a variant is (name, text that occurs exactly once, text in its place).
"""

from __future__ import annotations

MUTANTS: dict[str, tuple[str, list[tuple[str, str, str]]]] = {
    "ppokit_losses.ratios": (
        "test_ppo_clip.py test_gspo.py",
        [
            (
                "ratio upside down",
                "clamp_exponent(upcast(new_logprobs) - upcast(old_logprobs)).exp()",
                "clamp_exponent(upcast(old_logprobs) - upcast(new_logprobs)).exp()",
            ),
            (
                "not held",
                "return clamp_exponent(upcast(new_logprobs) - upcast(old_logprobs)).exp()",
                "return (upcast(new_logprobs) - upcast(old_logprobs)).exp()",
            ),
            (
                "narrow numbers stay narrow",
                "return clamp_exponent(upcast(new_logprobs) - upcast(old_logprobs)).exp()",
                "return clamp_exponent(new_logprobs - old_logprobs).exp()",
            ),
            ("padding counts in the mean", ".where(mask, log_ratio.new_zeros(()))", ""),
            (
                "padding counts in the length",
                "total / mask.sum(dim=1, keepdim=True).clamp(min=1)",
                "total / mask.shape[1]",
            ),
            ("the sum for the mean", "total / mask.sum(dim=1, keepdim=True).clamp(min=1)", "total"),
        ],
    ),
    "ppokit_losses.ppo_clip": (
        "test_ppo_clip.py",
        [
            ("sign", "(-advantages * ratio).maximum(", "(advantages * ratio).maximum("),
            ("the larger gain", "ratio).maximum(", "ratio).minimum("),
            (
                "one bound for both",
                "ratio.clamp(1 - clip_low, 1 + clip_high)",
                "ratio.clamp(1 - clip_low, 1 + clip_low)",
            ),
            (
                "never clipped above",
                "ratio.clamp(1 - clip_low, 1 + clip_high)",
                "ratio.clamp(min=1 - clip_low)",
            ),
            (
                "always clipped",
                "(-advantages * ratio).maximum(-advantages * clipped)",
                "-advantages * clipped",
            ),
            (
                "the ratio is a constant",
                "token_ratio(new_logprobs, old_logprobs)",
                "token_ratio(new_logprobs, old_logprobs).detach()",
            ),
            ("dual clip of good tokens too", ".where(advantages < 0, loss)", ""),
            (
                "dual clip on the wrong side",
                "loss.minimum(-advantages * dual_clip)",
                "loss.maximum(-advantages * dual_clip)",
            ),
            (
                "the metric counts both sides",
                "stopped = ratio.clamp(1 - low, 1 + high) * advantages < ratio",
                "stopped = ratio.clamp(1 - low, 1 + high) * advantages != ratio",
            ),
            ("the option is not read", "clip_high=high", "clip_high=low"),
        ],
    ),
    "ppokit_losses.gspo": (
        "test_gspo.py",
        [
            ("sign", "(-real * ratio)", "(real * ratio)"),
            ("the larger gain", ".maximum(-real * clipped)", ".minimum(-real * clipped)"),
            (
                "one bound for both",
                "ratio.clamp(1 - clip_low, 1 + clip_high)",
                "ratio.clamp(1 - clip_low, 1 + clip_low)",
            ),
            ("padding's advantages stay", "advantages.where(mask, advantages.new_zeros(()))", "advantages"),
            ("the ratio is a constant", "mask)  # [B,1]", "mask).detach()  # [B,1]"),
            (
                "padding counts as real",
                "sequence_ratio(new_logprobs, old_logprobs, mask)",
                "sequence_ratio(new_logprobs, old_logprobs, mask | True)",
            ),
            (
                "old and new swapped",
                "sequence_ratio(new_logprobs, old_logprobs, mask)",
                "sequence_ratio(old_logprobs, new_logprobs, mask)",
            ),
            ("another default", "3e-4,", "3e-3,"),
            (
                "the metric counts the other side",
                "* advantages < ratio * advantages",
                "* advantages > ratio * advantages",
            ),
        ],
    ),
    "ppokit_losses.cispo": (
        "test_cispo.py",
        [
            ("sign", "return -weight.detach()", "return weight.detach()"),
            ("the ratio carries gradient", "-weight.detach()", "-weight"),
            ("never clipped above", ".clamp(1 - clip_low, 1 + clip_high)", ".clamp(min=1 - clip_low)"),
            ("never clipped below", ".clamp(1 - clip_low, 1 + clip_high)", ".clamp(max=1 + clip_high)"),
            ("not weighed", "return -weight.detach() * advantages", "return -advantages"),
            ("old log p", "* upcast(new_logprobs)", "* upcast(old_logprobs)"),
            ("a lower bound by default", "        1.0,\n", "        0.2,\n"),
            ("the metric sees one side", "(ratio < 1 - low) | (ratio > 1 + high)", "ratio > 1 + high"),
        ],
    ),
    "ppokit_losses.reinforce": (
        "test_reinforce.py",
        [
            ("sign", "loss = -advantages", "loss = advantages"),
            ("always weighed", "if importance_weight:", "if True:"),
            ("never weighed", "if importance_weight:", "if False:"),
            ("the ratio carries gradient", "old_logprobs).detach() * loss", "old_logprobs) * loss"),
            (
                "ratio upside down",
                "token_ratio(new_logprobs, old_logprobs)",
                "token_ratio(old_logprobs, new_logprobs)",
            ),
            (
                "weight of p and not of the ratio",
                "token_ratio(new_logprobs, old_logprobs)",
                "token_ratio(new_logprobs, 0 * old_logprobs)",
            ),
            ("narrow", "* upcast(new_logprobs)", "* new_logprobs"),
            ("the option is not read", "weigh = self.importance_weight", "weigh = False"),
        ],
    ),
    "ppokit_losses.surrogate_clip_sum": (
        "test_surrogate_clip_sum.py",
        [
            ("sign of the surrogate", "return -advantages * new", "return advantages * new"),
            ("sign of the clip", "* new + (new", "* new - (new"),
            (
                "the clip is a constant",
                ".clamp(-clip, clip) * advantages",
                ".clamp(-clip, clip).detach() * advantages",
            ),
            ("no lower bound", ".clamp(-clip, clip)", ".clamp(max=clip)"),
            ("no upper bound", ".clamp(-clip, clip)", ".clamp(min=-clip)"),
            (
                "a clipped ratio",
                "(new - upcast(old_logprobs)).clamp(-clip, clip)",
                "((new - upcast(old_logprobs)).exp() - 1).clamp(-clip, clip)",
            ),
            ("the metric sees one side", ".abs() > clip", " > clip"),
            ("narrow", "new = upcast(new_logprobs)", "new = new_logprobs"),
        ],
    ),
    "ppokit_losses.value_clip": (
        "test_value_clip.py",
        [
            ("the smaller error", "0.5 * free.maximum(clipped)", "0.5 * free.minimum(clipped)"),
            ("no half", "return 0.5 * free", "return free"),
            ("always clipped", "return 0.5 * free.maximum(clipped)", "return 0.5 * clipped"),
            (
                "clipped around the target",
                "values.clamp(old_values - clip_range, old_values",
                "values.clamp(returns - clip_range, returns",
            ),
            (
                "no lower bound",
                "values.clamp(old_values - clip_range, old_values + clip_range)",
                "values.clamp(max=old_values + clip_range)",
            ),
            ("against the old values", "(clipped - returns).square()", "(clipped - old_values).square()"),
            ("the metric counts the other side", "(clipped > free)", "(clipped < free)"),
        ],
    ),
    "ppokit_losses.value_mse": (
        "test_value_mse.py",
        [
            ("no half", "return 0.5 *", "return"),
            ("absolute", ".square()", ".abs()"),
            (
                "the target carries no error",
                "upcast(values) - upcast(returns)",
                "upcast(values) - upcast(values).detach()",
            ),
            ("sum", "upcast(values) - upcast(returns)", "upcast(values) + upcast(returns)"),
            (
                "no gradient",
                "(upcast(values) - upcast(returns))",
                "(upcast(values).detach() - upcast(returns))",
            ),
            ("narrow", "(upcast(values) - upcast(returns))", "(values - returns)"),
        ],
    ),
    "ppokit_losses.entropy": (
        "test_entropy.py",
        [
            ("sign", "return -entropy", "return entropy"),
            ("no gradient", "return -entropy", "return -entropy.detach()"),
            ("doubled", "return -entropy", "return -2 * entropy"),
            ("probability in place of entropy", "return -entropy", "return -(-entropy).exp()"),
            ("averaged over the tokens", "return -entropy", "return -entropy.mean().expand_as(entropy)"),
            ("not asked for", 'needs=frozenset({"entropy"})', 'needs=frozenset({"new_logprobs"})'),
        ],
    ),
    "ppokit_losses.kl": (
        "test_kl_loss.py",
        [
            (
                "policies swapped",
                "estimate(new, ref, estimator=estimator)",
                "estimate(ref, new, estimator=estimator)",
            ),
            (
                "value of k2",
                'estimate(new.detach(), ref, estimator="k3")',
                'estimate(new.detach(), ref, estimator="k2")',
            ),
            ("gradient of k3 too", "estimate(new.detach(), ref", "estimate(new, ref"),
            (
                "gradient of k1",
                'k2 = estimate(new, ref, estimator="k2")',
                'k2 = estimate(new, ref, estimator="k1")',
            ),
            ("no gradient", "(k2 - k2.detach())", "0 * k2"),
            ("k2 counts in the value", "(k2 - k2.detach())", "k2"),
            (
                "narrow",
                "new, ref = upcast(new_logprobs), upcast(ref_logprobs)",
                "new, ref = new_logprobs, ref_logprobs",
            ),
            ("another default", '        "k3",\n', '        "k2",\n'),
            (
                "the metric of the other estimator",
                '"policy/ref_kl_k1": kl(new, inputs.ref_logprobs, estimator="k1")',
                '"policy/ref_kl_k1": kl(new, inputs.ref_logprobs, estimator="k3")',
            ),
        ],
    ),
    "ppokit_losses.off_policy_correction": (
        "test_off_policy_correction.py",
        [
            ("upside down", "difference.clamp(max=_L", "(-difference).clamp(max=_L"),
            ("the sequence's mean", "difference.sum(dim=1", "difference.mean(dim=1"),
            (
                "mask forgotten",
                "sampler_logprobs).where(mask, upcast(old_logprobs).new_zeros(()))",
                "sampler_logprobs)",
            ),
            ("padding weighs", "return weight.where(mask, zero)", "return weight"),
            ("truncated below too", "ratio.clamp(max=cap)", "ratio.clamp(1 / cap, cap)"),
            ("masked where truncation was asked for", 'if mode == "truncate"', 'if mode != "truncate"'),
            ("what is kept weighs 1", "ratio.where(_kept(ratio", "(0 * ratio + 1).where(_kept(ratio"),
            ("no floor", "(ratio >= floor) & (ratio <= cap)", "ratio <= cap"),
            ("bounds excluded", "(ratio <= cap)", "(ratio < cap)"),
            (
                "unknown logprobs are taken for 0",
                "~sampler_logprobs.isnan(), upcast(old_logprobs))",
                "~sampler_logprobs.isnan(), 0 * upcast(old_logprobs))",
            ),
            (
                "the KL of the other direction",
                "kl(_known(sampler_logprobs, old), old,",
                "kl(old, _known(sampler_logprobs, old),",
            ),
            ("the share of what is kept", "(~_kept(ratio, self.cap", "(_kept(ratio, self.cap"),
        ],
    ),
}
