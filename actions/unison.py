"""`zonerw-unison`: two folders kept in step by Unison, as the user to whom the local one belongs.

Owns what Unison is told, and what it is answered when it asks. What its plan means is for `plan` to
say; when a pair's turn comes, and what its last run came to, for `sync` to know.

Unison is not run in batch mode: so it shows its own plan, and asks before it does anything. The
plan's deletions are counted: what is deleted is what was counted. Where they are too many, they
are taken out of the plan, and all else is done. What it asks or plans that is not understood ends
it, with nothing changed.

A pair comes as a line of JSON on standard input, what it came to goes as JSON to standard output,
and when standard input ends, so does Unison. Nothing but the standard library: it starts in no
time, and who grants it rights by sudo can read it all.
"""

import contextlib
import fnmatch
import json
import os
import re
import selectors
import signal
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Literal

from actions.plan import Files, Loss, parse

# So long is kept what Unison has deleted or overwritten: longer than a holiday.
_KEPT_SECONDS = 14 * 86_400

# From SIGTERM, on which Unison clears up after itself, to SIGKILL.
_END_SECONDS = 5.0

# So often it is run where files change while they are copied, as those do that are being read, or
# where it breaks, as it does once in some hundred runs.
_TRIES = 3
_CHUNK = 65_536
_SAID = 500  # characters of Unison's own words, at most

# Each server has its own of these: Dovecot makes them anew by what it finds.
_NOT_SHARED = (
    "dovecot.index*",
    "dovecot.list.index*",
    "dovecot.mailbox.log*",
    "dovecot-uidlist*",
    "dovecot-uidvalidity*",
    "*.lock",
)
_IGNORED = re.compile("|".join(map(fnmatch.translate, _NOT_SHARED)))
_LEFT_OVER = re.compile(rb"\.unison\..*\.unison\.tmp")

_OPTIONS = (
    *("-ui", "text", "-dumbtty", "-auto", "-terse", "-contactquietly", "-color", "false"),
    *("-times", "-perms", "0", "-fastcheck", "true", "-maxerrors", "5", "-logfile", "/dev/null"),
    # Ours is the only one: sync holds a lock. After a SIGKILL nobody else would remove Unison's.
    "-ignorelocks",
    *("-backup", "Name {.*,*}", "-backuploc", "central"),
    *("-links", "false"),  # one in place of a folder would take all away that is in it
    # What is being delivered; and a name that would break the plan's lines.
    *("-ignore", "Regex (.*/)?tmp/[^/]+", "-ignore", "Regex (.|\n)*\n(.|\n)*"),
    *(word for name in _NOT_SHARED for word in ("-ignore", f"Name {name}")),
)
_SSH = (
    "-o BatchMode=yes -o StrictHostKeyChecking=yes -o ConnectTimeout=10"
    " -o ServerAliveInterval=15 -o ServerAliveCountMax=3"
)
# Its name in the archive is not the machine's: another address must not make another archive.
_SERVER = "umask 077; env UNISONLOCALHOSTNAME=remote unison"


@dataclass(frozen=True)
class Pair:
    """Two folders to be kept in step, and what is known of them.

    `local` is a path, `remote` one too or ssh://[USER@]HOST[:PORT]//PATH. `name` stands for this
    machine in Unison's archive. `share` of the messages, and no more, may be deleted, unless
    `allow` says that it is meant. `files` is what both had after the last run, as `plan` counts it;
    None where that is not known. `timeout` is in seconds.
    """

    local: str
    remote: str
    name: str
    timeout: float
    share: float
    allow: bool = False
    files: Files | None = None


@dataclass(frozen=True)
class Result:
    """What became of a pair. `end` is Unison's exit status; None where it was ended, or never ran.

    `skipped` and `failed` are paths, with the reason. `deleted` is a number of messages; so is
    `too_many`, which would have been deleted, and were not: then `outcome` is "refused", though all
    else was done where `allowable` says that a person may allow it. `files` is to be known by the
    next run.
    """

    outcome: Literal["done", "refused", "failed"]
    reason: str = ""
    end: int | None = None
    transferred: int = 0
    deleted: int = 0
    too_many: int = 0
    allowable: bool = False
    skipped: Mapping[str, str] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    files: Files | None = None


