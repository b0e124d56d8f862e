"""All that a plugin imports: types, protocols, hooks, masked operations, KL estimators, returns, errors.

    from ppokit.plugin import Component, Options, RewardOutput, Rollout, hookimpl

Nothing here imports torch until it computes. The built-in plugins import nothing else of ppokit, except those
whose purpose is people's ratings (`ppokit.ratings`) or fitted reward models (`ppokit.reward_models`).
"""

from ppokit.errors import DataError, ModelError, PluginError, PpokitWarning, RewardError, first_line
from ppokit.plugin.batching import length_batches, length_groups, token_batches
from ppokit.plugin.chats import ChatPrompt, chat_of
from ppokit.plugin.coroutines import is_coroutine_function
from ppokit.plugin.evaluating import EvaluationView, Evaluator, Recorded
from ppokit.plugin.examples import Example
from ppokit.plugin.generation import (
    Generation,
    GenerationRequest,
    PolicyHandle,
    ResponseSeeds,
    RolloutEngine,
    SamplingParams,
)
from ppokit.plugin.hookspecs import hookimpl
from ppokit.plugin.importing import import_attribute
from ppokit.plugin.jackknife import jackknife_shares
from ppokit.plugin.kl_estimators import KLEstimator, clamp_exponent, kl
from ppokit.plugin.masked import Variance, masked_mean, masked_variance, masked_whiten, upcast
from ppokit.plugin.ngram import distinct_ngrams, ngrams
from ppokit.plugin.offering import (
    advantage_estimator,
    evaluator,
    loss,
    observer,
    reward,
    rollout_engine,
)
from ppokit.plugin.output_head import final_states, next_token_logits
from ppokit.plugin.protocols import (
    AdvantageEstimator,
    AdvantageWeighting,
    BuildContext,
    CheckContext,
    Component,
    Loss,
    Need,
    Options,
    ResponseRewardProvider,
    RewardProvider,
    SharedBase,
    Stateful,
)
from ppokit.plugin.recorded import as_generation
from ppokit.plugin.reductions import Max, Mean, Metric, Sum
from ppokit.plugin.response_text import decode_responses, encode_response
from ppokit.plugin.returns import broadcast_to_tokens, group_sums, reward_to_go, whole_reward
from ppokit.plugin.reward_output import CALL_METRICS, Outcome, RewardOutput, Scored, Span, Value
from ppokit.plugin.scoring import RewardContext, Sample, http_client
from ppokit.plugin.secrets import EnvSecret, names_secret
from ppokit.plugin.types import (
    Advantages,
    AdvantageWeights,
    LossInputs,
    LossOutput,
    PromptBatch,
    ResponseOutcome,
    Rewards,
    Rollout,
    Row,
)
from ppokit.plugin.visible_text import visible

__all__ = [
    "CALL_METRICS",
    "AdvantageEstimator",
    "AdvantageWeighting",
    "AdvantageWeights",
    "Advantages",
    "BuildContext",
    "ChatPrompt",
    "CheckContext",
    "Component",
    "DataError",
    "EnvSecret",
    "EvaluationView",
    "Evaluator",
    "Example",
    "Generation",
    "GenerationRequest",
    "KLEstimator",
    "Loss",
    "LossInputs",
    "LossOutput",
    "Max",
    "Mean",
    "Metric",
    "ModelError",
    "Need",
    "Options",
    "Outcome",
    "PluginError",
    "PolicyHandle",
    "PpokitWarning",
    "PromptBatch",
    "Recorded",
    "ResponseOutcome",
    "ResponseRewardProvider",
    "ResponseSeeds",
    "RewardContext",
    "RewardError",
    "RewardOutput",
    "RewardProvider",
    "Rewards",
    "Rollout",
    "RolloutEngine",
    "Row",
    "Sample",
    "SamplingParams",
    "Scored",
    "SharedBase",
    "Span",
    "Stateful",
    "Sum",
    "Value",
    "Variance",
    "advantage_estimator",
    "as_generation",
    "broadcast_to_tokens",
    "chat_of",
    "clamp_exponent",
    "decode_responses",
    "distinct_ngrams",
    "encode_response",
    "evaluator",
    "final_states",
    "first_line",
    "group_sums",
    "hookimpl",
    "http_client",
    "import_attribute",
    "is_coroutine_function",
    "jackknife_shares",
    "kl",
    "length_batches",
    "length_groups",
    "loss",
    "masked_mean",
    "masked_variance",
    "masked_whiten",
    "names_secret",
    "next_token_logits",
    "ngrams",
    "observer",
    "reward",
    "reward_to_go",
    "rollout_engine",
    "token_batches",
    "upcast",
    "visible",
    "whole_reward",
]
