"""From one layout of LeRobot to the other, or several datasets into one: nothing is encoded anew."""

from collections.abc import Sequence
from pathlib import Path

from kiban.artifacts.errors import KibanError
from kiban.artifacts.progress import Progress
from kiban.robotics import lerobot_v3, lerobot_v21
from kiban.robotics.dataset import Dataset
from kiban.robotics.dataset_terms import Terms, joined
from kiban.robotics.layout import V3, V21
from kiban.robotics.writer import Writer

WRITERS: dict[str, type[Writer]] = {V3: lerobot_v3.DatasetWriter, V21: lerobot_v21.DatasetWriter}

# Entries of info.json that a writer says itself. What else a dataset has goes along.
OWN = frozenset(
    "codebase_version robot_type total_episodes total_frames total_tasks total_videos total_chunks chunks_size fps "
    "splits data_files_size_in_mb video_files_size_in_mb data_path video_path features".split()
)


def convert(sources: Sequence[Path], folder: Path, layout: str, given: Terms | None, progress: Progress) -> int:
    """Writes `sources`, one after the other, as one dataset in `layout` into `folder`; gives its episodes.

    `given` are the terms of those sources that carry none.

    Raises:
        KibanError: if the sources differ in fps or features, or only some of them carry terms.
    """
    datasets = [Dataset(source) for source in sources]
    first = datasets[0]
    for other in datasets[1:]:
        if other.fps != first.fps:
            raise KibanError(
                f"{other.folder}: {other.fps} fps, where {first.folder} has {first.fps}; two fps in one dataset"
            )
        if other.features != first.features:
            names = {n for n in {*first.features, *other.features} if first.features.get(n) != other.features.get(n)}
            raise KibanError(
                f"{other.folder}: '{min(names)}' is not as in {first.folder}; datasets to be joined must agree"
            )
    if given is not None and all(dataset.terms is not None for dataset in datasets):
        raise KibanError(
            f"{first.folder}: carries terms of its own; --partner, --licence and --use are for those without"
        )
    terms = joined({dataset.folder: dataset.terms or given for dataset in datasets})
    if terms is not None and len(datasets) == 1 and first.terms is not None:
        terms = first.terms  # the same data in another layout
    carried = {name: value for name, value in first.info.items() if name not in OWN}
    tasks = list(dict.fromkeys(task for dataset in datasets for task in dataset.tasks))
    writer = WRITERS[layout](folder, first.features, first.fps, first.robot_type, tasks, terms, carried)
    total = sum(len(dataset.episodes) for dataset in datasets)
    with progress.task("episodes", total, "episodes") as bar:
        for dataset in datasets:
            for number in range(len(dataset.episodes)):
                writer.add(dataset.encoded(number))
                bar.advance()
    writer.finish()
    return total