def synchronise(pair: Pair, told_to_end: IO[bytes]) -> Result:
    """Keep a pair in step; it is ended when `told_to_end` does, or its time is up."""
    os.umask(0o077)  # no modes are copied
    if not Path(pair.local).is_dir():
        known = sum((pair.files or {}).values())
        reason = f"{pair.local} is missing; is it mounted?"
        return Result("refused", reason, too_many=known, files=pair.files)
    for own in (_own(), Path.home() / ".ssh"):
        here = Path(pair.local).resolve()
        if own.is_relative_to(here) or here.is_relative_to(own):
            reason = f"{pair.local} holds {own}, or is in it: name the folders of mail instead"
            return Result("refused", reason, files=pair.files)
    deadline = time.monotonic() + pair.timeout
    result = _run(pair, told_to_end, deadline)
    if result.reason == _UNFIT:
        # One machine was set up anew, say, or from an old copy. Without archives nothing is
        # deleted, and what is missing on either side comes back.
        result = _run(pair, told_to_end, deadline, "-ignorearchives")
        if result.outcome == "done":
            result = replace(result, reason=f"{_UNFIT}: begun anew, nothing was deleted")
    for _ in range(_TRIES - 1):
        if not result.failed and not result.reason.startswith(_BROKE):
            break
        again = _run(replace(pair, files=result.files), told_to_end, deadline)
        result = replace(
            again,
            transferred=result.transferred + again.transferred,
            deleted=result.deleted + again.deleted,
        )
    return result


def _run(pair: Pair, told_to_end: IO[bytes], deadline: float, *more: str) -> Result:
    before = _tally(pair.local)
    try:
        talk = _talk(pair, before, told_to_end, deadline, more)
    except OSError as error:
        reason = f"{error.filename or 'unison'}: {error.strerror}"
        return Result("failed", reason, files=pair.files)
    result = talk.result()
    if not talk.agreed and result.end not in _THROUGH:
        return replace(result, files=pair.files)  # nothing was done
    if result.end not in _THROUGH:
        return result  # it may have done anything, but for deletions
    now = _tally(pair.local) if talk.agreed else before
    return replace(result, files=_known(result, pair.files, now))


def _known(result: Result, last: Files | None, now: Files) -> Files | None:
    """What to go by next time: of a folder still to be deleted over there, what was in it."""
    if result.end == 0:
        return now
    if last is None:
        return None if result.allowable else now
    return {name: max(now.get(name, 0), last.get(name, 0)) for name in {*now, *last}}


# --- the conversation -----------------------------------------------------------------------


def _talk(
    pair: Pair,
    before: Files,
    told_to_end: IO[bytes],
    deadline: float,
    more: Iterable[str],
) -> "_Talk":
    """Run Unison and answer what it asks until it ends, or has to."""
    own = _own() / "zonerw"  # where no profile of its owner's tells it otherwise
    own.mkdir(parents=True, exist_ok=True)
    for kept in _own().glob("backup*"):
        _forget(kept)
    environment = {
        **os.environ,
        "UNISON": str(own),
        "UNISONLOCALHOSTNAME": pair.name,
        "LC_ALL": "C.UTF-8",
    }
    command = ["unison", pair.local, pair.remote, *_OPTIONS, *more]
    command += ["-sshargs", _SSH, "-servercmd", _SERVER]
    # Of either side's home: it has to be directly in a folder that is there.
    command += ["-backupdir", f".unison/backup{pair.local.replace('/', '-')}"]
    # Were we killed, it would go on unseen, and beside the next one.
    command = ["setpriv", "--pdeathsig", "TERM", *command]
    pipe = subprocess.PIPE
    # In a session of its own: it asks nobody at a terminal, nor does ssh.
    with subprocess.Popen(
        command,
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        env=environment,
        cwd=Path.home(),
        start_new_session=True,
    ) as unison:
        talk = _Talk(pair, before, unison)
        try:
            talk.listen(told_to_end, deadline)
        finally:
            _end(unison)
    return talk


