"""Finding plugins: nothing is imported before it is named, and nothing is skipped silently."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, distributions
from pathlib import Path

import pytest

import fake_plugins
from ppokit.config.entries import Entry
from ppokit.config.registry import PluginRegistry
from ppokit.errors import PluginError

HEAD = '"""One line of summary.\n\nMore.\n"""\nfrom ppokit import Component, hookimpl\n'
REWARD = (
    HEAD + "@hookimpl\ndef ppokit_reward_providers():\n    return [Component('{0}', lambda o, c: None)]\n"
)

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    before = set(sys.modules)
    count = 0

    def install(name: str, points: object, modules: Mapping[str, str] | None = None) -> None:
        nonlocal count
        folder = tmp_path / str(count)
        count += 1
        fake_plugins.distribution(folder, name, points, modules or {})  # type: ignore[arg-type]
        monkeypatch.syspath_prepend(str(folder))
        importlib.invalidate_caches()

    # The environment's own plugins must not change what the tests see.
    monkeypatch.setattr("ppokit.config.entries.installed", lambda: _points(tmp_path))
    yield install
    for module in set(sys.modules) - before:
        del sys.modules[module]


def _points(root: Path) -> list[EntryPoint]:
    folders = [str(folder) for folder in sorted(root.iterdir())]
    return [p for d in distributions(path=folders) for p in d.entry_points if p.group == "ppokit"]


def only(registry: PluginRegistry) -> Entry:
    (entry,) = registry.entries()
    return entry


def test_entry_is_read_without_importing(install: Install) -> None:
    modules = {"cat_a.__init__": "1 / 0", "cat_a.sub.__init__": "", "cat_a.sub.nice": REWARD.format("nice")}
    install("nice-plugins", {"rewards.nice": "cat_a.sub.nice"}, modules)
    entry = only(PluginRegistry())
    assert entry == Entry("rewards", "nice", "cat_a.sub.nice", "nice-plugins", "1.5", "One line of summary.")
    assert not [module for module in sys.modules if module.startswith("cat_a")]


def test_component_imports_its_module_alone(install: Install) -> None:
    install(
        "two",
        {"rewards.nice": "cat_nice", "rewards.bad": "cat_bad"},
        {"cat_nice": REWARD.format("nice"), "cat_bad": "raise RuntimeError('no')"},
    )
    registry = PluginRegistry()
    component, label = registry.component("rewards", "nice")
    assert component.name == "nice"
    assert label == "cat_nice, two 1.5"
    assert "cat_bad" not in sys.modules
    assert registry.component("rewards", "nice")[0] is component


def test_only_the_named_plugins_hook_is_called(install: Install) -> None:
    shout = "\nimport sys\n@hookimpl\ndef ppokit_losses():\n    raise RuntimeError('called')\n"
    install(
        "pair",
        {"rewards.nice": "cat_p", "losses.loud": "cat_p"},
        {"cat_p": REWARD.format("nice") + shout},
    )
    registry = PluginRegistry()
    assert registry.component("rewards", "nice")[0].name == "nice"
    with pytest.raises(PluginError, match=r"ppokit_losses\(\) failed: RuntimeError: called"):
        registry.component("losses", "loud")


@pytest.mark.parametrize(
    ("source", "summary"),
    [
        ("", ""),
        ("x = (", ""),
        ("x = 'Hi.'", ""),
        ("b'Hi.'", ""),
        ("import this", ""),
        ('"""Hi."""', "Hi."),
        ('"""Hi.', ""),
        ('# By hand.\n\n"""\n  Hi.\n\n  More.\n"""\nx = (', "Hi."),
    ],
)
def test_summary(install: Install, source: str, summary: str) -> None:
    install("s", {"rewards.s": "cat_s"}, {"cat_s": source})
    assert only(PluginRegistry()).summary == summary


def test_summary_is_empty_where_no_source_is_found(install: Install) -> None:
    install("s", {"rewards.s": "cat_absent.sub.deep"})
    assert only(PluginRegistry()).summary == ""


def test_unknown_name_tells_installed_and_nearest() -> None:
    with pytest.raises(PluginError) as caught:
        PluginRegistry(entry_points=fake_plugins.entry_points()).component("rewards", "god")
    assert str(caught.value) == (
        "no rewards plugin 'god' is installed (installed: good, other); did you mean 'good'?"
    )


def test_name_of_another_kind_is_told() -> None:
    with pytest.raises(PluginError, match="'gae' is one of the advantages plugins"):
        PluginRegistry(entry_points=fake_plugins.entry_points()).component("rewards", "gae")


