"""The part on where the time of a training goes: a bar and a table for each rank, and what to mend first."""

from orchestrator.report.markup import Html, el
from orchestrator.report.pieces import bar, figure, folded, table
from orchestrator.report.wording import percent
from training.ledger import Activity, LedgerRecord, RankTimes

WORDS = {
    Activity.WAIT: "waiting for data",
    Activity.TRANSFER: "copying to the device",
    Activity.COMPUTE: "computing",
    Activity.COMMUNICATION: "communicating",
    Activity.CHECKPOINT: "taking checkpoints",
    Activity.VALIDATION: "validating",
}


def ledger_part(ledger: LedgerRecord | None) -> Html | None:
    """The shares of all ranks together, the advice, and each rank's seconds a step; None when nothing was kept."""
    if ledger is None or not sum(times.total for times in ledger.ranks):
        return None
    note = f"start {ledger.attempt}, {ledger.ranks[0].steps:,} steps"
    return figure(
        "Where the time goes",
        note,
        el("p", el("b", "Mend first: "), ledger.advice, class_="lead") if ledger.advice else None,
        el("table", el("tbody", *(_share(ledger, activity) for activity in Activity)), class_="bars"),
        _by_rank(ledger),
    )


def _share(ledger: LedgerRecord, activity: Activity) -> Html:
    total = sum(times.total for times in ledger.ranks)
    share = sum(getattr(times, activity.value) for times in ledger.ranks) / total
    return el(
        "tr",
        el("th", WORDS[activity], scope="row"),
        el("td", bar(share), class_="bar-cell"),
        el("td", percent(share)),
    )


def _by_rank(ledger: LedgerRecord) -> Html:
    headings = ("Seconds a step", *(WORDS[activity] for activity in Activity), "threads: reading", "threads: decoding")
    return folded("By rank", table(headings, [_rank(times) for times in ledger.ranks]))


def _rank(times: RankTimes) -> tuple[str, ...]:
    parts = (*(getattr(times, activity.value) for activity in Activity), times.read, times.decode)
    return (f"rank {times.rank}", *(f"{part / max(1, times.steps):.4f}" for part in parts))
