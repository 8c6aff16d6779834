"""``twistd mtlsd``: its options, and the only place that wires."""

from __future__ import annotations

import gc
import os
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from twisted.application.service import IService
from twisted.logger import Logger
from twisted.python import usage
from twisted.web.resource import IResource

from mtlsd import settings as settings_module
from mtlsd.audit.sinks import Fanout, GraceSink, IAuditSink, JsonLinesSink, LineFile, LogSink
from mtlsd.config import Config
from mtlsd.configwatch import ConfigWatcher
from mtlsd.deadlines import Deadlines
from mtlsd.enrol.attempts import Attempts
from mtlsd.enrol.invites import Invites
from mtlsd.enrol.join import Joins
from mtlsd.enrol.openings import Openings
from mtlsd.enrol.pending import Pending
from mtlsd.enrol.renewal import Successions
from mtlsd.errors import MtlsdError
from mtlsd.expirywatch import ExpiryWatch, OwnExpiryWatch
from mtlsd.heartbeat import Heartbeat
from mtlsd.identity import hush_the_parser
from mtlsd.listen import bind
from mtlsd.policy import LIMITS
from mtlsd.proxy.backend import Backends
from mtlsd.registry.directory import DirectoryRegistry
from mtlsd.registry.renewals import Renewals
from mtlsd.service import EarlyHangup, FrontDoor, raise_descriptor_limit
from mtlsd.settings import Settings
from mtlsd.tls.context import AuthorizedClients, ConnectionCreator, make_context, make_options, select_with_join
from mtlsd.tls.door import Door
from mtlsd.tls.farewell import Farewells
from mtlsd.tls.pair import PairFiles, Pairs, PairWatcher, ServerPair
from mtlsd.web.accesslog import AccessLog
from mtlsd.web.application import ApplicationThreads
from mtlsd.web.certificates import Announced, ServerCertificates
from mtlsd.web.renewal import Renew
from mtlsd.web.router import Resources, Router
from mtlsd.web.site import Site, make_root
from mtlsd.workers import Workers

#: Descriptors that are no connection: the listener, logs, the poller, the folder being read.
_OWN_DESCRIPTORS = 64
#: Connections that only wait for their peer to hang up.
_MOST_FAREWELLS = 1024


def _parameters() -> list[list[object]]:
    parameters: list[list[object]] = []
    for setting in fields(Settings):
        default = setting.default if setting.default is not MISSING else None
        text = setting.metadata["help"]
        if default not in (None, "") and "default" not in text:
            text += f" [default: {settings_module.shown(default)}]"
        # None, not the default itself: "given" has to be told from "default" when there is a configuration file.
        parameters.append([settings_module.option_name(setting), None, None, text])
    return parameters


class Options(usage.Options):
    """The options of ``twistd mtlsd``: one for each field of :class:`~mtlsd.settings.Settings`."""

    synopsis = "[options]"
    longdesc = "A front door for HTTPS that lets in exactly the clients whose certificates are in a folder."
    optParameters = _parameters()

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse.  A wrong option is one line on standard error and status 1, not twistd's list of all options."""
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            raise SystemExit(f"mtlsd: {error}") from None


def makeService(options: Options, reactor: Any = None, root: IResource | None = None) -> IService:
    """Wire a front door from *options*.  *root* is served instead of mtlsd's own few pages.

    Whatever is wrong (an option, the folder, the server's pair, a taken port) is one line on standard error and exit
    status 1, before anything is started.
    """
    early = EarlyHangup()
    if reactor is None:
        from twisted.internet import reactor
    hush_the_parser()
    try:
        given = cast("dict[str, str | None]", options)
        path = settings_module.config_of(given)
        watcher = None if path is None else ConfigWatcher(Path(os.path.abspath(path)))
        config = Config() if watcher is None else watcher.config
        settings = _anchored(settings_module.load(given, config.server))
        return _wire(settings, watcher, reactor, root, early, _user_to_become(options))
    except MtlsdError as error:
        raise SystemExit(f"mtlsd: {error}") from None