class _Talk:
    """What Unison has said so far, and what it was answered."""

    def __init__(self, pair: Pair, before: Files, unison: subprocess.Popen[bytes]) -> None:
        self.agreed = False  # to a plan
        self._pair = pair
        self._before = before
        self._unison = unison
        self._deleting = 0  # messages, by the plan
        self._refused: Result | None = None  # if it has to end
        self._withheld: Loss | None = None  # if it may not delete what it would
        self._skipping: set[tuple[str, str]] = set()  # way and path, of what is not asked for yet
        self._said = b""  # since the last answer
        self._shown = b""  # of the plan
        self._complained = b""

    def listen(self, told_to_end: IO[bytes], deadline: float) -> None:
        """Read and answer until Unison ends, or has to."""
        out, err = self._unison.stdout, self._unison.stderr
        with selectors.DefaultSelector() as selector:
            for stream in (out, err, told_to_end):
                if stream:
                    selector.register(stream, selectors.EVENT_READ)
            open_streams = 2
            while open_streams:
                left = deadline - time.monotonic()
                if left <= 0:
                    self._give_up(Result("failed", self._too_late()))
                    return
                for key, _ in selector.select(left):
                    chunk = os.read(key.fd, _CHUNK)
                    if key.fileobj is told_to_end:
                        self._give_up(Result("failed", "told to end"))
                        return
                    if not chunk:
                        selector.unregister(key.fileobj)
                        open_streams -= 1
                    elif key.fileobj is err:
                        self._complained += chunk
                    else:
                        self._said += chunk
                        self._answer()

    def result(self) -> Result:
        """What it came to, after its end."""
        if self._refused:
            return self._refused
        end = self._unison.returncode
        said = self._complained.decode("latin-1")
        summary = _SUMMARY.search(said)
        if end not in _THROUGH or (end == _SOME_FAILED and not summary):
            return Result("failed", _why(said) or "ended", None if end < 0 else end)
        failed = _left("failed", said, "changed meanwhile, or can't be copied")
        conflicts = {_readable(path): why for path, why in _CONFLICT.findall(said)}
        partly = _left("partially transferred", said, "something in it can't be copied")
        skipped = {**conflicts, **partly, **_left("skipped", said, "left as it is")}
        if end == _SOME_SKIPPED and not skipped:
            skipped = {"": _words(said)}
        result = Result(
            "failed" if end == _SOME_FAILED else "done",
            f"{len(failed)} failed, such as {next(iter(failed))}" if failed else "",
            end,
            transferred=int(summary[1]) if summary else 0,
            deleted=self._deleting if summary else 0,
            skipped=skipped,
            failed=failed,
        )
        return self._without(self._withheld, result) if self._withheld else result

    def _without(self, loss: Loss, result: Result) -> Result:
        """The result of a run that was not allowed its deletions."""
        pair, withheld = self._pair, {_readable(row.path) for row in loss.rows}
        what = loss.told(pair.local, pair.remote)
        allowed = f"max_deletions allows {loss.allowed(pair.share)}"
        return replace(
            result,
            outcome="refused",
            reason=f"it would delete {what}; {allowed}: none was deleted, all else was done",
            too_many=loss.vanishing,
            allowable=True,
            skipped={p: why for p, why in result.skipped.items() if p not in withheld},
        )

    def _answer(self) -> None:
        """Answer the question that Unison has just asked, if it has."""
        if self._refused:
            return  # and told to end
        line = self._said[self._said.rfind(b"\n") + 1 :]
        if line == b"Press return to continue.[<spc>] ":
            self._reply(b"\n")  # "no archive files were found": nothing will be deleted
            self._shown = b""
        elif line == b"Proceed with propagating updates? [] ":
            self._decide()
        elif row := _QUESTION.fullmatch(line):
            self._choose(row)
        elif line == b"Do you really want to proceed? [] ":
            self._give_up(self._emptied())
        elif _ANY_QUESTION.search(line) and (self._withheld or not _ROW_BEGINS.match(line)):
            asked = line.decode(errors="replace")
            self._give_up(Result("failed", f"unison asks what is not understood: {asked}"))

    def _too_late(self) -> str:
        late = f"no end within {round(self._pair.timeout, 1):g} s"
        if self._pair.files is None:
            return f"{late}; a first run copies everything: it may need a longer timeout"
        return late

    def _emptied(self) -> Result:
        if any(os.scandir(self._pair.local)):
            where, had = self._pair.remote, self._before
        else:
            where, had = self._pair.local, self._pair.files or {}
        reason = f"{where} is empty or missing: nothing is deleted on the other side"
        return Result("refused", reason, too_many=sum(had.values()))

    def _decide(self) -> None:
        """Agree to the plan, or don't."""
        if self._skipping:
            left = f"{len(self._skipping)} deletions were not taken out of the plan"
            self._give_up(Result("failed", left), b"q\n")
            return
        if not self._withheld:
            try:
                plan = parse((self._shown + self._said).decode("latin-1"))
            except ValueError as error:
                self._give_up(Result("failed", f"unison plans what is not understood: {error}"))
                return
            if self._pair.files is not None and any(row.new and not row.path for row in plan):
                reason = f"{self._pair.remote} is missing; is it mounted?"
                all_of_them = sum(self._before.values())
                self._give_up(Result("refused", reason, too_many=all_of_them), b"q\n")
                return
            here = _names(self._pair.local) if any(row.deleted for row in plan) else {}
            loss = Loss.of(plan, self._before, self._pair.files, here)
            if not self._pair.allow and loss.is_too_much(self._pair.share):
                self._withheld = loss
                self._skipping = {(row.way, row.path) for row in loss.rows}
                self._reply(b"n\n")  # it asks for each line of it, then
                return
            self._deleting = loss.vanishing
        self.agreed = True
        self._reply(b"y\n")

    def _choose(self, row: re.Match[bytes]) -> None:
        """Say whether a line of the plan is done; of a conflict, both sides keep what they have.

        But where nothing else differs than when a file was written, it gets the other side's time.
        """
        way = "---->" if row["way"].endswith(b">") else "<----"
        line = (way, row["path"].decode("latin-1"))
        if row["left"] == row["right"] == b"props   ":
            self._reply(b"<\n")
        elif line in self._skipping or not row["default"]:
            self._reply(b"/\n")
        else:
            self._reply(b"\n")
        self._skipping.discard(line)

    def _reply(self, answer: bytes) -> None:
        if not self._withheld:  # else it goes line by line
            self._shown += self._said
        self._said = b""
        if self._unison.stdin:
            with contextlib.suppress(BrokenPipeError):  # it has ended: its words say why
                self._unison.stdin.write(answer)
                self._unison.stdin.flush()

    def _give_up(self, result: Result, answer: bytes = b"") -> None:
        """Have Unison end, by what comes to this."""
        self._refused = result
        if answer:
            self._reply(answer)
        else:
            self._unison.terminate()


