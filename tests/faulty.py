"""What the tests of faults break: processes to be killed, a network to be cut, a store that misbehaves.

The processes are forked from one that has TensorFlow loaded, which takes it six seconds.
"""

import asyncio
import mmap
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import dask
import dask.array
import keras
import numpy as np

from deepstreaks_dask.archive.append import CutoutBatch, append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.schema import EPOCHS
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.models.sequence.rcnn import Rcnn
from deepstreaks_dask.models.zoo import serialization
from deepstreaks_dask.models.zoo.card import KERAS_FILE, Card
from deepstreaks_dask.models.zoo.store import Zoo
from deepstreaks_dask.scoring import campaign as campaign_module
from deepstreaks_dask.scoring import cluster, networks, worker
from deepstreaks_dask.scoring.decision import Decision

SHARD = 64
SIDE = 24
DECISION = Decision({"rb": 0.5, "kd": 0.5})
ORDER = [["rb_tiny"], ["kd_tiny"]]

warm = multiprocessing.get_context("forkserver")
warm.set_forkserver_preload(
    [module.__name__ for module in (campaign_module, cluster, networks, serialization, dask.array)]
)


def small_cutouts(n, *, start=0):
    rng = np.random.default_rng(start)
    names = np.array([f"c{k}" for k in range(start, start + n)], dtype=object)
    columns = {"id": names, "night": np.full(n, 20260101, np.int32)}
    return CutoutBatch(rng.integers(0, 256, (n, SIDE, SIDE), np.uint8), columns)


def make_zoo(folder, seed):
    """Make a zoo of networks of 17 weights, whose scores of noise lie around 0.5."""
    zoo = Zoo(folder)
    for family in ("rb", "kd"):
        keras.utils.set_random_seed(seed + len(family) * ord(family[0]))
        model = keras.Sequential(
            [
                keras.layers.Input((SIDE, SIDE, 1)),
                keras.layers.AveragePooling2D(6),
                keras.layers.Flatten(),
                keras.layers.Dense(1, activation="sigmoid"),
            ]
        )
        kernel = np.random.default_rng(seed + ord(family[0])).normal(0, 4, (16, 1))
        model.layers[-1].set_weights([kernel, np.array([-kernel.sum() / 2])])
        zoo.save(model, Card(f"{family}_tiny", "1", KERAS_FILE, input_shape=(SIDE, SIDE, 1)))
    return zoo.url


def small_archive(url, shards):
    create_archive(url, shard=SHARD, shape=(SIDE, SIDE))
    append_batches(url, [small_cutouts(SHARD * shards - 5)])
    return url


def small_sequences(folder, shards):
    """Make an archive of objects of noise with one to four stamps each, and a zoo with an untrained network for them."""
    url, zoo = folder / "objects.zarr", Zoo(folder / "objects-zoo")
    create_archive(url, shard=SHARD, shape=(21, 21), dtype="float32", epochs=EPOCHS)
    n = SHARD * shards - 5
    rng = np.random.default_rng(3)
    counts = rng.integers(1, 5, n)
    mjd = 58000.0 + np.concatenate([np.arange(count) for count in counts])
    stamps = rng.normal(0, 1, (len(mjd), 21, 21)).astype(np.float32)
    ids = np.array([f"o{k}" for k in range(n)], object)
    append_batches(url, [CutoutBatch(stamps, {"id": ids}, counts=counts, epochs={"mjd": mjd})])
    keras.utils.set_random_seed(3)
    shape = {"input_shape": (21, 21, 1), "classes": ("a", "b"), "scaling": "none"}
    zoo.save(Rcnn(("a", "b")), Card("sky_rcnn", "1", "rcnn", **shape))
    return url, zoo.url


def chunk_files(url, run):
    """Give the files of those chunks of scores that are stored, by the number of the shard."""
    folder = Path(url) / "runs" / run / "scores" / "c"
    return {path.relative_to(folder).parts[0]: path for path in folder.rglob("0") if path.is_file()}


def chunks(url, run):
    """Which chunks of scores are stored, and when each was written."""
    return {name: path.stat().st_mtime_ns for name, path in chunk_files(url, run).items()}


def wait(condition, why):
    """Wait until something is so, for as long as the slowest machine takes."""
    deadline = time.monotonic() + 300
    while not (found := condition()):
        assert time.monotonic() < deadline, why
        time.sleep(0.005)
    return found


@contextmanager
def struck(url, run, strike, *, after=3):
    """Strike once some chunks are stored, while the block scores; give the chunks that were stored by then."""
    before, over = {}, threading.Event()

    def watch():
        while not over.is_set():
            if len(found := chunks(url, run)) >= after:
                before.update(found)
                strike()
                return
            time.sleep(0.002)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield before
    finally:
        over.set()
        thread.join()


