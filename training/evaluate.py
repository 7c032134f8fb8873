"""
The figures of a model file, measured through `llm` as a user runs it, beside methods that need no model.

    python evaluate.py --model starter.gguf --data FOLDER --half a --limit 200
    python evaluate.py --model starter --data FOLDER --half b          # in the package: the published table

A name brings the model's settings in models.yaml (beams, lengths, how it summarises); a file has none.
Rows go in as JSON lines and come back as JSON lines. Half a of each development set is for decisions and for
the calibration temperature; half b only for the table. The interval after ± is 95 %, by resampling the rows.
"""

import argparse
import json
import math
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import baselines
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import CHRF
from sacrebleu.metrics.chrf import CHRFScore
from sources import LANGUAGES, half, lines, split

from llmcli.models.resolve import resolve

LABELS = ("positive", "neutral", "negative")
SAMPLES = 1000  # of the rows, for an interval

Answers = list[dict]


@dataclass(frozen=True)
class Figure:
    task: str
    rows: int
    measure: str
    method: str
    value: float
    spread: float = math.nan

    def row(self) -> str:
        spread = "" if math.isnan(self.spread) else f" ± {self.spread:.3f}"
        return f"| {self.task} | {self.rows} | {self.measure} | {self.method} | {self.value:.3f}{spread} |"


class Llm:
    """The program, with one model."""

    def __init__(self, program: str, model: str, options: list[str]) -> None:
        self.program, self.model, self.options = program, model, options
        self.file = resolve(model)

    @property
    def temperature(self) -> float:
        """What its label probabilities are divided by already."""
        return self.file.entry.temperature_scale if self.file.entry else 1.0

    def __call__(self, command: str, texts: Sequence[str], *options: str) -> Answers:
        with tempfile.TemporaryDirectory() as folder:
            rows = Path(folder) / "rows.jsonl"
            rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
            asked = [self.program, command, str(rows), "--json", "-q", "-m", self.model]
            done = subprocess.run(
                [*asked, *options, *self.options], capture_output=True, text=True, check=False
            )
        if done.returncode not in (0, 3):
            raise SystemExit(f"llm {command}: exit {done.returncode}: {done.stderr.strip()}")
        return [json.loads(line) for line in done.stdout.splitlines()]


@dataclass(frozen=True)
class Bench:
    llm: Llm
    data: Path
    half: str
    limit: int | None

    def rows(self, name: str, wanted: str = "") -> list[str]:
        """The lines of a development set that belong to the half, at most `limit` of them."""
        (path,) = (self.data / "dev" / name).glob("*.gz")
        found = [line for line in lines(path) if half(line) == (wanted or self.half)]
        random.Random(0).shuffle(found)
        return found[: self.limit]


def interval(values: Sequence[float], statistic: Callable[[Sequence[float]], float] = fmean) -> float:
    """Half the width of the middle 95 % of the statistic over resampled rows."""
    chance = random.Random(0)
    drawn = sorted(statistic(chance.choices(values, k=len(values))) for _ in range(SAMPLES))
    return (drawn[int(0.975 * SAMPLES)] - drawn[int(0.025 * SAMPLES)]) / 2


def mean(task: str, measure: str, method: str, values: Sequence[float]) -> Figure:
    return Figure(task, len(values), measure, method, fmean(values), interval(values))


def sentiment(bench: Bench) -> Iterator[Figure]:
    """Three classes on GoEmotions' test rows, two on the review sentences, and calibration."""
    bayes, lexicon = baselines.naive_bayes(bench.data), baselines.vader()
    for name, task in (("goemotions_test", "sentiment, GoEmotions"), ("uci_sentences", "sentiment, reviews")):
        gold, texts = labelled(bench.rows(name))
        answers = bench.llm("sentiment", texts)
        given = [row["sentiment_probabilities"] for row in answers]
        classes = sorted(set(gold))  # the reviews have no neutral rows
        said = [max(classes, key=p.__getitem__) for p in given]
        yield mean(task, "accuracy", "model", [float(a == b) for a, b in zip(said, gold)])
        for method, classify in (("VADER", lexicon), ("naive Bayes", bayes)):
            yield mean(task, "accuracy", method, [float(classify(t) == g) for t, g in zip(texts, gold)])
        if name == "goemotions_test":
            yield from calibration(bench, task, [raw(bench, p) for p in given], gold)


def labelled(rows: Sequence[str]) -> tuple[list[str], list[str]]:
    columns = [row.split("\t") for row in rows]
    return [column[0] for column in columns], [column[1].strip() for column in columns]