def test_unknown_kind() -> None:
    with pytest.raises(PluginError, match="'reward' is no kind of plugin"):
        PluginRegistry(entry_points=[]).component("reward", "x")


def test_two_distributions_of_one_name_are_both_named(install: Install) -> None:
    install("first-dist", {"rewards.twin": "cat_t1"}, {"cat_t1": REWARD.format("twin")})
    install("second-dist", {"rewards.twin": "cat_t2"}, {"cat_t2": REWARD.format("twin")})
    registry = PluginRegistry()
    assert [e.state for e in registry.entries()] == ["duplicate", "duplicate"]
    with pytest.raises(PluginError) as caught:
        registry.component("rewards", "twin")
    assert str(caught.value) == (
        "rewards 'twin' is offered more than once, by first-dist 1.5 (cat_t1) and second-dist 1.5 (cat_t2): "
        "name one in the recipe, by use: twin@first-dist or twin@second-dist"
    )
    assert "cat_t1" not in sys.modules


def test_either_of_one_name_is_had_by_its_distribution(install: Install) -> None:
    install("first-dist", {"rewards.twin": "cat_t1"}, {"cat_t1": REWARD.format("twin")})
    install("second-dist", {"rewards.twin": "cat_t2"}, {"cat_t2": REWARD.format("twin")})
    assert PluginRegistry().component("rewards", "twin@Second_Dist")[1] == "cat_t2, second-dist 1.5"
    with pytest.raises(PluginError, match=r"no rewards plugin 'twin@third' is installed .*did you mean"):
        PluginRegistry().component("rewards", "twin@third")


def test_what_is_installed_does_not_replace_a_built_in(install: Install) -> None:
    """The recipe that named it before goes on to get ppokit's own."""
    install("ppokit", {"rewards.twin": "cat_own"}, {"cat_own": REWARD.format("twin")})
    install("some-dist", {"rewards.twin": "cat_t1"}, {"cat_t1": REWARD.format("twin")})
    install("more-dist", {"rewards.twin": "cat_t2"}, {"cat_t2": "raise RuntimeError('imported')"})
    registry = PluginRegistry()
    assert {e.distribution: e.state for e in registry.entries()} == {
        "ppokit": "not imported yet",
        "some-dist": "shadowed",
        "more-dist": "shadowed",
    }
    assert registry.component("rewards", "twin")[1] == "cat_own, ppokit 1.5"
    assert registry.component("rewards", "twin@some-dist")[1] == "cat_t1, some-dist 1.5"
    assert registry.names("rewards") == ["twin", "twin@more-dist", "twin@some-dist"]
    assert "cat_t2" not in sys.modules
    (reason,) = (e.reason for e in registry.entries() if e.distribution == "some-dist")
    assert reason == (
        "rewards 'twin' is ppokit's own (cat_own); a recipe gets that of some-dist 1.5 (cat_t1) by use: "
        "twin@some-dist"
    )


def test_without_the_built_in_the_other_has_the_name(install: Install) -> None:
    install("ppokit", {"rewards.twin": "cat_own"}, {"cat_own": REWARD.format("twin")})
    install("some-dist", {"rewards.twin": "cat_t1"}, {"cat_t1": REWARD.format("twin")})
    registry = PluginRegistry(disabled=["rewards.twin@ppokit"])
    assert registry.component("rewards", "twin")[1] == "cat_t1, some-dist 1.5"


def test_disabling_one_side_of_a_duplicate_leaves_the_other(install: Install) -> None:
    install("first-dist", {"rewards.twin": "cat_t1"}, {"cat_t1": REWARD.format("twin")})
    install("second-dist", {"rewards.twin": "cat_t2"}, {"cat_t2": REWARD.format("twin")})
    registry = PluginRegistry(disabled=["rewards.twin@First_Dist"])
    assert [e.state for e in registry.entries()] == ["disabled", "not imported yet"]
    assert registry.component("rewards", "twin")[1] == "cat_t2, second-dist 1.5"


def test_same_distribution_found_twice_is_one(install: Install) -> None:
    install("my-dist", {"rewards.one": "cat_o"}, {"cat_o": REWARD.format("one")})
    install("My_Dist", {"rewards.one": "cat_o"}, {"cat_o": REWARD.format("one")})
    assert only(PluginRegistry()).state == "not imported yet"


