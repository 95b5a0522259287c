"""The runner: makes what is missing and nothing else.

Every address is known before anything runs, since it hashes what determines an artifact and not what is in it. So the
whole plan, its rights included, is checked first, and `explain` can say what would be made and why.
"""

import datetime
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kiban import __version__
from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import read_json, write_json
from kiban.artifacts.hashing import sha256_file
from kiban.artifacts.manifest import Code, Made, Manifest, address_of
from kiban.artifacts.memory import peak_bytes, reset_peak
from kiban.artifacts.progress import Progress
from kiban.artifacts.rights import Rights, meet
from kiban.artifacts.stage import Settings, Stage
from kiban.artifacts.store import Artifact, Store, disk_full


@dataclass(frozen=True)
class Node:
    """A stage at its place in a programme: `inputs` maps the stage's parameters to the names of nodes before it."""

    name: str
    stage: Stage
    settings: Settings
    inputs: Mapping[str, str | tuple[str, ...]]

    def parents(self) -> dict[str, str]:
        """Input names as the manifest has them (`sources.aozora` for one of a list) -> node names."""
        named: dict[str, str] = {}
        for parameter, source in self.inputs.items():
            if isinstance(source, str):
                named[parameter] = source
            else:
                named.update({f"{parameter}.{name.split('.', 1)[-1]}": name for name in source})
        return named


@dataclass(frozen=True)
class Step:
    """A node with its address, its rights, and the artifact if it is made already."""

    node: Node
    address: str
    external: dict[str, str]
    rights: Rights
    artifact: Artifact | None


def plan(nodes: list[Node], store: Store) -> list[Step]:
    """What there is and what is to be made, in order.

    Raises:
        KibanError: if a file is missing, or a node needs a use that a source does not grant (the source is named).
    """
    digests = _Digests(store.root / "digests.json")
    steps: dict[str, Step] = {}
    for node in nodes:
        inputs = {name: steps[parent].address for name, parent in node.parents().items()}
        external = digests.of(node.stage.external(node.settings)) if node.stage.external else {}
        address = address_of(node.stage.code, node.settings.model_dump(mode="json"), inputs, external)
        if node.stage.rights:
            rights = node.stage.rights(node.settings)
        elif node.stage.rights_left:
            above = [steps[parent].node.settings for parent in node.parents().values()]
            rights = node.stage.rights_left(node.settings, above)
        else:
            rights = meet(steps[parent].rights for parent in node.parents().values())
        _check_rights(node, rights, steps)
        steps[node.name] = Step(node, address, external, rights, store.find(node.stage.name, address))
    digests.save()
    return list(steps.values())


def make(programme_name: str, steps: list[Step], store: Store, progress: Progress) -> list[Artifact]:
    """Makes the missing artifacts of `steps`, in order; gives all of them.

    Raises:
        KibanError: from a stage, or if an input is damaged, or the disk is full. What is finished stays.
    """
    made: dict[str, Artifact] = {step.node.name: step.artifact for step in steps if step.artifact}
    checked: set[str] = set()
    for number, step in enumerate(steps, 1):
        if step.node.name in made:
            continue
        node = step.node
        progress.say(f"[{number}/{len(steps)}] {node.name}")
        for parent in node.parents().values():
            if parent not in checked:
                made[parent].check()
                checked.add(parent)
        try:
            made[node.name] = _make_one(programme_name, step, made, store, progress)
        except OSError as error:
            if disk_full(error):
                raise KibanError(
                    f"{node.name}: the disk that holds {store.root} is full; free some space and run again: "
                    "finished stages are kept"
                ) from error
            raise
        checked.add(node.name)
    return [made[step.node.name] for step in steps]


def _make_one(
    programme_name: str, step: Step, made: Mapping[str, Artifact], store: Store, progress: Progress
) -> Artifact:
    node = step.node
    with store.making(step.address) as out:
        standing = store.find(node.stage.name, step.address)
        if standing is not None:  # another runner made it while we waited for the lock
            out.rmdir()
            return standing
        arguments: dict[str, Any] = {}
        for parameter, source in node.inputs.items():
            arguments[parameter] = made[source] if isinstance(source, str) else [made[name] for name in source]
        reset_peak()
        start = time.monotonic()
        outcome = node.stage.function(node.settings, **arguments, out=out, progress=progress)
        manifest = Manifest(
            schema=1,
            kind=node.stage.name,
            address=step.address,
            name=f"{programme_name}/{node.name}",
            inputs={name: made[parent].address for name, parent in node.parents().items()},
            settings=node.settings.model_dump(mode="json"),
            external=step.external,
            code=Code(kiban=__version__, stage=node.stage.code),
            rights=step.rights,
            files={},
            metrics=outcome.metrics,
            consumed=outcome.consumed,
            made=Made(
                at=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                seconds=round(time.monotonic() - start, 3),
                peak_bytes=peak_bytes(),
                hardware=hardware(),
            ),
        )
        return store.seal(out, manifest)


