"""The imports follow the shape of the code: a pure core in a thin shell, and no circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import redvsblue_telemetry

PACKAGE = Path(redvsblue_telemetry.__file__).parent

# Who may import whom. A row is a room: a module, or a package with all that is in it (its own
# rooms have a picture below). A room imports from the rooms named beside it, and from no others;
# each of these stands above it in the picture, so the imports only ever go up.
THE_PACKAGE = """
    _shared         |
    _packages       |
    _compression    |
    event_types     | _shared
    _schema         |
    _report         | _shared
    _stacks         | _shared
    _user_dir       |
    _frames         | _stacks  _shared
    _crashes        | _report  _frames  _stacks  _shared
    errors          | _shared
    events          | errors  _shared
    settings        | errors  _shared
    _dialects       | errors  _shared
    engines         | errors  event_types  events  _dialects
    _recording      | errors  event_types  events  _shared
    _journal        | _recording  _report  _shared
    _network        | _packages  _shared
    _delivery       | settings  _recording  _network  _packages  _report  _compression  _shared
    _lifecycle      | _recording  _shared
    client | errors event_types events settings engines _frames _crashes _lifecycle _recording _delivery _journal _report _shared
    _process        | errors  event_types  settings  client  _lifecycle  _delivery  _crashes  _shared
    __init__ | errors events event_types settings client _process _recording _delivery _packages _user_dir _shared
    collector       | settings  _compression  _report  _schema  _shared
    testing         | events  event_types  settings  client  _process  _recording  collector  _compression  _shared
    collector.testing | testing
    cluster         | collector  _compression  _report  _schema  _shared
    cli             | *
    __main__        |