def test_one_distribution_naming_two_modules_is_a_duplicate(install: Install) -> None:
    install("torn", [("rewards.x", "cat_x1"), ("rewards.x", "cat_x2")])
    with pytest.raises(
        PluginError, match=r"torn 1\.5 \(cat_x1\) and torn 1\.5 \(cat_x2\): this distribution"
    ):
        PluginRegistry().component("rewards", "x")


@pytest.mark.parametrize("word", ["rewards.good", "good", "good@unknown", "rewards.good@unknown"])
def test_disabled(word: str) -> None:
    registry = PluginRegistry(disabled=[word], entry_points=fake_plugins.entry_points())
    states = {e.name: e.state for e in registry.entries()}
    assert states["good"] == "disabled"
    assert states["other"] == "not imported yet"
    with pytest.raises(PluginError, match=r"'good' .* is disabled by --disable-plugin"):
        registry.component("rewards", "good")


@pytest.mark.parametrize(
    ("word", "nearest"), [("goood", "good"), ("rewards.god", "rewards.good"), ("x@unknown", None)]
)
def test_disabling_an_unknown_name_is_an_error(word: str, nearest: str | None) -> None:
    with pytest.raises(PluginError, match=f"--disable-plugin {word}: nothing installed") as caught:
        PluginRegistry(disabled=[word], entry_points=fake_plugins.entry_points())
    assert nearest is None or f"did you mean {nearest!r}?" in str(caught.value)


def test_disabled_is_blocked_before_import(install: Install) -> None:
    install("d", {"rewards.d": "cat_d"}, {"cat_d": REWARD.format("d")})
    with pytest.raises(PluginError):
        PluginRegistry(disabled=["d"]).component("rewards", "d")
    assert "cat_d" not in sys.modules


@pytest.mark.parametrize(
    ("source", "message", "cause"),
    [
        ("raise RuntimeError('no luck')", "RuntimeError: no luck", RuntimeError),
        ("import cat_nowhere", "ModuleNotFoundError: No module named 'cat_nowhere'", ImportError),
        ("raise SystemExit(3)", "SystemExit: 3", SystemExit),
    ],
)
def test_broken_import_raises_when_named(
    install: Install, source: str, message: str, cause: type[BaseException]
) -> None:
    install("b", {"rewards.b": "cat_b"}, {"cat_b": source})
    registry = PluginRegistry()
    assert only(registry).state == "not imported yet"
    with pytest.raises(
        PluginError, match=r"rewards 'b' \(plugin cat_b, b 1\.5\) cannot be imported"
    ) as caught:
        registry.component("rewards", "b")
    assert message in str(caught.value)
    assert isinstance(caught.value.__cause__, cause)
    assert only(registry).state == "broken"
    assert message in only(registry).reason
    with pytest.raises(PluginError, match="cannot be imported"):
        registry.component("rewards", "b")


