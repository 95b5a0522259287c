"""The stage `milestones`: all that was measured -> verdicts and signed evidence."""

from pathlib import Path

from pydantic import Field

from kiban.artifacts.manifest import Metric
from kiban.artifacts.progress import Progress
from kiban.artifacts.stage import Outcome, Settings, stage
from kiban.artifacts.store import Artifact
from kiban.milestones.settings import Milestone, Partner

PLAN = "gate-plan.dsse.json"


class MilestonesSettings(Settings):
    """`folder` is the programme's, where the signed plan and the keys lie."""

    milestones: tuple[Milestone, ...]
    partners: tuple[Partner, ...]
    folder: str = Field(exclude=True)


def _plan(settings: MilestonesSettings) -> list[Path]:
    path = Path(settings.folder) / PLAN
    return [path] if path.exists() else []


@stage("milestones", inputs=("measured",), version=1, external=_plan)
def milestones(settings: MilestonesSettings, measured: list[Artifact], out: Path, progress: Progress) -> Outcome:
    """Judges every milestone: verdicts.json and evidence/<ID>.dsse.json."""
    from kiban.artifacts.files import write_atomic, write_json
    from kiban.milestones.evidence import bundle
    from kiban.milestones.plan import private_keys, read_plan
    from kiban.milestones.verdict import MET, NOT, PARTLY

    folder = Path(settings.folder)
    plan, _ = read_plan(folder / PLAN)
    verdicts = []
    for milestone in settings.milestones:
        signed, judgement = bundle(milestone, measured, plan, private_keys(folder, milestone.approvers.of))
        evidence = f"evidence/{milestone.id}.dsse.json"
        write_atomic(out / evidence, signed)
        verdicts.append(
            {
                "id": milestone.id,
                "title": milestone.title,
                "due": milestone.due.isoformat(),
                "tranche_jpy": milestone.tranche_jpy,
                "evidence": evidence,
                **judgement,
            }
        )
    write_json(out / "verdicts.json", verdicts)
    counts = {verdict: sum(row["verdict"] == verdict for row in verdicts) for verdict in (MET, PARTLY, NOT)}
    return Outcome(
        {f"milestones.{name.replace(' ', '_')}": Metric(value=n, unit="milestones") for name, n in counts.items()}
    )
