"""`kiban robot collect`, `inspect` and `convert`: LeRobot datasets recorded, looked through, and turned over."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kiban.artifacts.errors import KibanError
from kiban.artifacts.progress import Progress

if TYPE_CHECKING:
    from kiban.robotics.dataset_terms import Terms
    from kiban.robotics.live import Moment

By = Literal["expert", "policy", "keyboard", "gamepad"]
Layout = Literal["v3.0", "v2.1"]
DRAW_EVERY_S = 0.2

PartnerOption = Annotated[str | None, typer.Option(help="Whose data these are; with --licence and --use.")]
LicenceOption = Annotated[str | None, typer.Option(help="Under which licence they are given.")]
UseOption = Annotated[list[str] | None, typer.Option(help="pretrain, finetune, evaluate ..., repeatedly.")]
LayoutOption = Annotated[Layout, typer.Option(help="v3.0, or v2.1 as GR00T wants it.")]


def collect(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the dataset goes; must not exist.")],
    task: Annotated[list[str] | None, typer.Option(help="Repeatedly; the suite's all, or else reach.")] = None,
    suite: Annotated[str | None, typer.Option(help="tabletop or mt50-ja: its robot, and all its tasks.")] = None,
    episodes: Annotated[int, typer.Option(min=1, help="How many of each task.")] = 10,
    by: Annotated[By, typer.Option(help="Who demonstrates.")] = "expert",
    policy: Annotated[Path | None, typer.Option(help="With --by policy: a programme, or a policy's folder.")] = None,
    device: Annotated[Path | None, typer.Option(help="With --by gamepad: its events, if not /dev/input/js0.")] = None,
    embodiment: Annotated[str | None, typer.Option(help="Which robot; tabletop-arm if not given.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Other objects, other places, other sentences.")] = 0,
    video: Annotated[bool, typer.Option(help="Pictures as mp4 (with loss) in place of PNG.")] = False,
    layout: LayoutOption = "v3.0",
    partner: PartnerOption = None,
    licence: LicenceOption = None,
    use: UseOption = None,
) -> None:
    """Records demonstrations as a LeRobot dataset. Interrupted, the same command goes on where it was.

    Example: kiban robot collect pushes --task push --task pick --episodes 50
    """
    from kiban.robotics.dataset_terms import Terms
    from kiban.robotics.demonstrations import Actor
    from kiban.robotics.demonstrations import collect as record_all
    from kiban.robotics.embodiment import load
    from kiban.robotics.suites import suite as suite_of

    if folder.exists():
        raise KibanError(f"{folder}: is there already; name a folder that is not")
    if (by == "policy") != (policy is not None):
        raise KibanError("--policy and --by policy go together: name the policy that is to demonstrate")
    if device is not None and by != "gamepad":
        raise KibanError("--device is for --by gamepad; leave it out")
    terms = _terms(partner, licence, use, folder.name) or Terms()
    if suite is not None and embodiment is not None:
        raise KibanError("--suite and --embodiment: a suite has its robot; give one of them")
    chosen = suite_of(suite) if suite is not None else None
    robot = load(chosen.embodiment if chosen else embodiment or "tabletop-arm")
    tasks = tuple(dict.fromkeys(task or (chosen.groups if chosen else ["reach"])))
    _check_tasks(robot.name, tasks)
    scratch = folder.parent / f".{folder.name}.recording"
    whole, work = scratch / "dataset", scratch / "episodes"
    _clear(whole)
    if by in ("keyboard", "gamepad"):
        events = device or Path("/dev/input/js0")
        _record_by_hand(robot.name, tasks, episodes, seed, by, events, video, layout, terms, whole, work)
    else:
        actor = Actor()
        if policy is not None:
            from kiban.cli.robot import policy_and_language

            trained, language = policy_and_language(policy)
            actor, terms = Actor(str(trained), str(language)), as_far_as_the_policy(terms, trained)
        record_all(robot, tasks, episodes, seed, whole, work, Progress(), actor, video, layout, terms)
    whole.rename(folder)
    _clear(scratch)
    _report(folder)


def inspect(
    folder: Annotated[Path, typer.Argument(metavar="DATASET", help="A LeRobot dataset of v3.0, v2.1 or v2.0.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Says what is in a dataset, under which terms, how its frames were really timed, and what is wrong with it.

    The exit code is 1 if something is wrong.

    Example: kiban robot inspect pushes
    """
    from kiban.robotics.inspection import problems

    found = problems(folder, Progress(quiet=as_json))
    if as_json:
        from kiban.cli.show import print_json

        print_json({**_contents(folder, bool(found)), "problems": found})
    elif not found:
        _report(folder)
    for problem in found if not as_json else []:
        print(problem)
    if found:
        raise typer.Exit(1)


