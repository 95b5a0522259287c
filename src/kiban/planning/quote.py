"""What a run takes on so many GPUs, and on how many it keeps to its bounds."""

from dataclasses import dataclass

from kiban.artifacts.errors import KibanError
from kiban.planning.hardware import GPU
from kiban.planning.running import Prices, Running, run_of
from kiban.planning.search import Candidate, Found, default_batch, layouts, precisions_of, search
from kiban.planning.shape import Shape

MOST_GPUS = 2**17


@dataclass(frozen=True)
class Asked:
    """A run to plan, the number of GPUs left open."""

    name: str
    shape: Shape
    card: GPU
    tokens: int
    length: int  # of a sequence
    price: float  # yen a GPU and hour
    costs: Prices
    batch: int | None = None  # sequences; None: by the model's width
    precision: str | None = None  # None: what the GPU trains in
    sites: int = 1
    site_link: float = 50e9  # bytes/s
    storage: float = 100e9  # bytes/s

    def sequences(self, gpus: int) -> int:
        return self.batch or default_batch(self.shape, gpus, self.length)


@dataclass(frozen=True)
class Quote:
    gpus: int
    candidate: Candidate
    tokens_per_s_per_gpu: float
    mfu: float  # of bf16's peak
    running: Running


@dataclass(frozen=True)
class Bounds:
    """At most so many; None where anything goes."""

    jpy: float | None = None
    days: float | None = None
    megawatts: float | None = None

    def over(self, quote: Quote) -> list[str]:
        """The names of those that the quote exceeds."""
        return [name for name in vars(self) if getattr(self, name) is not None
                and getattr(quote.running, name) > getattr(self, name)]  # fmt: skip

    def __bool__(self) -> bool:
        return any(value is not None for value in vars(self).values())


def find(asked: Asked, gpus: int) -> Found:
    """Every layout on so many GPUs that fits, fastest first."""
    x = asked
    precisions = [x.precision] if x.precision else precisions_of(x.card)
    every = layouts(x.shape, x.card, gpus, x.sequences(gpus), x.length, precisions, x.sites)
    return search(x.shape, x.card, every, x.length, x.sites, x.site_link)


def quote(asked: Asked, gpus: int, candidate: Candidate) -> Quote:
    x = asked
    speed = x.sequences(gpus) * x.length / candidate.seconds
    running = run_of(x.shape, x.card, gpus, x.tokens, speed, x.price, x.costs, x.storage)
    mfu = x.shape.flops_per_token(x.length) * speed / gpus / (x.card.bf16 * 1e12)
    return Quote(gpus, candidate, speed / gpus, mfu, running)


def best(asked: Asked, gpus: int) -> Quote | None:
    """The fastest; None if nothing fits."""
    found = find(asked, gpus).candidates
    return quote(asked, gpus, found[0]) if found else None


def by_count(asked: Asked, most: int = MOST_GPUS) -> list[Quote]:
    """The fastest on each number of GPUs that is a power of two and on which the model fits, from one on until the
    batch gives no more of them work."""
    quotes: list[Quote] = []
    gpus = 1
    while gpus <= most:
        if gpus % asked.sites == 0:
            one = best(asked, gpus)
            if one is not None:
                quotes.append(one)
            elif quotes:
                break
        gpus *= 2
    return quotes


def cheapest(quotes: list[Quote], bounds: Bounds) -> Quote | None:
    """Of those that keep to all bounds."""
    kept = [one for one in quotes if not bounds.over(one)]
    return min(kept, key=lambda one: one.running.jpy) if kept else None


def pareto(quotes: list[Quote]) -> list[Quote]:
    """Those of which no other is both faster and cheaper, fastest first."""
    kept: list[Quote] = []
    for one in sorted(quotes, key=lambda one: (one.running.days, one.running.jpy)):
        if not kept or one.running.jpy < kept[-1].running.jpy:
            kept.append(one)
    return kept


UNITS = {"jpy": ("--budget-jpy", "yen"), "days": ("--deadline", "days"), "megawatts": ("--power-mw", "MW")}


def why_none(asked: Asked, quotes: list[Quote], bounds: Bounds) -> KibanError:
    """That no number of GPUs keeps to all bounds, and how far each alone allows."""
    if not quotes:
        return KibanError(f"{asked.name}: fits on no number of {asked.card.name} up to {MOST_GPUS}; give another --gpu")
    said = []
    for name, (option, unit) in UNITS.items():
        bound = getattr(bounds, name)
        if bound is None:
            continue
        kept = [one.gpus for one in quotes if getattr(one.running, name) <= bound]
        least = min(quotes, key=lambda one: getattr(one.running, name))
        said.append(
            f"{option} {bound:g} holds on {_range(kept)} GPUs" if kept
            else f"{option} {bound:g} holds on none (least: {getattr(least.running, name):.4g} {unit} on {least.gpus})"
        )  # fmt: skip
    return KibanError(f"{asked.name}: no number of {asked.card.name} meets all: {'; '.join(said)}")


def _range(counts: list[int]) -> str:
    return str(counts[0]) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