def calibration(bench: Bench, task: str, given: list[dict], gold: list[str]) -> Iterator[Figure]:
    """Expected calibration error, raw and after the temperature that fits half a best."""
    yield Figure(task, len(gold), "calibration error", "raw", calibration_error(given, gold, 1.0))
    fit_gold, fit_texts = labelled(bench.rows("goemotions_test", "a"))
    fit = [raw(bench, row["sentiment_probabilities"]) for row in bench.llm("sentiment", fit_texts)]
    temperature = min((t / 50 for t in range(25, 200)), key=lambda t: surprise(fit, fit_gold, t))
    error = calibration_error(given, gold, temperature)
    yield Figure(task, len(gold), "calibration error", f"at temperature {temperature:.2f}", error)


def raw(bench: Bench, p: dict[str, float]) -> dict[str, float]:
    """The probabilities as the model alone gives them."""
    return warmed(p, 1 / bench.llm.temperature)


def warmed(p: dict[str, float], temperature: float) -> dict[str, float]:
    """
    The probabilities at another temperature.

    >>> warmed({"a": 0.8, "b": 0.2}, 1.0)["a"]
    0.8
    """
    raised = {label: max(value, 1e-6) ** (1 / temperature) for label, value in p.items()}
    return {label: value / sum(raised.values()) for label, value in raised.items()}


def surprise(given: list[dict], gold: list[str], temperature: float) -> float:
    return fmean(-math.log(warmed(p, temperature)[label]) for p, label in zip(given, gold))


def calibration_error(given: list[dict], gold: list[str], temperature: float, bins: int = 10) -> float:
    """How far confidence is from accuracy, over ten bins of confidence, weighted by their rows."""
    bin_rows: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for p, label in zip(given, gold):
        best, confidence = max(warmed(p, temperature).items(), key=lambda item: item[1])
        bin_rows[min(int(confidence * bins), bins - 1)].append((confidence, best == label))
    gaps = [abs(sum(c for c, _ in rows) - sum(right for _, right in rows)) for rows in bin_rows]
    return sum(gaps) / len(gold)


def translation(bench: Bench) -> Iterator[Figure]:
    """Everyday sentences, both ways: chrF against every known translation."""
    for code, language in ((code, name) for code, name in LANGUAGES.items() if code != "en"):
        rows = [json.loads(row) for row in bench.rows(f"tatoeba_{code}")]
        english, others = [row["en"] for row in rows], [row["refs"] for row in rows]
        first = [refs[0] for refs in others]
        for task, goal, texts, refs in (
            (f"English to {language}", code, english, others),
            (f"{language} to English", "en", first, [[text] for text in english]),
        ):
            guess = baselines.word_by_word(bench.data, code, to_english=goal == "en")
            said = [row["translate"] or "" for row in bench.llm("translate", texts, "--to", goal)]
            for method, output in (
                ("model", said),
                ("copy of the source", texts),
                ("word by word", [guess(text) for text in texts]),
            ):
                yield chrf(task, method, output, refs)


class Chrf(CHRF):
    """Scores in one type: of a sample without a match sacrebleu's is another, and its mean fails."""

    def _compute_score_from_stats(self, stats: list[int]) -> CHRFScore:
        score = super()._compute_score_from_stats(stats)
        score.score = float(score.score)
        return score


def chrf(task: str, method: str, output: list[str], refs: list[list[str]]) -> Figure:
    most = max(map(len, refs))
    columns = [[row[i] if i < len(row) else "" for row in refs] for i in range(most)]
    score = Chrf().corpus_score(output, columns, n_bootstrap=SAMPLES)
    return Figure(task, len(output), "chrF", method, score.score, score._ci)


def extraction(bench: Bench) -> Iterator[Figure]:
    """The text's own sentences against a person's summary."""
    for name, task, k, length in (
        ("scitldr_test", "extract, SciTLDR", 1, "short"),
        ("digitalgov", "extract, Digital.gov", 1, "short"),
    ):
        texts, goals = summarised(bench.rows(name))
        found = bench.llm("summarize", texts, "--extract", "--length", length)
        sentences = [[sentence for _, sentence in split(text)] for text in texts]
        for method, output in (
            ("model", [row["summarize"] or "" for row in found]),
            (f"lead-{k}", [" ".join(baselines.lead(s, k)) for s in sentences]),
            ("LexRank", [" ".join(baselines.lexrank(s, k)) for s in sentences]),
        ):
            yield mean(task, "ROUGE-1", method, rouge("rouge1", output, goals))


def writing(bench: Bench) -> Iterator[Figure]:
    """Titles and one-line summaries in the model's own words."""
    for name, command, options in (
        ("arxiv_titles", "title", ()),
        ("techdocs", "title", ()),
        ("scitldr_test", "summarize", ("--no-extract", "--length", "short")),
    ):
        if command == "title":
            rows = [json.loads(row) for row in bench.rows(name)]
            texts, goals = [row["body"] for row in rows], [[row["title"]] for row in rows]
        else:
            texts, goals = summarised(bench.rows(name))
        answers = bench.llm(command, texts, "--truncate", "tail", *options)
        first = [split(text)[0][1] for text in texts]
        said = [row[command] or "" for row in answers]
        for method, output in (("model", said), ("first sentence", first)):
            yield mean(f"{command}, {name}", "ROUGE-L", method, rouge("rougeL", output, goals))


