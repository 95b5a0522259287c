"""A partner's dataset as demonstrations: looked through, held against the robot, copied with its terms in it."""

import shutil
from pathlib import Path

from kiban.artifacts.errors import KibanError
from kiban.artifacts.progress import Progress
from kiban.robotics import dataset_terms
from kiban.robotics.dataset import Dataset
from kiban.robotics.dataset_terms import Terms
from kiban.robotics.embodiment import Embodiment
from kiban.robotics.features import ACTION, IMAGES, STATE
from kiban.robotics.inspection import check
from kiban.robotics.stage import DatasetSettings


def bring(settings: DatasetSettings, embodiment: Embodiment, folder: Path, progress: Progress) -> Dataset:
    """Copies the dataset into `folder`.

    Raises:
        KibanError: if something is wrong with it, or it is not of that robot.
    """
    source = Path(settings.location)
    check(source, progress)
    dataset = Dataset(source)
    check_robot(dataset, embodiment)
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted run left
    shutil.copytree(source, folder)
    if dataset.terms is None:
        made = {"from": {source.name: dataset_terms.digest(source)}}
        given = Terms(partners=(settings.partner,), licences=(settings.licence,), rights=settings.rights(), made=made)
        given.write(folder)
    return Dataset(folder)


def check_robot(dataset: Dataset, embodiment: Embodiment) -> None:
    """Raises KibanError unless the dataset has the robot's cameras, state and actions at its control period."""
    where = dataset.folder
    for camera in embodiment.cameras:
        feature = dataset.features.get(IMAGES + camera.name)
        if feature is None:
            there = [name.removeprefix(IMAGES) for name in dataset.features if name.startswith(IMAGES)]
            raise KibanError(
                f"{where}: no camera '{camera.name}', which {embodiment.name} has; it has {', '.join(there)}"
            )
        if feature.picture_shape[:2] != (camera.height, camera.width):
            height, width = feature.picture_shape[:2]
            raise KibanError(
                f"{where}: camera '{camera.name}' is {width}x{height}, "
                f"that of {embodiment.name} {camera.width}x{camera.height}"
            )
    for name, wanted in ((STATE, embodiment.state_names), (ACTION, embodiment.action.names)):
        feature = dataset.features.get(name)
        if feature is None or feature.shape != (len(wanted),) or (feature.names or wanted) != wanted:
            found = "missing" if feature is None else f"({', '.join(feature.names or map(str, feature.shape))})"
            raise KibanError(f"{where}: '{name}' is {found}; {embodiment.name} has ({', '.join(wanted)})")
    if dataset.fps != embodiment.fps:
        raise KibanError(f"{where}: {dataset.fps} fps; {embodiment.name} is controlled at {embodiment.fps}")
