"""What never happens, whatever the witnesses say, in whatever order: looks and decision together.

The model is independent: it keeps the raw looks of each round, and reads the promises from them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from witnesses import ALERTS

from actions import decide, looks
from actions.looks import Attention, Memory, Round
from exporter.probes import Down, Up

SERVERS = ("main", "backup", "third")
NEEDED = 3
UP, DOWN = Up(0.1), Down("timeout", "", 1.0)

Alerts = Mapping[str, decide.Alert]
alerts = st.fixed_dictionaries({server: st.sampled_from([*ALERTS.values()]) for server in SERVERS})
up_or_down = st.fixed_dictionaries({server: st.booleans() for server in SERVERS})


@dataclass(frozen=True)
class Moment:
    """One round of looks, and what the alerts say when it has been taken."""

    alerts: Alerts
    up: Mapping[str, bool]
    reference: bool


moments = st.builds(Moment, alerts, up_or_down, st.sampled_from([True, True, True, False]))
# Long runs of the same, or nothing would ever be clear.
histories = st.lists(st.tuples(moments, st.integers(1, 2 * NEEDED)), min_size=1, max_size=12).map(
    lambda runs: [moment for moment, times in runs for _ in range(times)]
)


@dataclass
class World:
    """What converge does with what it is given, without the zones."""

    serving: str
    seen_up: set[str]
    handback: Literal["auto", "manual"] = "auto"
    pinned: str | None = None
    attended: Attention = field(default_factory=lambda: Attention((), eager=False))
    memory: Memory = field(default_factory=lambda: Memory(NEEDED))
    # For the promises: the rounds since the alerts became what they are, with what was seen.
    rounds: list[Moment] = field(default_factory=list)
    alerts: Alerts = field(default_factory=dict)
    told: Mapping[str, decide.Testimony] = field(default_factory=dict)

    def live(self, moment: Moment) -> decide.Decision:
        """Look at whoever gets attention, ask, decide, serve."""
        if self.attended.servers:
            self.memory.note(
                Round(
                    {s: UP if moment.up[s] else DOWN for s in self.attended.servers},
                    {"reference": UP if moment.reference else DOWN},
                )
            )
            self.rounds.append(moment)
        never_seen = set(SERVERS) - self.seen_up
        attended = looks.attention(moment.alerts, self.serving, never_seen)
        if attended != self.attended:
            self.memory.forget(blindness=not attended.servers)
        self.attended = attended
        if moment.alerts != self.alerts:
            self.alerts, self.rounds = moment.alerts, []
        seen = self.memory.seen(self.attended, SERVERS)
        self.seen_up |= seen.met
        self.told = {
            s: decide.Testimony(moment.alerts[s], seen.looks[s], s in self.seen_up) for s in SERVERS
        }
        decision = decide.decide(
            self.serving,
            self.told,
            pinned=self.pinned,
            blind=seen.blind is not None,
            handback=self.handback,
        )
        self.serving = decision.server
        return decision

    def last_looks(self, server: str) -> list[tuple[bool, bool]]:
        """The last rounds' looks at a server: (up, with a reference), the newest last."""
        return [(moment.up[server], moment.reference) for moment in self.rounds[-NEEDED:]]


worlds = st.builds(
    World,
    serving=st.sampled_from(SERVERS),
    seen_up=st.sets(st.sampled_from(SERVERS)),
    handback=st.sampled_from(["auto", "manual"]),
)


@settings(derandomize=True, deadline=None, max_examples=400)
@given(worlds, histories)
def test_nobody_is_left_on_fewer_than_so_many_lost_looks(
    world: World, history: Sequence[Moment]
) -> None:
    """A server whose looks do not all fail is left only for a better one before it that is up."""
    for moment in history:
        before = world.serving
        decision = world.live(moment)
        if decision.cause == "down":
            last = world.last_looks(before)
            assert last == [(False, True)] * NEEDED
            assert moment.alerts[before].state != "quiet"
            assert before in world.seen_up
        elif decision.cause == "handback":
            assert SERVERS.index(decision.server) < SERVERS.index(before)
            assert world.last_looks(decision.server) == [(True, True)] * NEEDED
            assert moment.alerts[decision.server].state != "firing"
        else:
            assert decision.server == before


@settings(derandomize=True, deadline=None, max_examples=400)
@given(worlds, histories)
def test_nobody_is_taken_who_is_down_while_another_is_up(
    world: World, history: Sequence[Moment]
) -> None:
    """And nobody whose looks do not all succeed."""
    for moment in history:
        decision = world.live(moment)
        if decision.cause:
            assert world.last_looks(decision.server) == [(True, True)] * NEEDED
            verdicts = {server: its.verdict for server, its in world.told.items()}
            if "up" in verdicts.values():
                assert verdicts[decision.server] == "up"


@settings(derandomize=True, deadline=None, max_examples=300)
@given(worlds, histories, st.lists(moments, min_size=1, max_size=4))
def test_blind_it_holds_still(
    world: World, history: Sequence[Moment], dark: Sequence[Moment]
) -> None:
    """While no reference answers, and for the first rounds after."""
    for moment in history:
        world.live(moment)
    assume(world.attended.servers)
    before = world.serving
    for moment in dark:
        assume(looks.attention(moment.alerts, before, set(SERVERS) - world.seen_up).servers)
        world.live(Moment(moment.alerts, moment.up, reference=False))
        assert world.serving == before
    light = history[-1]
    for _ in range(2 * NEEDED - 1):  # as many forgotten, and one too few
        assume(looks.attention(light.alerts, before, set(SERVERS) - world.seen_up).servers)
        decision = world.live(Moment(light.alerts, light.up, reference=True))
        assert decision.cause is None


@settings(derandomize=True, deadline=None, max_examples=300)
@given(worlds, histories, st.sampled_from(SERVERS))
def test_pinned_it_stays_there(world: World, history: Sequence[Moment], pinned: str) -> None:
    """Whatever anybody says, from the first moment on."""
    world.pinned = pinned
    for moment in history:
        assert world.live(moment).server == pinned


ALL_WELL = Moment(dict.fromkeys(SERVERS, ALERTS["quiet"]), dict.fromkeys(SERVERS, True), True)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(worlds, histories)
def test_it_ends_at_the_preferred_server(world: World, history: Sequence[Moment]) -> None:
    """Once all is quiet and up, with nothing pinned, and handed back automatically."""
    world.handback = "auto"
    for moment in history:
        world.live(moment)
    for _ in range(3 * NEEDED):
        world.live(ALL_WELL)
    assert world.serving == SERVERS[0]


@settings(derandomize=True, deadline=None, max_examples=300)
@given(worlds, histories)
def test_handed_back_by_hand_only_it_stays(world: World, history: Sequence[Moment]) -> None:
    """With "manual" nobody is left who is not down."""
    world.handback = "manual"
    for moment in history:
        assert world.live(moment).cause in (None, "down")