def slow_down(seconds):
    """Let reading a shard take some time, so that there is a middle of a campaign to strike in."""
    checked = worker._checked

    def slowly(*arguments):
        time.sleep(seconds)
        return checked(*arguments)

    worker._checked = slowly


def move_clock(orders):
    """Let another process move this one's wall clock: by how many seconds comes in, what it shows then goes out."""
    import time_machine

    clock = time_machine.travel(time.time()).start()

    def listen():
        with suppress(EOFError):
            while True:
                clock.shift(orders.recv())
                orders.send(time.time())

    threading.Thread(target=listen, daemon=True).start()


def get_stuck(reads):
    """Let objects be read so many times, and then never again: whoever reads them is to be killed."""
    read, left = worker.read_objects, iter(range(reads))

    def stuck(*arguments):
        if next(left, None) is None:
            threading.Event().wait()
        return read(*arguments)

    worker.read_objects = stuck


# --- processes


def run_scheduler(file, settings):
    from distributed import Scheduler

    async def main():
        there = {"host": "127.0.0.1", "port": 0, "dashboard_address": "127.0.0.1:0"}
        async with Scheduler(**there) as scheduler:
            Path(file).with_suffix(".new").write_text(scheduler.address)
            Path(file).with_suffix(".new").rename(file)
            await scheduler.finished()

    with dask.config.set(settings):
        asyncio.run(main())


def run_worker(address, name, memory_limit, pace, *, nanny, stuck=None):
    from distributed import Nanny, Worker

    os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = "1"
    slow_down(pace)
    if stuck is not None:
        get_stuck(stuck)

    async def main():
        options = {"name": name, "nthreads": 1, "memory_limit": memory_limit}
        async with (Nanny if nanny else Worker)(address, host="127.0.0.1", **options) as server:
            await server.finished()

    with dask.config.set({"distributed.worker.multiprocessing-method": "fork"}):
        asyncio.run(main())


def start(target, *arguments, **options):
    process = warm.Process(target=target, args=arguments, kwargs=options)
    process.start()
    return process


@contextmanager
def processes(
    folder,
    *,
    gates=(None,),
    nanny=True,
    memory_limit=None,
    pace=0.05,
    settings=None,
    stuck=(None, None),
):
    """Give a scheduler and nannies, or workers, processes of their own, each behind a gate of the network or none."""
    file = folder / f"scheduler{time.monotonic_ns()}"
    started = [start(run_scheduler, str(file), settings or {})]
    try:
        wait(file.exists, "the scheduler does not start")
        address = file.read_text()
        for k, gate in enumerate(gates):
            if gate is not None:
                gate.open_to(address)
            there = address if gate is None else gate.address
            options = {"nanny": nanny, "stuck": stuck[k]}
            started.append(start(run_worker, there, f"w{k}", memory_limit, pace, **options))
        yield address, started
    finally:
        for process in started:
            process.kill()
            process.join()


def fill_memory(mark):
    """Take memory until killed, once."""
    if Path(mark).exists():
        return
    Path(mark).touch()
    taken, size = [], 64_000_000
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE  # resident at once
    while True:
        taken.append(mmap.mmap(-1, size, flags=flags))
        time.sleep(0.05)


def threads(number):
    """Give a client whose scheduler and worker are threads of this process, and show no dashboard."""
    from distributed import Client, LocalCluster

    cluster = LocalCluster(
        processes=False,
        n_workers=1,
        threads_per_worker=number,
        dashboard_address=None,
    )
    return Client(cluster)


# --- campaigns that are killed


class _Killer:
    """Kills its own process just before the so-many-th time that it changes something in a folder."""

    EVENTS = frozenset({"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link"})

    def __init__(self, folder, point):
        self.folder, self.point, self.count = str(folder), point, 0
        self.lock = threading.Lock()
        sys.addaudithook(self)

    def __call__(self, event, arguments):
        if event == "open":
            writes = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        else:
            writes = event in self.EVENTS
        if not writes or not str(arguments[0]).startswith(self.folder):
            return
        with self.lock:
            self.count += 1
            if self.count == self.point:
                os.kill(os.getpid(), signal.SIGKILL)