"""  # noqa: E501

ROOMS = {
    # On the game's thread: emit encodes an event and puts it into the store.
    "_recording": """
        counter         |
        jsonable        |
        store           | counter
        sampling        | counter
        ledger          | counter  store
        prefixes        | counter
        codec           | jsonable  prefixes
        emit            | codec  jsonable  ledger  store
    """,
    # Files: events outlive the process.
    "_journal": """
        layout          |
        records         |
        recovery        | layout  records
        descriptors     |
        locks           | descriptors
        run             | descriptors  locks
        dead            | descriptors  layout  records  recovery  run
        directory       | descriptors  layout  run  dead
        blocks          |
        segment         | blocks  descriptors  layout  records
        rotation        | segment
        store           | layout  records  segment  rotation
        journal         | layout  run  directory  store
    """,
    # Bytes: nothing here knows what an event is.
    "_network": """
        contract        |
        frames          |
        proxy           |
        sigpipe         |
        sockets         | sigpipe
        handshake       | contract  proxy
        owned           |
        names           | contract  owned  sockets
        dial            | contract  proxy  names  owned  sigpipe  sockets
        stream          | contract  handshake  sockets
        websocket       | contract  dial  stream  frames  handshake
    """,
    # On the worker's thread: from the store to a confirmed batch.
    "_delivery": """
        states          |
        backoff         |
        pacing          |
        poller          |
        log             |
        gaps            |
        keepalive       |
        window          |
        requests        |
        packing         | log
        settlement      | window
        closing         | gaps
        adoption        | settlement  closing  log
        limits          | adoption
        report          | window  gaps
        session         | window  settlement  adoption  gaps  report  keepalive  pacing  log
        worker | session adoption limits settlement window report states requests backoff keepalive packing poller log
    """,  # noqa: E501
    "collector": """
        cells           |
        loglimit        |
        messages        |
        textsearch      |
        models          | textsearch
        ranges          | models
        faults          |
        checking        | faults
        steps           |
        storing         | messages
        storage         | loglimit  messages  models  steps  storing  textsearch
        answers         | models  steps  storage
        alerts          | models  storage
        webhook         |
        alerting        | alerts  storage  webhook
        ingest          | messages  storing
        http | answers  cells  loglimit  messages  models  ranges  storage  ingest
        app             | alerting  alerts  answers  http  ingest  storage
        tls             |
        listening       | loglimit
        connections     | listening  loglimit
        server | alerting alerts app checking connections http ingest storage tls webhook
        client          | models
    """,
    "collector.storage": """
        sandbox         |
        seqranges       |
        losses          |
        reports         | losses  seqranges
        summaries       |
        cutoff          |
        figures         |
        ids             |
        snapshot        |
        upkeep          |
        textindex       | snapshot  upkeep
        counting        | upkeep
        views           | counting  figures  upkeep
        history         | counting  snapshot
        plan            | textindex
        blocks          |
        encoding        |
        fields          |
        bycolumn        |
        columns         | blocks  bycolumn  cutoff  encoding  fields  snapshot
        building        | blocks  encoding  fields  upkeep
        queries | bycolumn cutoff history ids figures losses plan reports snapshot summaries
        batches         | bycolumn  history  ids  plan  snapshot
        scans           | batches  bycolumn  fields  history  plan
        sessions        | ids  seqranges
        numbers         |
        contexts        |
        faults          |
        schema          | figures
        database        | schema
        space           | database  upkeep
        deletion        | blocks  counting  reports  textindex
        writer | contexts counting database deletion faults ids reports schema sessions textindex upkeep
        retention       | database  deletion  space  upkeep
        forgetting      | counting  deletion  upkeep
        thread          | database  upkeep  writer
    """,  # noqa: E501
    "collector.answers": """
        questions       |
        dialect         |
        backend         | dialect
        database        | backend  questions
        rows            | backend  database  dialect
        vectors         | backend  database  dialect  questions
        sql             | backend  questions
        bins            |
        field           | backend  bins  dialect  questions  sql
        fields          | backend  questions  sql
        compare         | backend  field  questions  sql
        funnel          | backend  questions  sql
        retention       | backend  questions  sql
        timeline        | questions
        asking | backend compare database field fields funnel questions retention rows sql vectors
    """,
    "collector.http": """
        forwarded       |
        guesses         |
        access          | forwarded  guesses
        joining         |
        static          | joining
        metrics         | access
        live            |
        readers         |
        parameters      |
        source          | parameters
        responses       | parameters  readers  source
        application     | access  responses
        answers         | parameters  readers  responses  source
        query           | parameters  readers  responses
        from_database   | parameters  readers  source
        api | application live metrics parameters readers responses source
    """,
    "cluster": """
        tasks           |
        stream          | tasks
        administration  | stream
        gateway         | stream  tasks
        lake            |
        loader          | lake  stream  tasks
        view            | lake
        local           | stream  lake
    """,
    "cluster.loader": """
        leases          |
        membership      | leases
        places          |
        reading         |
        source          |
        continuity      |
        partitions      | places  reading
        answering       |
        storing         | partitions  places
        loader          | answering  continuity  membership  partitions  places  reading  source  storing
        upkeep          | places  source
        erasure         | upkeep
        metrics         | storing
        http            |
        server | answering continuity http leases loader membership metrics partitions reading source storing upkeep
    """,  # noqa: E501
    "cluster.view": """
        events          |
        figures         | events
        catalog         |
        following       | catalog  events
        answers         | figures
        timeline        | figures
        source          | answers  events  figures  following  timeline
        app             | answers  following  source
    """,
    "cluster.local": """
        ports           |
        children        |
        servers         | children  ports
        balancer        |
        ledgers         |
        cluster         | balancer  children  ports  servers
    """,
    "cluster.gateway": """
        splitting       |
        following       |
        link            |
        archive         | following  link
        storage         | link  splitting
        metrics         |
        app             | archive  following  link  metrics  storage
    """,
    "cluster.lake": """
        errors          |
        rows            |
        numbers         |
        columns         |
        counts          |
        table           | columns  counts  errors  rows
        collecting      | numbers  rows  table
        rewriting       | errors  table
        compaction      | columns  numbers  rewriting  rows  table
        retention       | rewriting  rows  table
        forgetting      | rewriting  rows  table
        lake | collecting compaction errors forgetting numbers retention rows table
        cells           |
        reading         | cells  counts  errors  rows  table
        standing        | numbers  reading
        views           | reading  rows  standing
        sql             | errors  reading  standing  views
        answers         | cells  columns  errors  reading  rows  standing  table
        batches         | reading  rows  table
        copying         | reading  rows  standing  views
    """,
    "testing": """
        _instances      |
        _matching       | _instances
        _recording      | _instances  _matching
        _server         |
        __init__        | _recording  _server
        collector       | _matching  _recording
    """,
    "cli": """
        _arguments      |
        _database       |
        _terminal       |
        _lake           | _arguments  _terminal
        _outcomes       |
        _output         | _terminal
        _runner         | _terminal
        _parquet        |
        _formats        | _parquet  _terminal
        _sdk_log        |
        _systemd        |
        _stream         | _arguments  _terminal
        _serving        | _arguments  _terminal  _runner  _systemd
        collect         | _arguments  _terminal  _runner  _serving  _stream
        view            | _arguments  _terminal  _runner  _serving
        load            | _arguments  _terminal  _runner  _stream  _systemd
        stream          | _arguments  _terminal  _stream
        tail            | _arguments  _terminal
        forget          | _arguments  _terminal  _lake  _runner  _stream
        export          | _arguments  _terminal  _database  _lake  _output  _formats  _parquet
        prove           | _arguments  _terminal  _database  _lake
        query           | _arguments  _terminal  _database  _lake  _output
        report          | _arguments  _terminal  _database  _lake  _outcomes  _output
        schema          | _terminal  _output
        check           | _arguments  _terminal  _sdk_log
        journal         | _arguments  _terminal  _sdk_log
        run             | _arguments  _database  _outcomes  _terminal  _runner
        demo            | _arguments  _terminal  _runner
        cluster         | _arguments  _terminal  _runner  demo
        main            | _terminal
    """,
}

# These know no thread and no socket: values in, values out.
PURE = [
    "_compression",
    "_delivery.backoff",
    "_delivery.closing",
    "_delivery.gaps",
    "_delivery.keepalive",
    "_delivery.log",
    "_delivery.packing",
    "_delivery.report",
    "_delivery.states",
    "_delivery.window",
    "_journal.layout",
    "_journal.records",
    "_journal.recovery",
    "_network.contract",
    "_network.frames",
    "_network.handshake",
    "_network.proxy",
    "_recording",
    "cli.prove.proof",
    "cluster.loader.leases",
    "cluster.loader.partitions",
    "cluster.loader.places",
    "cluster.loader.reading",
    "cli.schema.changes",
    "cli.schema.plan",
    "collector.alerts",
    "collector.faults",
    "collector.messages",
    "collector.models",
    "collector.storage.fields",
    "collector.ranges",
    "collector.storage.losses",
    "collector.storage.schema",
    "collector.storage.seqranges",
    "collector.storage.summaries",
    "errors",
    "event_types",
    "events",
    "settings",
    "testing._instances",
    "testing._matching",
]
SHELL = {"asyncio", "select", "selectors", "socket", "threading", "_thread", "websocket"}

RUN_TIME_DEPENDENCIES = {"attrs", "msgspec", "tenacity", "websocket"}
ZSTD = {"compression", "backports"}  # Python's own from 3.14 on, and the package for older ones
GAME = ["_", "client", "engines", "errors", "event", "settings"]  # what a game loads begins so


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports_of(path: Path, *, at_top_only: bool = False) -> set[str]:
    """What a module imports when it runs: outside names as they are, the package's as ``.name``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    importer = module_name(path)
    return {name for node in _statements(tree, at_top_only) for name in _imported(node, importer)}


