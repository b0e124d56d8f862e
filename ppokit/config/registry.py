"""From `use:` in a recipe to a component: an installed plugin, or an attribute of a module.

    use: sentiment               the installed component of this name; ppokit's own goes before any other's
    use: sentiment@some-package  that of a distribution
    use: my_module:my_thing      an attribute of a module, see `by_path`

A plugin's module is imported when a recipe names one of its components, and not before. pluggy's own
entry-point loader is not used: it skips a second distribution's entry of the same name silently.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING

from ppokit.config import entries
from ppokit.config.entries import Entry, normalise
from ppokit.errors import PluginError
from ppokit.kinds import HOOK_BY_KIND
from ppokit.messages import listed, suggest

if TYPE_CHECKING:
    from ppokit.plugin.protocols import Component

FUNCTION_REWARD = "python"
"""The reward that calls a function."""


class PluginRegistry:
    """Every installed plugin, by kind and name.

    Args:
        disabled: what `--disable-plugin` names: `kind.name`, `name`, or either with `@distribution`.
        entry_points: read instead of the environment's metadata.

    Raises:
        PluginError: nothing installed has a name in `disabled`.
    """

    def __init__(
        self, disabled: Sequence[str] = (), entry_points: Iterable[EntryPoint] | None = None
    ) -> None:
        self._entries = entries.read(entries.installed() if entry_points is None else entry_points)
        self._loaded: dict[tuple[str, str], tuple[Component, str]] = {}
        self.disabled = tuple(disabled)
        for word in self.disabled:
            self._disable(word)
        self._mark_rivals()

    def entries(self) -> list[Entry]:
        """All of them with summary and state, by kind, then name; imports nothing."""
        return [replace(entry, summary=entries.summary(entry.module)) for entry in self._entries]

    def entries_of(self, kind: str) -> list[Entry]:
        """Those of a kind that a recipe may name, without summaries."""
        return [entry for entry in self._entries if entry.kind == kind and entry.state != "invalid"]

    def names(self, kind: str) -> list[str]:
        """What `use:` may say of a kind, whatever the state (but `invalid`)."""
        return sorted({e.use if e.state == "shadowed" else e.name for e in self.entries_of(kind)})

    def component(self, kind: str, use: str) -> tuple[Component, str]:
        """Import the one component that `use:` names.

        Returns:
            The component, and how errors name its plugin: `ppokit_rewards.sentiment, ppokit 0.1.0`, or
            `my_module:my_thing, /home/me/my_module.py`.

        Raises:
            PluginError: the component is not there, disabled, offered twice, or broken.
        """
        from ppokit.config import by_path

        if kind not in HOOK_BY_KIND:
            raise PluginError(f"{kind!r} is no kind of plugin; kinds are {listed(HOOK_BY_KIND)}")
        if (kind, use) not in self._loaded:
            if by_path.is_path(use):
                self._loaded[kind, use] = by_path.load_path(kind, use, self._function_reward)
            else:
                self._loaded[kind, use] = self._load(self._choose(kind, use))
        return self._loaded[kind, use]

    def source(self, kind: str, use: str) -> str:
        """The distribution, or the module of a path, that `use:` names; imports nothing.

        Raises:
            PluginError: as `component`.
        """
        from ppokit.config import by_path

        if by_path.is_path(use):
            return use.partition(":")[0]
        return self._choose(kind, use).distribution

    def _load(self, entry: Entry) -> tuple[Component, str]:
        try:
            component = self._component(entry)
            if entry.state == "not imported yet":
                self._entries[self._entries.index(entry)] = replace(entry, state="ok")
            return component, entry.label
        except PluginError as error:
            self._entries[self._entries.index(entry)] = replace(entry, state="broken", reason=str(error))
            raise

    def _component(self, entry: Entry) -> Component:
        """What a module offers by a decorator, or by its hook."""
        from ppokit.config import by_path, hooks

        module, who = hooks.import_plugin(entry)
        path = by_path.decorated(module, entry.kind, entry.name)
        if path is None:
            known, hook = by_path.offers(module), HOOK_BY_KIND[entry.kind]
            if known and not hasattr(module, hook):
                raise PluginError(
                    f"{who} has no hook {hook}, and decorated in it is {listed(map(repr, known))}; expected "
                    f"'{entry.kind}.{entry.name}' among them, as its entry point says"
                )
            return hooks.offered(module, entry, who)
        return replace(by_path.load_path(entry.kind, path, self._function_reward)[0], name=entry.name)

    def _function_reward(self) -> Component:
        return self.component("rewards", FUNCTION_REWARD)[0]

    def _choose(self, kind: str, use: str) -> Entry:
        name, at, distribution = use.partition("@")
        named = [e for e in self._entries if (e.kind, e.name) == (kind, name) and e.state != "invalid"]
        if at:
            named = [e for e in named if normalise(e.distribution) == normalise(distribution)]
        if not named:
            raise PluginError(self._unknown(kind, use))
        allowed = [e for e in named if e.state != "disabled"]
        if not at:
            allowed = [e for e in allowed if e.state != "shadowed"]
        if not allowed:
            raise PluginError(f"{kind} {name!r} ({named[0].label}) is disabled by --disable-plugin")
        if len(allowed) > 1:
            raise PluginError(_ambiguous(allowed))
        return allowed[0]

    def _unknown(self, kind: str, use: str) -> str:
        from ppokit.config import by_path

        if hint := by_path.path_hint(use):
            return f"{use!r} is {hint}"
        known = self.names(kind)
        name = use.partition("@")[0]
        known_uses = {e.use for e in self._entries if (e.kind, e.state) != (kind, "invalid")}
        message = (
            f"no {kind} plugin {use!r} is installed (installed: {', '.join(known) or 'none'})"
            f"{suggest(use, [*known, *known_uses] if '@' in use else known)}"
        )
        others = [other for other in HOOK_BY_KIND if other != kind and name in self.names(other)]
        if others:
            message += f"; {name!r} is one of the {listed(others)} plugins"
        invalid = [e.reason for e in self._entries if e.state == "invalid" and e.name == name]
        return "; ".join([message, *invalid])

    def _disable(self, word: str) -> None:
        component, _, distribution = word.partition("@")
        hits = [
            i
            for i, entry in enumerate(self._entries)
            if component in (entry.name, f"{entry.kind}.{entry.name}")
            and (not distribution or normalise(distribution) == normalise(entry.distribution))
        ]
        if not hits:
            known = {
                spelling
                for e in self._entries
                for short in (e.name, f"{e.kind}.{e.name}")
                for spelling in (short, f"{short}@{e.distribution}")
            }
            names = sorted({f"{e.kind}.{e.name}" for e in self._entries})
            raise PluginError(
                f"--disable-plugin {word}: nothing installed has this name{suggest(word, known) or '.'} "
                f"Installed: {', '.join(names) or 'nothing'}"
            )
        for i in hits:
            self._entries[i] = replace(
                self._entries[i], state="disabled", reason=f"blocked by --disable-plugin {word}"
            )

    def _mark_rivals(self) -> None:
        """Say of each entry whose name others offer too whether a recipe gets it by that name."""
        enabled = defaultdict(list)
        for entry in self._entries:
            if entry.state == "not imported yet":
                enabled[entry.kind, entry.name].append(entry)
        for i, entry in enumerate(self._entries):
            rivals = enabled[entry.kind, entry.name]
            if entry.state != "not imported yet" or len(rivals) == 1:
                continue
            own = [rival for rival in rivals if rival.builtin]
            if not own:
                self._entries[i] = replace(entry, state="duplicate", reason=_ambiguous(rivals))
            elif not entry.builtin:
                reason = (
                    f"{entry.kind} {entry.name!r} is ppokit's own ({own[0].module}); a recipe gets that of "
                    f"{entry.source} ({entry.module}) by use: {entry.use}"
                )
                self._entries[i] = replace(entry, state="shadowed", reason=reason)
            elif len(own) > 1:
                self._entries[i] = replace(entry, state="duplicate", reason=_ambiguous(own))


def _ambiguous(rivals: list[Entry]) -> str:
    first = rivals[0]
    offers = listed(f"{e.source} ({e.module})" for e in rivals)
    if len({normalise(e.distribution) for e in rivals}) == 1:
        advice = "this distribution's own metadata must name it once"
    else:
        advice = f"name one in the recipe, by use: {listed((e.use for e in rivals), 'or')}"
    return f"{first.kind} {first.name!r} is offered more than once, by {offers}: {advice}"