def _end(unison: subprocess.Popen[bytes]) -> None:
    """See Unison ended: by itself, told to, or by force."""
    for sent in (None, signal.SIGTERM, signal.SIGKILL):
        if sent:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(unison.pid, sent)  # and ssh, which may hold what it has inherited
        with contextlib.suppress(subprocess.TimeoutExpired):
            unison.communicate(timeout=_END_SECONDS)
            return


# --- what Unison says -----------------------------------------------------------------------

# Its exit status: all done, some skipped, some failed.
_THROUGH = (0, _SOME_SKIPPED := 1, _SOME_FAILED := 2)
_UNFIT = "the two sides' archives do not fit together"
_ARCHIVES_UNFIT = re.compile(
    "archive file is missing on some|On-disk archives are not identical|exception raised in loading"
)
_SUMMARY = re.compile(
    r"^Synchronization (?:in)?complete at .*"
    r"\((\d+) items? transferred, (?:\d+ partially transferred, )?(\d+) skipped, (\d+) failed\)",
    re.MULTILINE,
)
_CONFLICT = re.compile(r"^\[CONFLICT\] Skipping (.*)\n  (.*)$", re.MULTILINE)
_BROKE = "unison broke"
_TRACE = re.compile(r"^(.*)\n(?:Raised|Re-raised|Called) (?:at|by|from) ", re.MULTILINE)
# Before each path that is named below the summary.
_LEFT = re.compile(r"^  (?=(?:skipped|failed|partially transferred): )", re.MULTILINE)
_ROW_BEGINS = re.compile(rb"[ \w]{8} (?:[-<>?=]{5}|error) ")
_QUESTION = re.compile(
    rb"(?P<left>[ \w]{8}) (?P<way>[-<>?=]{5}) (?P<right>[ \w]{8})   (?P<path>.*)"
    rb"  \[(?P<default>.?)\] "
)
_ANY_QUESTION = re.compile(rb"\[[^\]]*\] $")


