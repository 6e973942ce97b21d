"""An alarm rings once, at the time that was set last."""

from __future__ import annotations

from dht.alarm import Alarm
from sims.engine import Engine
from sims.latency import Constant
from sims.network import Network


class Scene:
    def __init__(self) -> None:
        self.engine = Engine(1)
        self.rung: list[float] = []
        began = self.engine.now
        self.alarm = Alarm(
            Network(self.engine, Constant(1.0)).host(), lambda: self.rung.append(round(self.engine.now - began, 3))
        )


def test_the_time_set_last_counts() -> None:
    scene = Scene()
    scene.alarm.set(1.0)
    scene.alarm.set(3.0)
    scene.engine.run_for(2.0)
    assert scene.rung == []
    assert scene.alarm.pending
    scene.engine.run_for(10.0)
    assert scene.rung == [3.0]
    assert not scene.alarm.pending


def test_a_cancelled_alarm_is_silent_and_can_be_set_again() -> None:
    scene = Scene()
    scene.alarm.set(1.0)
    scene.alarm.cancel()
    assert not scene.alarm.pending
    scene.engine.run_for(2.0)
    scene.alarm.set(0.5)
    scene.engine.run_for(2.0)
    assert scene.rung == [2.5]


def test_whoever_is_rung_may_set_it_anew() -> None:
    scene = Scene()
    ring = scene.alarm._ring

    def again() -> None:
        assert not scene.alarm.pending
        ring()
        scene.alarm.set(1.0)

    scene.alarm._ring = again
    scene.alarm.set(1.0)
    scene.engine.run_for(3.5)
    assert scene.rung == [1.0, 2.0, 3.0]
