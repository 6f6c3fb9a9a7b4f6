"""An engine with a disk, and proplets that do what they are told, second by second: for tests of services.

A proplet may be down (nothing is heard of it, and its guests are gone) or cut off (nothing is heard of it,
and they go on). Guests of image `bad:1` fail as soon as they began; all others run until they are stopped.
"""

from collections.abc import Iterable
from dataclasses import replace

from propeller.core import events as e
from propeller.core.engine import Engine
from propeller.core.ledger import Now
from propeller.core.proplet import Proplet
from propeller.core.run import Run, RunState
from propeller.core.service import Phase, Service, ServiceRecord, ServiceState
from propeller.core.serving import leaving
from propeller.core.task import Task

GOOD, BETTER, BAD = "good:1", "better:1", "bad:1"
BEAT_S = 5
Key = tuple[str, int, int]


def service(replicas: int = 3, **fields) -> Task:
    """The definition of service `web`."""
    made = {"image_url": GOOD, "daemon": True, **fields}
    return Task(id="web", name="web", created_at_s=1.0, updated_at_s=1.0, replicas=replicas, **made)


class Disk:
    """What transactions keep."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.tasks: dict[str, Task] = {}
        self.begun: dict[str, Task] = {}
        """What each live run was started with."""
        self.services: dict[str, Service] = {}
        self.proplets: dict[str, Proplet] = {}

    def commit(self, commands: Iterable[e.Command]) -> None:
        """One transaction."""
        for command in commands:
            match command:
                case e.SaveTask(task=task):
                    self.tasks[task.id] = task
                case e.SaveService(service=kept):
                    self.services[kept.task_id] = kept
                case e.SaveRun(run=run):
                    before = self.runs.get(run.task_id)
                    if before is None or before.number != run.number:
                        self.begun[run.task_id] = self.tasks[run.task_id]
                    self.runs[run.task_id] = run
                case e.SaveProplet(proplet=proplet):
                    self.proplets[proplet.id] = proplet

    def record(self) -> ServiceRecord:
        """What is stored of the service."""
        numbers = {name: run.number for name, run in self.runs.items() if name != "web"}
        return ServiceRecord(task=self.tasks["web"], service=self.services["web"], numbers=numbers)


class Fleet:
    """Some proplets `p1`, `p2`, …, and the manager's engine. Time is `s`, in whole seconds."""

    def __init__(self, proplets: int, *, slots: int = 1, pins: bool = False) -> None:
        self.engine, self.disk, self.s = Engine(heartbeat_s=BEAT_S, pins=pins), Disk(), 0
        self.pins = pins
        self.names = [f"p{number}" for number in range(1, proplets + 1)]
        self.down: set[str] = set()
        self.cut: set[str] = set()
        self.held: dict[str, dict[Key, Task]] = {name: {} for name in self.names}
        self.digests = {GOOD: "sha256:good", BETTER: "sha256:better", BAD: "sha256:bad"}
        self.unsaid: list[e.Event] = []
        self.most = 0
        """The most replicas that there were at once without those being stopped."""
        for name in self.names:
            self.handle(
                e.Announced(proplet_id=name, protocol=2, name=name, slots=slots, proven=True, cause="x")
            )
            self._beat(name)

    @property
    def now(self) -> Now:
        """The moment on both clocks."""
        return Now(mono_s=float(self.s), wall_s=1_000_000.0 + self.s)

    @property
    def state(self) -> ServiceState:
        """The service as it stands."""
        found = self.engine.service("web", self.now)
        assert found is not None
        return found

    @property
    def task(self) -> Task:
        """Its definition as it is stored."""
        return self.disk.tasks["web"]

    @property
    def said(self) -> str:
        """What the service's run says."""
        return self.disk.runs["web"].reason

    @property
    def images(self) -> list[str]:
        """What the replicas that are to stay are made of, sorted."""
        staying = [name for name in self.engine.ledger.standing["web"].replicas if not self._leaves(name)]
        return sorted(self.engine.ledger.tasks[name].image_url for name in staying)

    @property
    def serving(self) -> list[str]:
        """The images of all guests that run anywhere, sorted."""
        return sorted(task.image_url for held in self.held.values() for task in held.values())

    def handle(self, event: e.Event) -> None:
        """Let the engine decide, store it, and do what it says."""
        commands = self.engine.handle(event, self.now)
        self.engine.validate()
        self.disk.commit(commands)
        self._count()
        for command in commands:
            self._perform(command)

    def start(self, task: Task) -> None:
        """Define the service and start it."""
        self.disk.tasks["web"] = task
        before = self.disk.record() if "web" in self.disk.services else None
        number = self.disk.runs["web"].number + 1 if "web" in self.disk.runs else 1
        self.handle(
            e.ServiceRequested(
                task=task,
                number=number,
                before=before.service if before else None,
                numbers=before.numbers if before else {},
                cause="user",
            )
        )
        self.settle()

    def change(self, *, wanted: int | None = None, **fields) -> None:
        """Change the definition; with `wanted` the number of replicas too."""
        if wanted is not None:
            fields["replicas"] = wanted
        task = replace(self.task, **fields)
        self.handle(e.Redefined(before=self.task, task=task, wanted=wanted, cause="user"))

    def stop(self) -> None:
        """Stop the service."""
        self.handle(e.StopRequested(task_id="web", reason="stopped by user", cause="user"))

    def restart(self) -> None:
        """The manager dies and comes back from its disk."""
        live = [(self.disk.begun[run.task_id], run) for run in self.disk.runs.values() if run.live]
        records = [self.disk.record()] if "web" in self.disk.services else []
        self.engine = Engine.restore(
            live, self.disk.proplets.values(), self.now, heartbeat_s=BEAT_S, pins=self.pins, services=records
        )
        self.engine.validate()

    def pass_s(self, seconds: int) -> None:
        """Let time go by."""
        for _ in range(seconds):
            self.settle()
            self.s += 1
            for name in self.names:
                if self.s % BEAT_S == 0 and name not in self.down | self.cut:
                    self._beat(name)
            self.handle(e.Tick())
        self.settle()

    def settle(self) -> None:
        """Deliver what is on its way, until nothing is."""
        while self.unsaid:
            self.handle(self.unsaid.pop(0))

    def kill(self, name: str) -> None:
        """Its process is gone, and its guests with it."""
        self.down.add(name)
        self.held[name] = {}

    def back(self, name: str) -> None:
        """It is there again."""
        self.down.discard(name)
        self.cut.discard(name)
        self._beat(name)

    def _leaves(self, name: str) -> bool:
        return leaving(self.engine.ledger.runs[name])

    def _count(self) -> None:
        for standing in self.engine.ledger.standing.values():
            staying = sum(not self._leaves(name) for name in standing.replicas)
            self.most = max(self.most, staying)

    def _beat(self, name: str) -> None:
        inventory = tuple(
            e.Held(task_id=task_id, run=run, attempt=attempt, state="running")
            for task_id, run, attempt in self.held[name]
        )
        self.handle(e.Heard(proplet_id=name, lane="directed", name=name, inventory=inventory, cause="alive"))

    def _perform(self, command: e.Command) -> None:
        match command:
            case e.SendStart(task=task, run=run) if run.live_attempt:
                self._begin(task, run)
            case e.SendStop(proplet_id=name) if name not in self.down | self.cut:
                key = (command.task_id, command.run, command.attempt)
                if self.held[name].pop(key, None) is not None:
                    self._say(name, "finished", key, error="stopped", failure="stopped")
            case e.PinImage(task=task) if task.image_url in self.digests:
                self.unsaid.append(
                    e.ImagePinned(
                        task_id=task.id,
                        run=command.run,
                        revision=command.revision,
                        digest=self.digests[task.image_url],
                        cause="registry",
                    )
                )
            case e.PinImage(task=task):
                self.unsaid.append(
                    e.ImageNotPinned(
                        task_id=task.id,
                        run=command.run,
                        revision=command.revision,
                        error=f"image {task.image_url} is not there",
                        for_good=True,
                        cause="registry",
                    )
                )

    def _begin(self, task: Task, run: Run) -> None:
        attempt = run.attempts[-1]
        name, key = attempt.proplet_id, (run.task_id, run.number, attempt.number)
        if name in self.down | self.cut or key in self.held[name]:
            return
        self._say(name, "started", key)
        if task.image_url == BAD:
            self._say(name, "finished", key, error="trap", failure="trap")
        else:
            self.held[name][key] = task

    def _say(self, name: str, kind: str, key: Key, **fields: str) -> None:
        task_id, run, attempt = key
        self.unsaid.append(
            e.AttemptReport(
                kind=kind, sender=name, task_id=task_id, run=run, attempt=attempt, cause=kind, **fields
            )
        )


def is_calm(fleet: Fleet) -> bool:
    """Whether the service is as it should be, and nothing more is to be done."""
    state = fleet.state
    return (
        state.service.phase is Phase.STEADY
        and len(state.replicas) == state.service.wanted == state.ready
        and all(one.run.state is RunState.RUNNING for one in state.replicas)
    )