def _user_to_become(options: Options) -> int | None:
    """Return the user (a number) that ``twistd --uid`` is going to change to, if any."""
    parent = getattr(options, "parent", None)
    user = parent.get("uid") if parent is not None else None
    return user if isinstance(user, int) and os.geteuid() == 0 else None


def _wire(
    settings: Settings, watcher: ConfigWatcher | None, reactor: Any, root: IResource | None, early: EarlyHangup, user: int | None
) -> FrontDoor:
    log = Logger(namespace="mtlsd")
    seconds = time.monotonic

    workers = Workers(reactor)
    pairs = PairWatcher(PairFiles(settings.key_path, settings.cert_path, settings.next_pair, _now), seconds)
    pair = pairs.pairs.current
    registry = DirectoryRegistry(
        settings.certs,
        seconds=seconds,
        in_thread=workers.run,
        reactor=reactor,
        server_uid=lambda: os.geteuid() if os.geteuid() or user is None else user,
    )
    _load(registry)

    files: list[LineFile] = []
    sinks: list[IAuditSink] = [LogSink(Logger(namespace="mtlsd")), GraceSink(seconds, renews=settings.renew)]
    if settings.audit_log is not None:
        files.append(LineFile(settings.audit_log, seconds, user))
        sinks.append(JsonLinesSink(files[-1]))
    access_file = None
    if settings.access_log is not None and settings.access_log != "-":
        access_file = LineFile(Path(settings.access_log), seconds, user)
        files.append(access_file)

    deadlines = Deadlines(seconds)
    sink = Fanout(sinks)
    successions = _successions(settings, registry, sink, workers, seconds)
    own = _own_root(settings, pairs, successions) if root is None else root
    site = Site(
        own,
        settings=settings,
        deadlines=deadlines,
        access_log=None if settings.access_log is None else AccessLog(access_file, _now),
        reactor=reactor,
    )
    if watcher is not None and settings.config is not None:
        resources = Resources(reactor, settings.config, ApplicationThreads(settings.threads))
        backends = Backends(reactor, deadlines, site.names)

        def use_rules(fresh: Config) -> None:
            site.router = Router(fresh.rules, resources.make(fresh.rules), own, backends)
            site.router.reconsider()
            for unknown in fresh.unknown(registry.snapshot().clients()):
                log.warn("{config}: {unknown}", config=settings.config, unknown=unknown)

        use_rules(watcher.config)
        watcher.hand_to(use_rules)
    descriptors = raise_descriptor_limit()
    pending = None
    if settings.pending:
        pending = Pending(
            settings.certs,
            registry=registry,
            sink=sink,
            in_thread=workers.run,
            seconds=seconds,
            now=_now,
        )
    door = Door(
        settings=settings,
        registry=registry,
        sink=sink,
        deadlines=deadlines,
        site=site,
        now=_now,
        name=secrets.token_hex(4),
        max_handshakes=_fitting_handshakes(settings.max_handshakes, descriptors, log),
        knock=None if pending is None else pending.knock,
    )

    def reconsider(changed: frozenset[str]) -> None:
        if site.router is not None:
            site.router.reconsider(changed)

    # After the door: whoever is revoked is cut by it already, and heard of as that.
    registry.listen(reconsider)
    clients = AuthorizedClients(registry)
    joins = _joins(settings, registry, door.sink, workers, seconds) if settings.enrol else None
    door.join = joins
    # Also where renewing has been turned off since: an overlap has its end.
    door.used = successions.used
    select = None if joins is None else select_with_join(joins.is_open)
    creator = ConnectionCreator(make_context(_options_for(pair, clients, settings), clients, select))

    def use(fresh: ServerPair) -> None:
        creator.context = make_context(_options_for(fresh, clients, settings), clients, select)

    pairs.hand_to(use)

    return FrontDoor(
        reactor=reactor,
        listening=bind(settings.interface, settings.port),
        creator=creator,
        farewells=Farewells(
            deadlines,
            write_timeout=settings.write_timeout,
            close_timeout=settings.close_timeout,
            most=min(_MOST_FAREWELLS, descriptors // 8),
        ),
        door=door,
        registry=registry,
        pair=pairs,
        config=watcher,
        pending=pending,
        joins=joins,
        successions=successions if settings.renew else None,
        heartbeat=_heartbeat(settings, registry, pairs, reactor, seconds),
        files=files,
        drain_timeout=settings.drain_timeout,
        early=early,
    )


def _own_root(settings: Settings, pairs: PairWatcher, successions: Successions) -> IResource:
    below: dict[bytes, IResource] = {b"server": ServerCertificates(lambda: _announced(pairs.pairs))}
    if settings.renew:
        below[b"renew"] = Renew(successions)
    return make_root(below=below)


def _announced(pairs: Pairs) -> tuple[Announced, ...]:
    """Return what clients are told of the server's certificates."""
    current = Announced(pairs.current.facts, pairs.current.pem())
    return (
        (current,)
        if pairs.upcoming is None
        else (current, Announced(pairs.upcoming.pair.facts, pairs.upcoming.pair.pem(), pairs.upcoming.since))
    )


def _heartbeat(
    settings: Settings, registry: DirectoryRegistry, pairs: PairWatcher, reactor: Any, seconds: Callable[[], float]
) -> Heartbeat:
    heartbeat = Heartbeat(reactor, seconds)
    remedy = "mtlsd init --renew" if settings.next_pair is not None else f"put another pair in the place of {settings.cert_path}"
    heartbeat.add(OwnExpiryWatch(lambda: pairs.ends, _now, seconds, settings.expiry_warning, remedy).beat)
    if settings.expiry_warning:
        heartbeat.add(ExpiryWatch(registry.snapshot, _now, seconds, settings.expiry_warning, renews=settings.renew).beat)
    return heartbeat


def _fitting_handshakes(wanted: int, descriptors: int, log: Logger) -> int:
    fit = max(1, min(wanted, (descriptors - _OWN_DESCRIPTORS) // 2))
    if fit < wanted:
        log.warn(
            "max_handshakes is {fit}, not {wanted}: this process may have {descriptors} file descriptors only",
            fit=fit,
            wanted=wanted,
            descriptors=descriptors,
        )
    return fit


def _joins(
    settings: Settings, registry: DirectoryRegistry, sink: IAuditSink, workers: Workers, seconds: Callable[[], float]
) -> Joins:
    return Joins(
        settings.certs,
        invites=Invites(settings.certs, _now, "mtlsd", look=registry.glance),
        openings=Openings(settings.certs, _now),
        attempts=Attempts(seconds),
        sink=sink,
        in_thread=workers.run,
        look=registry.look,
        longest=settings.renew_longest,
        limits=LIMITS.only(settings.enrol_keys),
    )


def _successions(
    settings: Settings, registry: DirectoryRegistry, sink: IAuditSink, workers: Workers, seconds: Callable[[], float]
) -> Successions:
    return Successions(
        settings.certs,
        renewals=Renewals(settings.certs, _now, "mtlsd", look=registry.glance),
        registry=registry,
        sink=sink,
        in_thread=workers.run,
        look=registry.look,
        now=_now,
        seconds=seconds,
        longest=settings.renew_longest,
        limits=LIMITS.only(settings.enrol_keys),
        grace=settings.renew_grace,
    )


def _load(registry: DirectoryRegistry) -> None:
    # 100,000 certificates are some million objects that all stay: collecting garbage among them costs seconds while
    # they are made, and a pause of tenths of a second each time after that.
    gc.disable()
    try:
        registry.load()
    finally:
        gc.enable()
    gc.freeze()


def _options_for(pair: ServerPair, clients: AuthorizedClients, settings: Settings) -> Any:
    return make_options(pair, clients, tickets=settings.tickets, tls_min=settings.tls_min)


def _now() -> datetime:
    return datetime.now(UTC)


def _anchored(settings: Settings) -> Settings:
    """Make every path absolute: as a daemon, twistd changes its directory after the options are read."""
    changes: dict[str, Any] = {}
    for setting in fields(Settings):
        value = getattr(settings, setting.name)
        if isinstance(value, Path):
            changes[setting.name] = Path(os.path.abspath(value))
    if settings.access_log is not None and settings.access_log != "-":
        changes["access_log"] = os.path.abspath(settings.access_log)
    return replace(settings, **changes)