def campaign(
    url,
    zoo,
    run,
    mode="all",
    point=None,
    delay=None,
    said=None,
    *,
    families=("rb", "kd"),
    stuck=None,
    pace=None,
    clock=None,
):
    """Score in one process, which kills itself at a point or after a delay; say how often it changed something."""
    from deepstreaks_dask.scoring.campaign import score
    from deepstreaks_dask.scoring.ensemble import Ensemble
    from deepstreaks_dask.scoring.plan import CampaignOptions

    os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = "1"
    killer = _Killer(url, point)
    if stuck is not None:
        get_stuck(stuck)
    if pace is not None:
        slow_down(pace)
    if clock is not None:
        move_clock(clock)
    if delay is not None:
        timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()
    began = time.monotonic()
    decide = {}
    if mode == "decide":
        options = CampaignOptions(order=ORDER)
        decide = {"mode": "decide", "decision": DECISION, "options": options}
    with threads(2) as client:
        chosen = Ensemble.from_zoo(zoo, families)
        score(url, ensemble=chosen, client=client, run=run, progress=False, **decide)
        if said is not None:
            said.put((killer.count, time.monotonic() - began))
        os._exit(0)  # closing a cluster takes longer than all the rest


def campaigns(url, turns, barrier, said):
    """Score one run after the other, each at the same moment as somebody else; say how each ended."""
    from deepstreaks_dask.scoring.campaign import score
    from deepstreaks_dask.scoring.ensemble import Ensemble

    with threads(1) as client:
        for run, zoo, mode in turns:
            decide = {"mode": mode, "decision": DECISION} if mode == "decide" else {}
            families = Ensemble.from_zoo(zoo, ["rb", "kd"])
            barrier.wait()
            try:
                score(url, ensemble=families, client=client, run=run, progress=False, **decide)
                said.put((run, zoo, mode, ""))
            except DeepStreaksError as error:
                said.put((run, zoo, mode, str(error)))
        os._exit(0)


def search(folder, *asked, hold, **options):
    """Search for the settings of a recipe in one process; stay at the first checkpoint of one trial until it is killed."""
    from deepstreaks_dask.training.checkpoints import Checkpoints
    from deepstreaks_dask.training.sweeps import sweep

    save = Checkpoints.on_epoch_end

    def stay(self, epoch, logs=None):
        save(self, epoch, logs)
        if self.path.parent.name == hold:
            time.sleep(600)

    Checkpoints.on_epoch_end = stay

    with threads(1) as client:
        sweep(folder, *asked, client, progress=False, **options)
        os._exit(0)  # closing a cluster takes longer than all the rest


# --- the network


class Gate:
    """A TCP proxy that can be shut, loudly or silently, and opened again."""

    def __init__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open, self._refuses, self._pairs = threading.Event(), False, []

    def open_to(self, address):
        host, port = address.removeprefix("tcp://").split(":")
        self._target = host, int(port)
        self._open.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def shut(self, *, silently):
        """Break what is connected and refuse the rest, or let nothing through and say nothing."""
        if silently:
            self._open.clear()
            return
        self._refuses = True
        for pair in self._pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def open_again(self):
        self._refuses = False
        self._open.set()

    def close(self):
        self.shut(silently=False)
        self._open.set()
        self._listener.close()

    def _accept(self):
        with suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                if self._refuses:
                    here.close()
                    continue
                there = socket.create_connection(self._target)
                self._pairs.append((here, there))
                for pair in ((here, there), (there, here)):
                    threading.Thread(target=self._carry, args=pair, daemon=True).start()

    def _carry(self, source, target):
        with suppress(OSError):
            while data := source.recv(65536):
                self._open.wait()
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


# --- the object store


class MoodyStore(ThreadingHTTPServer):
    """Hands requests on to an object store, but for those that its mood answers: a status, or seconds to wait first."""

    daemon_threads = True

    def __init__(self, target):
        super().__init__(("127.0.0.1", 0), _Moody)
        self.target = target
        self.mood = lambda method, path: None
        self.refused = 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Moody(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a body waits for the acknowledgement of its head

    def _handle(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        mood = self.server.mood(self.command, self.path)
        if isinstance(mood, int):
            self.server.refused += 1
            code = {500: "InternalError", 503: "SlowDown"}[mood]
            text = f"<Error><Code>{code}</Code><Message>not now</Message></Error>".encode()
            return self._answer(mood, [("Content-Type", "application/xml")], text)
        time.sleep(mood or 0)
        connection = HTTPConnection(*self.server.target)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return self._answer(answer.status, answer.getheaders(), data)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _handle  # noqa: N815

    def _answer(self, status, headers, data):
        self.send_response_only(status)
        skip = {"transfer-encoding", "connection"}
        if self.command != "HEAD":
            skip.add("content-length")
            self.send_header("Content-Length", str(len(data)))
        for name, value in headers:
            if name.lower() not in skip:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def handle(self):
        with suppress(OSError):
            super().handle()

    def log_message(self, *_):
        pass