def explain(steps: list[Step], store: Store) -> list[tuple[str, str]]:
    """For each step, its name and why it will be made or not."""
    before = {artifact.name.split("/", 1)[-1]: artifact for artifact in store.all()}
    reasons = []
    to_make: set[str] = set()
    for step in steps:
        if step.artifact:
            reasons.append((step.node.name, f"made {step.artifact.manifest.made.at}"))
            continue
        waits = sorted(parent for parent in step.node.parents().values() if parent in to_make)
        previous = before.get(step.node.name)
        if waits:
            reason = f"will be made: {', '.join(waits)} will be made anew"
        elif previous is None:
            reason = "will be made: never made before"
        else:
            reason = f"will be made: {_difference(step, previous)}"
        to_make.add(step.node.name)
        reasons.append((step.node.name, reason))
    return reasons


def _difference(step: Step, previous: Artifact) -> str:
    manifest = previous.manifest
    if manifest.code.stage != step.node.stage.code:
        return f"the stage changed from {manifest.code.stage} to {step.node.stage.code}"
    now = step.node.settings.model_dump(mode="json")
    changed = [key for key in sorted({*now, *manifest.settings}) if now.get(key) != manifest.settings.get(key)]
    if changed:
        return f"setting '{changed[0]}' was {manifest.settings.get(changed[0])!r} and is {now.get(changed[0])!r}"
    names = sorted({*step.external, *manifest.external})
    files = [name for name in names if step.external.get(name) != manifest.external.get(name)]
    if files:
        return f"the file {files[0]} changed" + (f", with {len(files) - 1} more" if len(files) > 1 else "")
    return "an input is another one than before"


def _check_rights(node: Node, rights: Rights, steps: Mapping[str, Step]) -> None:
    if not rights.residency:
        raise KibanError(f"{node.name}: its sources may not be kept together anywhere (no common residency)")
    use = node.stage.use
    if use is None or rights.allows(use):
        return

    def refusing(name: str) -> list[str]:
        step = steps[name]
        if step.rights.allows(use):
            return []
        parents = list(step.node.parents().values())
        if left := step.node.stage.rights_left:
            return [p for p in parents if not left(step.node.settings, [steps[p].node.settings]).allows(use)]
        above = [found for parent in parents for found in refusing(parent)]
        return above or [name]

    name = next(found for parent in node.parents().values() for found in refusing(parent))
    granted = steps[name].rights
    if granted.constraints:
        why = f"nobody has said that its constraint '{min(granted.constraints)}' is met"
    elif use in granted.uses:
        why = f"its rights expired on {granted.expires}"
    else:
        why = f"it grants {', '.join(sorted(granted.uses)) or 'nothing'}"
    raise KibanError(
        f"{node.name}: needs the use '{use}', which {name} does not grant ({why}); "
        "take it out of kiban.toml, or obtain the right and list it under `uses`"
    )


class _Digests:
    """sha256 of files outside the store, remembered by path, size and time of change, so that a run with nothing to do
    does not read the archives again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, list[Any]] = read_json(path) if path.exists() else {}
        self._new = False

    def of(self, paths: list[Path]) -> dict[str, str]:
        base = Path(os.path.commonpath([path.parent for path in paths])) if paths else Path()
        return {path.relative_to(base).as_posix(): self._digest(path) for path in sorted(paths)}

    def _digest(self, path: Path) -> str:
        try:
            state = path.stat()
        except OSError as error:
            raise KibanError(f"{path}: cannot be read ({error.strerror}); check the path in kiban.toml") from None
        key, fingerprint = str(path), [state.st_size, state.st_mtime_ns]
        known = self._known.get(key)
        if known and known[:2] == fingerprint:
            return str(known[2])
        try:
            digest = sha256_file(path)
        except OSError as error:
            raise KibanError(f"{path}: cannot be read ({error.strerror}); check the path in kiban.toml") from None
        self._known[key] = [*fingerprint, digest]
        self._new = True
        return digest

    def save(self) -> None:
        if self._new:
            write_json(self._path, self._known)


@cache
def hardware() -> str:
    """The processor, the cores this process may use, and the accelerator if PyTorch is loaded and sees one."""
    import sys

    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch = sys.modules.get("torch")
    accelerator = f", {torch.cuda.get_device_name()}" if torch is not None and torch.cuda.is_available() else ""
    return f"{model}, {cores} cores{accelerator}"