HOOK = "@hookimpl\ndef ppokit_reward_providers():\n    return "
NICE = "Component('w', None)"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (HEAD, "has no hook ppokit_reward_providers"),
        (HEAD + HOOK + "None\n", "or it returned None; expected a list of Component"),
        (HEAD + HOOK + "{'w': 1}\n", "returned {'w': 1}; expected a list of Component"),
        (HEAD + HOOK + "[1]\n", r"returned [1]; expected a list of Component"),
        (HEAD + HOOK + "[Component('v', None)]\n", "returned 'v'; expected 'w' among them"),
        (HEAD + HOOK + f"[{NICE}, {NICE}]\n", "returned a name twice: w, w"),
        (HEAD + HOOK + "[Component('w', None, options=dict)]\n", "options is <class 'dict'>"),
        (HEAD + HOOK + "[Component('w', None, needs={'value'})]\n", "needs 'value'; expected old_logprobs"),
        (
            HEAD + HOOK + "[Component('w', None, needs='values')]\n",
            "needs is the text 'values'; expected a set",
        ),
        (
            HEAD + HOOK + "[Component('w', None, runs_on='mian')]\n",
            "runs_on is 'mian'; expected 'each'",
        ),
        (
            HEAD + HOOK + "[Component('w', None, awaited=True)]\n",
            "awaited is True; expected a function of the options",
        ),
        (HEAD + HOOK + "[Component('w')]\n", "has no build, so that its options are its object"),
        (HEAD + HOOK + "1 / 0\n", "ppokit_reward_providers() failed: ZeroDivisionError"),
        (HEAD + HOOK + "exit(0)\n", "ppokit_reward_providers() failed: SystemExit: 0"),
        (HEAD + HOOK.removeprefix("@hookimpl\n") + f"[{NICE}]\n", "without @ppokit.hookimpl above it"),
        (
            HEAD + HOOK.replace("providers", "provider") + f"[{NICE}]\n",
            "ppokit_reward_provider, which is no hook of ppokit; did you mean 'ppokit_reward_providers'",
        ),
        (HEAD + HOOK.replace("ppokit_", "") + f"[{NICE}]\n", "unknown hook 'reward_providers'"),
        (HEAD + HOOK.replace("()", "(model)") + f"[{NICE}]\n", "PluginValidationError"),
    ],
)
def test_broken_contract_is_told(install: Install, source: str, message: str) -> None:
    install("w", {"rewards.w": "cat_w"}, {"cat_w": source})
    registry = PluginRegistry()
    with pytest.raises(PluginError) as caught:
        registry.component("rewards", "w")
    assert message in str(caught.value)
    assert str(caught.value).startswith("rewards 'w' (plugin cat_w, w 1.5)")
    assert only(registry).state == "broken"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "reward.x",
            "m",
            "'reward' is no kind (kinds: rewards, advantages, losses, rollout, evaluators, observers)",
        ),
        ("rewards", "m", "not of the form <kind>.<component>"),
        ("rewards.", "m", "not of the form <kind>.<component>"),
        ("rewards.a.b", "m", "not of the form <kind>.<component>"),
        ("rewards.x", "m:attribute", "'m:attribute' is not a module's name"),
    ],
)
def test_invalid_entry_point(name: str, value: str, message: str) -> None:
    registry = PluginRegistry(entry_points=[EntryPoint(name, value, "ppokit")])
    entry = only(registry)
    assert entry.state == "invalid"
    assert message in entry.reason
    assert f"entry point {name!r} of unknown" in entry.reason
    with pytest.raises(PluginError, match="no rewards plugin 'x' is installed"):
        registry.component("rewards", "x")


def test_entries_are_sorted() -> None:
    entries = PluginRegistry(entry_points=reversed(fake_plugins.entry_points())).entries()
    keys = [(e.kind, e.name) for e in entries]
    assert keys == sorted(keys)
    assert len(keys) == 9


def test_environment_is_read_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_plugins.distribution(tmp_path, "really-there", {"rewards.really_there": "cat_r"}, {})
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "really_there" in [e.name for e in PluginRegistry().entries()]


def test_what_is_built_for_another_version_is_refused_when_named(install: Install, tmp_path: Path) -> None:
    install("later", {"rewards.later": "cat_later"}, {"cat_later": REWARD.format("later")})
    (metadata,) = tmp_path.rglob("later-1.5.dist-info/METADATA")
    metadata.write_text(metadata.read_text() + "Requires-Dist: ppokit<99,>=9\n")
    registry = PluginRegistry()
    assert only(registry).state == "not imported yet"
    with pytest.raises(PluginError, match=r"later 1\.5\) is built for ppokit<99,>=9; this is ppokit 0"):
        registry.component("rewards", "later")
    metadata.write_text(metadata.read_text().replace(">=9", ">=0.0.1"))
    assert PluginRegistry().component("rewards", "later")[1] == "cat_later, later 1.5"


def test_half_an_install_is_listed(install: Install, tmp_path: Path) -> None:
    """Without its metadata nobody knows its name; the others are there all the same."""
    install("whole-dist", {"rewards.whole": "whole_module"}, {"whole_module": REWARD.format("whole")})
    install("half-dist", {"rewards.half": "half_module"}, {"half_module": REWARD.format("half")})
    (metadata,) = tmp_path.glob("*/half_dist-1.5.dist-info/METADATA")
    metadata.unlink()
    entries = {entry.name: entry for entry in PluginRegistry().entries()}
    assert (entries["whole"].distribution, entries["half"].distribution) == ("whole-dist", "unknown")
    assert entries["half"].state == "not imported yet"
    assert PluginRegistry().component("rewards", "half")[0].name == "half"
    metadata.write_bytes(b"\xff\xfe no metadata")
    assert {entry.name for entry in PluginRegistry().entries()} == {"half", "whole"}


def test_what_is_decorated_under_another_name_is_listed(install: Install) -> None:
    source = "from ppokit.plugin import reward\n@reward\ndef brief(responses): ...\n"
    install("acme", {"rewards.short": "acme_decorated"}, {"acme_decorated": source})
    with pytest.raises(PluginError, match=r"decorated in it is 'rewards.brief'; expected 'rewards.short'"):
        PluginRegistry().component("rewards", "short")
