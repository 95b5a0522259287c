"""Episodes on their way to a dataset: a file each, there whole or not at all. So kill -9 costs one episode at most.

<work>/recording.json           what is recorded; another recording may not go on from here
<work>/reach-000000.zip         an episode: frames.parquet, an mp4 a video, and episode.json
"""

import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import read_json, write_atomic, write_json
from kiban.robotics.conversion import WRITERS
from kiban.robotics.dataset_terms import Terms
from kiban.robotics.features import Episode, Feature

BEGINNING = "recording.json"
OLDEST = (1980, 1, 1, 0, 0, 0)  # what a zip file can say; the same episode gives the same bytes


def begin(work: Path, what: Mapping[str, Any]) -> None:
    """Makes `work`, or goes on with what lies there.

    Raises:
        KibanError: if something else was being recorded there.
    """
    path = work / BEGINNING
    now = json.loads(json.dumps(what))
    if not any(work.glob("*.zip")):
        write_json(path, now)
        return
    before = read_json(path)
    if before != now:
        key = min(key for key in {*before, *now} if before.get(key) != now.get(key))
        raise KibanError(
            f"{work}: a recording with {key} {before.get(key)!r} lies there unfinished, this one has {now.get(key)!r}; "
            "finish that one, or delete the folder"
        )


def save(path: Path, episode: Episode, notes: Mapping[str, Any]) -> None:
    """Commits an episode, with what else is to be known of it."""
    frames = io.BytesIO()
    pq.write_table(episode.table, frames, compression="none")
    levels = {name: counts.tolist() for name, counts in episode.levels.items()}
    members = {
        "frames.parquet": frames.getvalue(),
        "episode.json": json.dumps({"levels": levels, "notes": dict(notes)}, ensure_ascii=False).encode(),
        **{f"{name}.mp4": content for name, content in episode.videos.items()},
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, OLDEST), content)
    write_atomic(path, packed.getvalue())


def load(path: Path) -> tuple[Episode, dict[str, Any]]:
    with zipfile.ZipFile(path) as archive:
        content = json.loads(archive.read("episode.json"))
        table = pq.read_table(io.BytesIO(archive.read("frames.parquet")))
        videos = {name.removesuffix(".mp4"): archive.read(name) for name in archive.namelist() if name.endswith(".mp4")}
    levels = {name: np.array(counts, np.int64) for name, counts in content["levels"].items()}
    return Episode(table, videos, levels), content["notes"]


def finish(
    episodes: Sequence[Path],
    folder: Path,
    features: Mapping[str, Feature],
    fps: int,
    robot_type: str,
    layout: str,
    terms: Terms,
) -> Iterable[tuple[Episode, dict[str, Any]]]:
    """Writes the episodes as a dataset into `folder`; gives each as it is written, with its notes."""
    writer = WRITERS[layout](folder, features, fps, robot_type, terms=terms)
    for path in episodes:
        episode, notes = load(path)
        writer.add(episode)
        yield episode, notes
    writer.finish()