def convert(
    folders: Annotated[list[Path], typer.Argument(metavar="DATASET... DIR", help="One or more datasets; where to.")],
    layout: LayoutOption = "v3.0",
    partner: PartnerOption = None,
    licence: LicenceOption = None,
    use: UseOption = None,
) -> None:
    """Writes datasets in another layout, or several as one, without loss. The terms are for those that carry none.

    Example: kiban robot convert pushes pushes-for-gr00t --layout v2.1
    """
    from kiban.robotics.conversion import convert as convert_all

    *sources, folder = folders
    if not sources:
        raise KibanError("name the datasets to convert, and then the folder to write to")
    if folder.exists():
        raise KibanError(f"{folder}: is there already; name a folder that is not")
    whole = folder.parent / f".{folder.name}.converting"
    _clear(whole)
    convert_all(sources, whole, layout, _terms(partner, licence, use, sources[0].name), Progress())
    whole.rename(folder)
    _report(folder)


def _terms(partner: str | None, licence: str | None, use: list[str] | None, name: str) -> "Terms | None":
    """Raises KibanError unless all three are given, or none; or one of them is not known."""
    from kiban.artifacts.rights import USES, Rights, obligations_of
    from kiban.robotics.dataset_terms import Terms

    if partner is None and licence is None and use is None:
        return None
    if partner is None or licence is None or use is None:
        raise KibanError("--partner, --licence and --use go together: whose the data are, and what for they are given")
    unknown = sorted(set(use) - set(USES))
    if unknown:
        raise KibanError(f"--use {unknown[0]}: is not known; uses are {', '.join(USES)}")
    rights = Rights(uses=frozenset(use), obligations=obligations_of(licence, name))
    return Terms(partners=(partner,), licences=(licence,), rights=rights)


def as_far_as_the_policy(terms: "Terms", policy: Path) -> "Terms":
    """What a policy demonstrates may be used for what the policy may be used for, and no more."""
    from kiban.artifacts.manifest import MANIFEST
    from kiban.artifacts.rights import meet
    from kiban.artifacts.store import read_artifact
    from kiban.robotics.dataset_terms import Terms

    if not (policy / MANIFEST).exists():  # of `kiban robot train`, which says nothing of rights
        return terms
    artifact = read_artifact(policy)
    made = {"from": {artifact.name: artifact.address}}
    rights = meet([terms.rights, artifact.rights])
    return Terms(partners=terms.partners, licences=terms.licences, rights=rights, made=made)


def _check_tasks(embodiment: str, tasks: tuple[str, ...]) -> None:
    from kiban.robotics.demonstrations import suite_with

    suite = suite_with(embodiment)
    for task in tasks:
        if task not in suite.groups:
            raise KibanError(f"task '{task}': there is no such task; {suite.name} has {', '.join(suite.groups)}")


def _clear(folder: Path) -> None:
    import shutil

    if folder.exists():
        shutil.rmtree(folder)