def summarised(rows: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Texts that a person summed up, with those summaries."""
    texts, goals = [], []
    for line in rows:
        row = json.loads(line)
        own = "" if row.get("summary_is_lead") else row.get("summary")
        summaries = row.get("summaries") or [row.get("deck") or own]
        text = row.get("document") or row["body"]
        if summaries[0] and len(split(text)) > 1:
            texts.append(text)
            goals.append(summaries)
    return texts, goals


def rouge(kind: str, output: list[str], goals: list[list[str]]) -> list[float]:
    """F1 against the nearest of the references."""
    scorer = RougeScorer([kind], use_stemmer=True)
    return [
        max(scorer.score(goal, said)[kind].fmeasure for goal in refs) for said, refs in zip(output, goals)
    ]


def labels(bench: Bench) -> Iterator[Figure]:
    """Labels beyond sentiment: the language of a sentence, question or statement, a user's own words."""
    texts, gold, asks = [], [], []
    for code, language in LANGUAGES.items():
        rows = [json.loads(row) for row in bench.rows("tatoeba_de" if code == "en" else f"tatoeba_{code}")]
        own = [row["en"] if code == "en" else row["refs"][0] for row in rows][:100]
        texts += own
        gold += [language] * len(own)
        asks += [text for text in own if text[-1] in ".?"]
    shown = ",".join(LANGUAGES.values())
    said = [row["label"] for row in bench.llm("label", texts, "--labels", shown)]
    yield mean("label, language of 5", "accuracy", "model", [float(a == b) for a, b in zip(said, gold)])
    forms = ["question" if text[-1] == "?" else "statement" for text in asks]
    bare = [text[:-1] for text in asks]  # the mark would give it away
    said = [row["label"] for row in bench.llm("label", bare, "--labels", "question,statement")]
    yield from balanced("label, question or statement, no mark", said, forms)
    gold, texts = labelled(bench.rows("goemotions_test"))
    words = {"positive": "praise", "negative": "complaint"}
    rows = [(words[label], text) for label, text in zip(gold, texts) if label in words]
    said = [row["label"] for row in bench.llm("label", [t for _, t in rows], "--labels", "complaint,praise")]
    right = [float(a == b) for a, (b, _) in zip(said, rows)]
    yield mean("label, complaint or praise", "accuracy", "model", right)
    held_out = Path(__file__).with_name("spam_held_out.tsv").read_text(encoding="utf-8").splitlines()
    gold, texts = labelled([line for line in held_out if half(line) == bench.half])
    said = [row["label"] for row in bench.llm("label", texts, "--labels", "spam,ham")]
    yield from balanced("label, spam or ham", said, gold)


def balanced(task: str, said: list[str], gold: list[str]) -> Iterator[Figure]:
    """The mean over classes of the share found, where one class is rare."""
    for label in sorted(set(gold)):
        found = [float(a == b) for a, b in zip(said, gold) if b == label]
        yield mean(f"{task}: {label}", "found", "model", found)


def speed(bench: Bench) -> Iterator[Figure]:
    """Label rows a second, without the start: many rows less few."""
    _, texts = labelled(bench.rows("goemotions_test"))
    row = " ".join(texts)[:100]  # about 30 tokens
    rows = [f"{number} {row}" for number in range(2100)]
    took = []
    for count in (100, 2100):
        start = time.perf_counter()
        bench.llm("sentiment", rows[:count])
        took.append(time.perf_counter() - start)
    yield Figure("sentiment rows", 2000, "rows/s", "model", 2000 / (took[1] - took[0]))
    size = bench.llm.file.path.stat().st_size / 1e6
    yield Figure("file", 1, "MB", "model", size)


TASKS = {
    "sentiment": sentiment,
    "translation": translation,
    "extraction": extraction,
    "writing": writing,
    "labels": labels,
    "speed": speed,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a name or a file")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--half", choices=("a", "b"), default="a")
    parser.add_argument("--limit", type=int, help="rows of each set")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--llm", default="llm", help="the program")
    parser.add_argument(
        "--llm-option", action="append", default=[], help="passed on, for example --threads=2"
    )
    options = parser.parse_args()
    llm = Llm(options.llm, options.model, options.llm_option)
    bench = Bench(llm, options.data, options.half, options.limit)
    print("| task | rows | measure | method | value |\n|---|---:|---|---|---|", flush=True)
    for name in options.tasks:
        for figure in TASKS[name](bench):
            print(figure.row(), flush=True)


if __name__ == "__main__":
    main()