def _statements(node: ast.AST, at_top_only: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):  # most of a tree, and no import is in it
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if at_top_only and isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        yield child
        yield from _statements(child, at_top_only)


def _imported(node: ast.AST, importer: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        source = node.module or ""
        if node.level:
            package = importer.split(".")[: -node.level]
            source = ".".join([PACKAGE.name, *package, *filter(None, [node.module])])
        if source.partition(".")[0] != PACKAGE.name:
            yield source.partition(".")[0]
            return
        for alias in node.names:
            below = ".".join([*source.split(".")[1:], alias.name])
            above = ".".join(source.split(".")[1:])
            yield "." + next(filter(MODULES.__contains__, candidates(below, above)))


def candidates(*names: str) -> Iterator[str]:
    for name in names:
        yield from (name, f"{name}.__init__".removeprefix("."))


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
MODULES = set(FILES)
IMPORTS = {name: imports_of(path) for name, path in FILES.items()}
INSIDE = {
    name: {found[1:] for found in imported if found.startswith(".")}
    for name, imported in IMPORTS.items()
}
OUTSIDE = {
    name: {found for found in imported if not found.startswith(".")}
    for name, imported in IMPORTS.items()
}
IS_OF_THE_GAME = [
    name for name in MODULES if name.startswith(tuple(GAME)) and not name.startswith("__main__")
]


def picture(text: str) -> dict[str, list[str]]:
    rows = [line.partition("|") for line in text.strip().splitlines()]
    return {room.strip(): names.split() for room, _, names in rows}


def is_within(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


def crossings(package: str) -> Iterator[tuple[str, str, str]]:
    """Each import from one room of a package into another: room, importer, imported."""
    prefix = f"{package}." if package else ""
    rooms = picture(ROOMS[package] if package else THE_PACKAGE)
    for module in sorted(MODULES):
        own = max((r for r in rooms if is_within(module, prefix + r)), key=len, default=None)
        for imported in INSIDE[module] if own else ():
            if imported.startswith(prefix) and not is_within(imported, prefix + str(own)):
                yield str(own), module, imported.removeprefix(prefix)


PACKAGES = ["", *ROOMS]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_has_its_room_in_the_picture(package: str) -> None:
    prefix = f"{package}." if package else ""
    rooms = picture(ROOMS[package] if package else THE_PACKAGE)
    children = {
        module.removeprefix(prefix).partition(".")[0]
        for module in MODULES - {"collector.testing"}
        if module.startswith(prefix)
    }
    is_plain_init = package != "" and not INSIDE.get(f"{prefix}__init__")
    named = {room.partition(".")[0] for room in rooms}
    assert children - ({"__init__"} if is_plain_init else set()) == named


@pytest.mark.parametrize("package", PACKAGES)
def test_the_arrows_of_the_picture_only_go_up(package: str) -> None:
    above: set[str] = set()
    for room, names in picture(ROOMS[package] if package else THE_PACKAGE).items():
        assert set(names) - {"*"} <= above, room
        above.add(room)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_room_imports_only_what_the_picture_says(package: str) -> None:
    rooms = picture(ROOMS[package] if package else THE_PACKAGE)
    strangers = [
        f"{module} imports {imported}"
        for room, module, imported in crossings(package)
        if rooms[room] != ["*"] and not any(is_within(imported, known) for known in rooms[room])
    ]
    assert strangers == []


@pytest.mark.parametrize("package", PACKAGES)
def test_the_picture_has_no_arrow_that_the_code_has_not(package: str) -> None:
    used = {(room, imported) for room, _, imported in crossings(package)}
    idle = [
        f"{room} -> {known}"
        for room, names in picture(ROOMS[package] if package else THE_PACKAGE).items()
        for known in names
        if known != "*" and not any(r == room and is_within(i, known) for r, i in used)
    ]
    assert idle == []


def test_there_is_no_circle() -> None:
    assert set(TopologicalSorter(INSIDE).static_order()) >= MODULES


@pytest.mark.parametrize("room", PURE)
def test_the_core_knows_no_thread_and_no_socket(room: str) -> None:
    modules = [name for name in MODULES if is_within(name, room)]
    assert modules
    found = {(name, outside) for name in modules for outside in OUTSIDE[name] & SHELL}
    # The locks of builds without the GIL.
    assert found <= {("_recording.store", "threading"), ("_recording.prefixes", "threading")}


def test_the_window_and_the_connection_read_no_clock_of_their_own() -> None:
    assert "time" not in OUTSIDE["_delivery.window"]
    assert "._shared" not in IMPORTS["_delivery.window"]
    assert not OUTSIDE["_network.websocket"] & {"threading", "tenacity"}


def test_only_one_module_imports_websocket() -> None:
    assert [name for name in MODULES if "websocket" in OUTSIDE[name]] == ["_network.websocket"]


def test_a_game_imports_only_the_run_time_dependencies() -> None:
    assert "_delivery.worker" in IS_OF_THE_GAME
    outside = {found for name in IS_OF_THE_GAME for found in OUTSIDE[name]}
    assert outside - RUN_TIME_DEPENDENCIES - ZSTD <= sys.stdlib_module_names


def test_testing_imports_websockets_only_when_a_server_starts() -> None:
    modules = [name for name in MODULES if is_within(name, "testing")]
    assert any("websockets" in OUTSIDE[name] for name in modules)
    for name in modules:
        assert "websockets" not in imports_of(FILES[name], at_top_only=True)


def run_python(script: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return result.stderr.strip()


def test_importing_the_package_brings_in_nothing_that_is_not_needed() -> None:
    unneeded = ["asyncio", "ctypes", "numpy", "pyglet", "pytest", "redvsblue_telemetry.testing"]
    unneeded += ["websockets"]
    script = (
        "import sys, redvsblue_telemetry\n"
        f"raise SystemExit(repr([m for m in {unneeded} if m in sys.modules]))"
    )
    assert run_python(script) == "[]"


def test_importing_the_package_starts_no_thread() -> None:
    script = (
        "import threading, redvsblue_telemetry\n"
        "raise SystemExit(repr([t.name for t in threading.enumerate()]))"
    )
    assert run_python(script) == "['MainThread']"