def _left(kind: str, said: str, why: str) -> dict[str, str]:
    """What is named below the summary as of this kind, with the reason, if there is one."""
    left = {}
    for entry in _LEFT.split(said)[1:]:
        which, _, what = " ".join(entry.split("\n")).strip().partition(": ")
        path, _, reason = what.partition(" (")
        if which == kind:
            left[_readable(path)] = _readable(reason.removesuffix(")")) or why
    return left


def _why(said: str) -> str:
    """Why it came to nothing."""
    if _ARCHIVES_UNFIT.search(said):
        return _UNFIT
    if broken := _TRACE.search(said):
        return f"{_BROKE}: {_readable(broken[1])}"
    return _words(said)


def _words(said: str) -> str:
    """The last words with which Unison, or ssh, gave up; on one line."""
    lines = [line.strip() for line in said.split("\n")]
    noise = ("[BGN]", "[END]", "Shortcut", "@@@")  # the last round a changed host key's warning
    wanted = [line for line in lines if line and not line.startswith(noise)]
    words = " ".join(wanted).removeprefix("Fatal error: ").removeprefix("Warning: ")
    return _readable(words)[-_SAID:]


def _readable(text: str) -> str:
    """What stands for bytes, as people read it."""
    return text.encode("latin-1").decode(errors="replace")


# --- the folders ----------------------------------------------------------------------------


def _tally(root: str) -> dict[str, int]:
    """Everything below `root` that is kept in step, as `plan` counts it.

    What a Unison that was killed has left behind is removed, but for folders, where it goes on.
    """
    files = dict[str, int]()
    top = os.fsencode(root)
    for folder, folders, names in os.walk(top):
        folders[:] = [name for name in folders if not _LEFT_OVER.fullmatch(name)]
        place = folder[len(top) :].lstrip(b"/").decode("latin-1")
        kept = [name.decode("latin-1") for name in names if _is_kept(folder, name)]
        kind = place.rpartition("/")[2]
        if place:
            files[f"{place}/"] = len(kept) if kind in ("cur", "new") else 0
        if kind not in ("cur", "new", "tmp"):
            files |= {f"{place}/{name}" if place else name: 1 for name in kept}
    return files


def _names(root: str) -> Counter[str]:
    """How often each message is there, by its name before the flags."""
    return Counter(
        name.decode("latin-1").partition(":2,")[0]
        for folder, _, names in os.walk(os.fsencode(root))
        if folder.endswith((b"/cur", b"/new"))
        for name in names
    )


def _is_kept(folder: bytes, name: bytes) -> bool:
    if name.startswith(b".unison.") and _LEFT_OVER.fullmatch(name):
        with contextlib.suppress(OSError):
            os.unlink(folder + b"/" + name)  # noqa: PTH108  bytes
        return False
    return not _IGNORED.match(name.decode("latin-1"))


def _own() -> Path:
    """Where Unison keeps what is its own."""
    return Path.home() / ".unison"


def _forget(kept: Path) -> None:
    """Remove what was put aside long ago.

    A file's times are those of its message, and a folder's those of what goes on in it. So what is
    found here for the first time is made read-only: its ctime says when that was.
    """
    now = time.time()
    for folder, _, names in os.walk(os.fsencode(kept)):
        for name in names:
            path = folder + b"/" + name
            with contextlib.suppress(OSError):
                its = os.lstat(path)
                if its.st_mode & stat.S_IWUSR:
                    os.chmod(path, stat.S_IRUSR)  # noqa: PTH101  bytes
                elif its.st_ctime + _KEPT_SECONDS < now:
                    os.unlink(path)  # noqa: PTH108


def main() -> None:
    """Do what the line on standard input says."""
    pair = Pair(**json.loads(sys.stdin.buffer.readline()))
    json.dump(asdict(synchronise(pair, sys.stdin.buffer)), sys.stdout)


if __name__ == "__main__":
    main()
