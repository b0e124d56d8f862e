"""Wrong variants of the advantage estimators, each of which their tests must notice; `mutants.py` runs them.

Module -> (its test files, variants); a variant is (name, text that occurs exactly once, text in its place).
"""

from __future__ import annotations

MUTANTS: dict[str, tuple[str, list[tuple[str, str, str]]]] = {
    "ppokit.plugin.returns": (
        "test_monte_carlo.py",
        [
            (
                "narrow numbers stay narrow",
                "token_rewards = upcast(token_rewards)\n    # Real",
                "# Real",
            ),
            (
                "the mask is forgotten",
                "packed = token_rewards.where(mask, token_rewards.new_zeros(())).gather",
                "packed = token_rewards.gather",
            ),
            (
                "gaps are steps",
                "order = mask.logical_not().long().sort(",
                "order = mask.logical_not().mul(0).long().sort(",
            ),
            ("the order is lost", "stable=True).indices", "stable=True).indices.flip(1)"),
            ("off by one in the discount", "gamma**step * packed", "gamma ** (step - 1) * packed"),
            ("discounted once", "gamma**step * packed", "gamma * packed"),
            (
                "looks back in time",
                "longer[:, : width - step] += gamma**step * packed[:, step:]",
                "longer[:, step:] += gamma**step * packed[:, : width - step]",
            ),
            ("stops too early", "while step < width:", "while step < width - 1:"),
        ],
    ),
    "ppokit_advantages.gae": (
        "test_gae.py",
        [
            ("sign of the value", "gamma * next_value - values[:, t]", "gamma * next_value + values[:, t]"),
            ("the next value is not discounted", "+ gamma * next_value", "+ next_value"),
            ("lam is forgotten", "gamma * lam * advantage", "gamma * advantage"),
            (
                "forward in time",
                "for t in reversed(range(values.shape[1])):",
                "for t in range(values.shape[1]):",
            ),
            (
                "a gap ends the response",
                "(delta + gamma * lam * advantage).where(real, advantage)",
                "(delta + gamma * lam * advantage) * real",
            ),
            (
                "the value of a gap counts",
                "next_value = values[:, t].where(real, next_value)",
                "next_value = values[:, t]",
            ),
            (
                "returns are the advantages",
                "(advantages + values).where(mask, zero)",
                "advantages.where(mask, zero)",
            ),
            (
                "every response is truncated",
                ".where(truncated & mask.any(dim=1), next_value)",
                ".where(mask.any(dim=1), next_value)",
            ),
            (
                "bootstraps from the first token",
                ".argmax(dim=1, keepdim=True)",
                ".argmin(dim=1, keepdim=True)",
            ),
            ("the finished are truncated", "truncated=rollout.truncated if", "truncated=rollout.finished if"),
        ],
    ),
    "ppokit_advantages.group_relative": (
        "test_group_relative.py",
        [
            (
                "sign",
                "centered = rewards.double() - sums / sizes",
                "centered = sums / sizes - rewards.double()",
            ),
            (
                "the mean of the batch",
                "centered = rewards.double() - sums / sizes",
                "centered = rewards.double() - rewards.double().mean()",
            ),
            ("the sum for the mean", "rewards.double() - sums / sizes", "rewards.double() - sums"),
            ("variance for deviation", ").sqrt() + epsilon)", ") + epsilon)"),
            ("epsilon within the root", "clamp(min=1)).sqrt() + epsilon)", "clamp(min=1) + epsilon).sqrt())"),
            ("sample and population swapped", 'if variance == "sample"', 'if variance == "population"'),
            ("always normalised", "    if normalise:\n", "    if True:\n"),
            (
                "rounding is amplified",
                "advantages = advantages.where(differ, advantages.new_zeros(()))",
                "pass",
            ),
            ("one alone is kept by default", 'if singleton == "keep":', 'if singleton == "zero":'),
            (
                "groups are not looked at",
                "group_sums(rewards, group_ids)\n",
                "group_sums(rewards, group_ids * 0)\n",
            ),
            (
                "padding gets a share",
                "broadcast_to_tokens(advantages, rollout.loss_mask)",
                "broadcast_to_tokens(advantages, rollout.loss_mask | True)",
            ),
            (
                "one response per prompt is let through",
                "responses_per_prompt == 1:",
                "responses_per_prompt == 0:",
            ),
        ],
    ),
    "ppokit_advantages.leave_one_out": (
        "test_leave_one_out.py",
        [
            ("oneself among the others", "(sums - rewards) / (sizes - 1)", "sums / (sizes - 1)"),
            ("the mean of all", "(sums - rewards) / (sizes - 1).clamp(min=1)", "sums / sizes"),
            ("divided by n", "(sizes - 1).clamp(min=1)", "sizes"),
            ("sign", "(rewards - others).where", "(others - rewards).where"),
            ("one alone keeps its reward", ".where(sizes > 1, sums.new_zeros(()))", ""),
            (
                "groups are not looked at",
                "group_sums(rewards, group_ids)",
                "group_sums(rewards, group_ids * 0)",
            ),
            (
                "padding gets a share",
                "rollout.group_ids), rollout.loss_mask)",
                "rollout.group_ids), rollout.loss_mask | True)",
            ),
            ("not refused", ", check=needs_a_group)", ")"),
        ],
    ),
    "ppokit_advantages.monte_carlo": (
        "test_monte_carlo.py",
        [
            ("sign", "return reward_to_go(", "return -reward_to_go("),
            ("never discounted", "mask, gamma=gamma)", "mask, gamma=1.0)"),
            ("discounted twice", "mask, gamma=gamma)", "mask, gamma=gamma * gamma)"),
            (
                "the mask is forgotten",
                "reward_to_go(token_rewards, mask,",
                "reward_to_go(token_rewards, mask | True,",
            ),
            (
                "one reward alone",
                "return reward_to_go(token_rewards, mask, gamma=gamma)",
                "return token_rewards.where(mask, token_rewards.new_zeros(()))",
            ),
            ("the option is not read", "gamma=self.gamma", "gamma=1.0"),
        ],
    ),
    "ppokit_advantages.reinforce_plus_plus": (
        "test_reinforce_plus_plus.py",
        [
            ("not centred", "centered = (returns - masked_mean(returns, mask))", "centered = returns"),
            ("padding counts in the mean", "masked_mean(returns, mask)", "returns.mean()"),
            (
                "normalised by row",
                "masked_mean(returns, mask)",
                "(returns.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1))",
            ),
            ("sample deviation", 'variance="population"', 'variance="sample"'),
            ("variance for deviation", 'variance="population").sqrt()', 'variance="population")'),
            ("epsilon left out", "(deviation + epsilon)", "deviation"),
            ("the baseline on every token", "mean.unsqueeze(1) * last", "mean.unsqueeze(1) * mask"),
            ("the baseline on the first token", "mask.flip(1).cumsum(1).flip(1) == 1", "mask.cumsum(1) == 1"),
            ("the baseline added", "token_rewards - mean.unsqueeze(1)", "token_rewards + mean.unsqueeze(1)"),
            ("never discounted", "mask, gamma=gamma)", "mask, gamma=1.0)"),
            ("the groups' sums", "(sums / sizes).to", "sums.to"),
        ],
    ),
    "ppokit_advantages.remax": (
        "test_remax.py",
        [
            (
                "sign",
                "return upcast(rewards) - upcast(greedy_rewards)",
                "return upcast(greedy_rewards) - upcast(rewards)",
            ),
            ("no baseline", "upcast(rewards) - upcast(greedy_rewards)", "upcast(rewards)"),
            ("the mean of the greedy ones", "- upcast(greedy_rewards)", "- upcast(greedy_rewards).mean()"),
            ("added", "upcast(rewards) - upcast(greedy", "upcast(rewards) + upcast(greedy"),
            (
                "narrow numbers",
                "return upcast(rewards) - upcast(greedy_rewards)",
                "return rewards - greedy_rewards.to(rewards.dtype)",
            ),
            (
                "the last reward alone",
                "whole_reward(rewards.token_rewards, rollout.loss_mask)",
                "rewards.token_rewards[:, -1]",
            ),
            (
                "padding gets a share",
                "greedy_returns), rollout.loss_mask)",
                "greedy_returns), rollout.loss_mask | True)",
            ),
            ("nothing is asked for", 'needs=frozenset({"greedy"})', "needs=frozenset()"),
        ],
    ),
    "ppokit_advantages.mean_baseline": (
        "test_mean_baseline.py",
        [
            (
                "sign",
                "returns - masked_mean(upcast(values), mask)",
                "masked_mean(upcast(values), mask) - returns",
            ),
            ("each its own value", "masked_mean(upcast(values), mask)", "upcast(values)"),
            ("padding counts in the mean", "masked_mean(upcast(values), mask)", "upcast(values).mean()"),
            ("the mean of the rewards", "masked_mean(upcast(values), mask)", "masked_mean(returns, mask)"),
            ("discounted", "gamma=1.0", "gamma=0.99"),
            (
                "padding gets a share",
                "return advantages.where(mask, advantages.new_zeros(())), returns",
                "return advantages, returns",
            ),
            (
                "returns are the advantages",
                "advantages.new_zeros(())), returns",
                "advantages.new_zeros(())), advantages",
            ),
        ],
    ),
    "ppokit_advantages.discounted": (
        "test_discounted.py",
        [
            ("sign", "(returns - values).where(mask, zero)", "(values - returns).where(mask, zero)"),
            ("off by one in time", "(mask.cumsum(dim=1) - 1)", "mask.cumsum(dim=1)"),
            ("gaps are places", "mask.cumsum(dim=1) - 1", "(mask | True).cumsum(dim=1) - 1"),
            ("counted from the end", "mask.cumsum(dim=1) - 1", "mask.flip(1).cumsum(dim=1).flip(1) - 1"),
            ("never discounted", "gamma**positions", "gamma ** (positions * 0)"),
            (
                "the last reward alone",
                "whole_reward(token_rewards, mask), upcast(values)",
                "upcast(token_rewards)[:, -1], upcast(values)",
            ),
            ("values are forgotten", "(returns - values).where", "returns.where"),
            ("padding gets a share", "returns.where(mask, zero)\n", "returns\n"),
            ("another default", "gamma: float = Field(0.99", "gamma: float = Field(0.9"),
        ],
    ),
}