def _record_by_hand(
    embodiment: str,
    tasks: tuple[str, ...],
    episodes: int,
    seed: int,
    by: str,
    device: Path,
    video: bool,
    layout: str,
    terms: "Terms",
    whole: Path,
    work: Path,
) -> None:
    from kiban.robotics import recording
    from kiban.robotics.embodiment import load
    from kiban.robotics.live import live_features, record_live
    from kiban.robotics.teleoperation import Gamepad, Keyboard, Operator

    robot = load(embodiment)
    made = {"by": by, "embodiment": embodiment, "seed": seed}
    recording.begin(work, made | {"videos": video})
    wanted = [(task, number, work / f"{task}-{number:06d}.zip") for number in range(episodes) for task in tasks]
    operator: Operator = Keyboard() if by == "keyboard" else Gamepad(device)
    print(operator.help, file=sys.stderr)
    if not record_live(robot, wanted, seed, video, operator, _Screen()):
        there = sum(path.exists() for _, _, path in wanted)
        raise KibanError(
            f"{there} of {len(wanted)} episodes are recorded and kept; the same command goes on, "
            "with fewer --episodes it ends"
        )
    features = live_features(robot, video)
    said = terms.model_copy(update={"made": made})
    paths = [path for _, _, path in wanted]
    for _ in recording.finish(paths, whole, features, robot.fps, robot.name, layout, said):
        pass


class _Screen:
    """Shows the operator what the first camera sees, in the terminal: two pixels a character."""

    def __init__(self) -> None:
        self._drawn = 0.0
        self._instruction = ""

    def __call__(self, moment: "Moment") -> None:
        if not sys.stderr.isatty():
            if moment.instruction != self._instruction:
                print(f"{moment.task} {moment.number}: {moment.instruction}", file=sys.stderr, flush=True)
            self._instruction = moment.instruction
            return
        if time.monotonic() - self._drawn < DRAW_EVERY_S:
            return
        self._drawn = time.monotonic()
        stopped = sum(moment.interventions.values())
        line = f"{moment.task} {moment.number}: {moment.instruction}  {moment.seconds:.1f} s, interventions {stopped}"
        sys.stderr.write(f"\x1b[H\x1b[J{line}\n{_blocks(moment)}\x1b[0m\n")
        sys.stderr.flush()


def _blocks(moment: "Moment") -> str:
    rows = []
    for upper, lower in zip(moment.picture[::2], moment.picture[1::2], strict=False):
        cells, before = [], ""
        for (r, g, b), (x, y, z) in zip(upper.tolist(), lower.tolist(), strict=True):
            colour = f"\x1b[38;2;{r};{g};{b};48;2;{x};{y};{z}m"
            cells.append((colour if colour != before else "") + "▀")
            before = colour
        rows.append("".join(cells) + "\x1b[0m")
    return "\n".join(rows)


def _contents(folder: Path, spoilt: bool) -> dict[str, object]:
    """What can be said of it; nothing of a dataset that cannot be opened."""
    from dataclasses import asdict

    from kiban.robotics.dataset import Dataset
    from kiban.robotics.inspection import timing

    try:
        dataset = Dataset(folder)
        timed = None if spoilt else timing(dataset)
    except KibanError:
        return {}
    return {
        "layout": dataset.info["codebase_version"],
        "robot": dataset.robot_type,
        "fps": dataset.fps,
        "episodes": len(dataset.episodes),
        "frames": len(dataset),
        "tasks": dataset.tasks,
        "features": {name: [feature.dtype, *feature.shape] for name, feature in dataset.features.items()},
        "terms": dataset.terms.model_dump(mode="json") if dataset.terms else None,
        "timing": asdict(timed) if timed else None,
    }


def _report(folder: Path) -> None:
    from kiban.robotics.dataset import Dataset
    from kiban.robotics.inspection import timing

    dataset = Dataset(folder)
    version, robot = dataset.info["codebase_version"], dataset.robot_type or "a robot that is not named"
    print(
        f"{folder}: {len(dataset.episodes)} episodes, {len(dataset)} frames at {dataset.fps} fps of {robot} ({version})"
    )
    terms = dataset.terms
    if terms is None:
        print("terms: none are carried; whoever uses it has to say them")
    else:
        whose = ", ".join(terms.partners) or "our own"
        print(
            f"terms: {whose}{''.join(f', {each}' for each in terms.licences)}; {', '.join(sorted(terms.rights.uses))}"
        )
    timed = timing(dataset)
    if timed is not None:
        print(f"time: {timed}")
