"""Text commands, typed into the door and answered by a script: forms of input and of output."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

LLM = Path(sys.executable).parent / "llm"
SCRIPT = {
    "replies": {
        "love": {"positive": 0.9, "neutral": 0.07, "negative": 0.03},
        "broke": {"positive": 0.05, "neutral": 0.15, "negative": 0.8},
        "riddle": {"text": "42", "thinking": "Let me see."},
        "two lines": "one\ntwo",
        "loop": {"text": "la la la", "finish_reason": "degenerate"},
    },
    "fail": {"poison": "UnusableAnswer: no idea"},
    "crash": ["bomb"],
    "default": "A title",
    "scores": "hash",
    "context": 60,
    "log": "asked.jsonl",
}


@pytest.fixture
def model(script):
    """The words that choose the script above."""
    return ("-m", script(**SCRIPT))


# ------------------------------------------------------------ input


def test_a_file_is_one_text(call, model, work, asked):
    (work / "a.txt").write_text("We love it.\nReally.")

    said = call("sentiment", *model, "a.txt")

    assert (said.code, said.out, said.err) == (0, "positive\n", "")
    assert "We love it.\nReally." in asked()[0]["prompt"]


@pytest.mark.parametrize("words", [[], ["-"]])
def test_standard_input_is_one_text(call, model, words):
    assert call("sentiment", *model, *words, stdin="We love it.\n").out == "positive\n"


def test_text_is_that_text(call, model):
    assert call("sentiment", *model, "--text", "I love it").out == "positive\n"


def test_each_line_is_a_text(call, model):
    said = call("sentiment", *model, "--lines", stdin="I love it\r\n\nIt broke\tat once\n")

    assert said.out == "positive\t0.9000\tI love it\n\t\t\nnegative\t0.8000\tIt broke at once\n"


@pytest.mark.parametrize("name", ["a.txt", "a.csv"])
@pytest.mark.parametrize(
    ("encoding", "said_of_it"),
    [("utf-16", "BOM (without a byte order mark: utf-16-le or utf-16-be)"), ("idna", "cannot be decoded")],
)
def test_rows_that_cannot_be_decoded_at_all_are_one_line(call, model, work, name, encoding, said_of_it):
    (work / name).write_text("text\nWe love it.\n")
    lines = [] if name.endswith(".csv") else ["--lines"]

    said = call("sentiment", *model, *lines, "--encoding", encoding, name)

    assert (said.code, said.out) == (65, "")
    assert said_of_it in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("words", [["--lines"], ["--input-format", "csv"]])
@pytest.mark.parametrize("output", [[], ["-o", "out.csv"]])
def test_a_named_pipe_holds_rows_too(call, model, work, words, output):
    os.mkfifo(work / "pipe")
    writer = threading.Thread(target=(work / "pipe").write_text, args=("text\nWe love it.\n",))
    writer.start()

    said = call("sentiment", *model, *words, "pipe", *output)
    writer.join()

    assert (said.code, said.err) == (0, "")
    assert "We love it." in ((work / "out.csv").read_text() if output else said.out)


@pytest.mark.skipif(sys.platform == "darwin", reason="file names are Unicode there")
@pytest.mark.parametrize("lines", [[], ["--lines"]])
def test_json_is_unicode_whatever_the_file_is_called(call, model, work, lines):
    (work / "caf\udce9.txt").write_text("We love it.")

    said = call("sentiment", *model, "--json", *lines, "caf\udce9.txt")

    assert json.loads(said.out)["source"].endswith("caf\udce9.txt")
    assert "caf\\udce9.txt" in said.out


def test_several_files_give_several_answers(call, model, work):
    (work / "a.txt").write_text("two lines")
    (work / "b.txt").write_text("riddle")
    (work / "c.txt").write_text("We love it.")
    files = ("a.txt", "b.txt")

    assert call("title", *model, *files).out == "==> a.txt <==\none\ntwo\n\n==> b.txt <==\n42\n"
    (work / "d\ne.txt").write_text("riddle")
    assert call("title", *model, "b.txt", "d\ne.txt").out == "==> b.txt <==\n42\n\n==> d e.txt <==\n42\n"
    assert call("title", "-q", *model, *files).out == "one\ntwo\n42\n"
    assert call("sentiment", *model, "c.txt", "c.txt").out == "positive\t0.9000\tc.txt\n" * 2


def test_no_input_on_a_terminal_is_a_usage_error_with_an_example(call, model):
    said = call("sentiment", *model, terminal=True)

    assert said.code == 2
    assert 'nothing to read (for example: llm sentiment --text "I love this phone.")' in said.err


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("I love it", "no file 'I love it' (for text itself: --text \"I love it\")"),
        ("nowhere.txt", "no file 'nowhere.txt'\n"),
        ("reprot.txt", "no file 'reprot.txt' (did you mean report.txt?)"),
        ("costs $5", "--text 'costs $5'"),
        ("x" * 5000, "no file 'xxx"),
        ("a\0b", "no file"),
        ("", "no file '' (a file's name is empty)"),
    ],
)
def test_text_in_the_place_of_a_file_is_told_how_to_be_given(call, work, words, advice):
    (work / "report.txt").touch()
    said = call("sentiment", words)

    assert said.code == 66
    assert advice in said.err
    assert len(said.err) < 250


def test_a_missing_file_is_told_before_any_other_is_asked(call, model, work, asked):
    (work / "a.txt").write_text("We love it.")

    assert call("sentiment", *model, "a.txt", "nowhere.txt").code == 66
    assert asked() == []


def test_an_empty_name_of_a_model_is_no_default(call):
    said = call("title", "-m", "", "--text", "a")
    assert (said.code, "-m is empty" in said.err) == (2, True)


def test_a_dry_run_shows_the_first_prompt_that_would_be_sent_and_as_json_every_one(call, model):
    said = call("translate", *model, "--to", "de", "--dry-run", "--text", "A.\n\nB.", "--json")
    assert [json.loads(line)["messages"][-1]["content"] for line in said.out.splitlines()] == [
        "Translate this text to German:\n\nA.",
        "Translate this text to German:\n\nB.",
    ]
    said = call("summarize", *model, "--extract", "--dry-run", "--text", "A cat sat. A dog ran.")
    assert said.out.count("Is this sentence a main point") == said.out.count("tokens of") == 1
    assert said.out.endswith("\nand 1 more like it, 56 tokens together (--json shows them all)\n")


def test_a_degenerate_answer_says_so_in_its_object(call, script):
    model = script(default={"text": "", "finish_reason": "degenerate"})
    said = call("title", "-m", model, "--json", "--text", "a")
    assert (said.code, json.loads(said.out)["error"][:24]) == (76, "the answer is degenerate")


def test_an_empty_text_never_reaches_the_model(call, model, work, asked):
    said = call("title", *model, stdin=" \n")

    assert (said.code, said.out) == (0, "\n")
    assert "standard input is empty" in said.err
    assert asked() == []


def test_a_binary_file_is_65_and_the_others_are_answered(call, model, work):
    (work / "a.bin").write_bytes(b"\x7fELF\0\0")
    (work / "b.txt").write_text("It broke.")

    assert call("sentiment", *model, "a.bin").code == 65
    said = call("sentiment", *model, "a.bin", "b.txt")
    assert (said.code, said.out) == (3, "negative\t0.8000\tb.txt\n")
    assert "llm: error: 1 of 2 texts failed" in said.err
    assert "a.bin" in said.err


def test_another_encoding_is_named(call, model, work, asked):
    (work / "a.txt").write_bytes("größer".encode("cp1252"))

    assert call("title", *model, "a.txt").code == 65
    assert call("title", *model, "--encoding", "cp1252", "a.txt").code == 0
    assert "größer" in asked()[0]["prompt"]


def test_a_text_that_is_too_long_is_5_with_both_numbers(call, model, work):
    (work / "a.txt").write_text("word " * 100)

    said = call("sentiment", *model, "a.txt")

    assert said.code == 5
    assert "a.txt is 11" in said.err
    assert "and the context is 60 (use --truncate" in said.err


@pytest.mark.parametrize("words", [("--text", "hello"), ("a.txt",), ("a.csv",)])
def test_labels_that_leave_the_text_no_room_are_what_is_too_long(call, model, work, words):
    (work / "a.txt").write_text("hello")
    (work / "a.csv").write_text("text\nhello\n")
    labels = ",".join(map(str, range(80)))

    said = call("label", *model, "--labels", labels, *words)

    assert said.code == (3 if words == ("a.csv",) else 5)
    assert "the prompt of label with 80 labels takes " in said.err
    assert "without any text, and the context is 60" in said.err
    assert "the text is" not in said.err


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["--limit", "3"], "--limit"),
        (["--retry-errors"], "--retry-errors"),
        (["--field", "text"], "--field"),
        (["--error-as", "why"], "--error-as"),
        (["--on", "ray"], "--on"),
        (["--input-format", "csv"], "--input-format"),
    ],
)
def test_an_option_of_rows_is_refused_where_there_are_none(call, model, words, option):
    said = call("sentiment", *model, "--text", "hello", *words)

    assert (said.code, said.out) == (2, "")
    assert f"{option} is for " in said.err


def test_a_cut_text_is_told(call, model, work, asked):
    said = call("sentiment", *model, "--truncate", "tail", "--text", "I love it " + "word " * 100)

    assert (said.code, said.out) == (0, "positive\n")
    assert "tokens are left out (--truncate)" in said.err
    assert asked()[-1]["prompt"].count("word") < 60


# ------------------------------------------------------------ output


def test_json_says_everything_about_an_answer(call, model):
    made = json.loads(call("sentiment", *model, "--json", "--text", "I love it").out)

    assert made["sentiment"] == "positive"
    assert made["sentiment_p"] == 0.9
    assert made["sentiment_probabilities"] == {"positive": 0.9, "neutral": 0.07, "negative": 0.03}
    assert (made["source"], made["error"], made["finish_reason"]) == ("--text", None, "stop")
    assert made["tokens"]["prompt"] > 3
    assert (made["model"], made["template"], made["chunks"]) == ("script.json", "sentiment", 1)


def test_the_results_name_can_be_chosen(call, model):
    made = json.loads(call("sentiment", *model, "--json", "--as", "mood", "--text", "I love it").out)

    assert (made["mood"], made["mood_p"]) == ("positive", 0.9)


def test_csv_of_lines_has_the_text_and_the_label(call, model):
    said = call("sentiment", *model, "--lines", "--format", "csv", stdin='I "love", it\npoison\n')

    assert said.out == (
        'text,sentiment,sentiment_p,error\n"I ""love"", it",positive,0.9000,\npoison,,,no idea\n'
    )
    assert said.code == 3


def test_a_column_for_each_label_on_request(call, model):
    said = call("sentiment", *model, "--format", "tsv", "--probabilities", "--text", "I love it")

    assert said.out.splitlines() == [
        "source\tsentiment\tsentiment_p\tsentiment_positive\tsentiment_neutral\tsentiment_negative\terror",
        "--text\tpositive\t0.9000\t0.9000\t0.0700\t0.0300\t",
    ]


def test_a_generated_line_stays_one_line(call, model):
    assert call("title", *model, "--lines", stdin="two lines\n").out == "one two\n"


def test_the_answer_goes_to_a_file_whose_ending_is_its_format(call, model, work):
    said = call("sentiment", *model, "-o", "out.jsonl", "--text", "I love it")

    assert said.out == ""
    assert json.loads((work / "out.jsonl").read_text())["sentiment"] == "positive"
    assert [path.name for path in work.iterdir()] == ["out.jsonl"]


def test_a_failed_run_leaves_the_old_file(call, model, work):
    (work / "out.txt").write_text("old")

    assert call("ask", "--question", "?", *model, "-o", "out.txt", "--text", "bomb").code == 70

    assert (work / "out.txt").read_text() == "old"


def test_an_output_that_is_a_link_stays_one_and_keeps_its_mode(call, model, work):
    (work / "kept.txt").write_text("old")
    (work / "kept.txt").chmod(0o600)
    (work / "out.txt").symlink_to("kept.txt")

    assert call("title", *model, "-o", "out.txt", "--text", "a").code == 0
    assert (work / "out.txt").is_symlink()
    assert (work / "kept.txt").read_text() == "A title\n"
    assert (work / "kept.txt").stat().st_mode & 0o777 == 0o600


def test_an_output_in_no_folder_is_73(call, model):
    assert call("title", *model, "-o", "no/such/out.txt", "--text", "a").code == 73


@pytest.mark.parametrize(
    ("output", "advice"),
    [
        ("a.xlsx", "no .xlsx is written (name it .txt, .csv"),
        ("a.pdf", "no .pdf is written"),
        ("", "-o is empty"),
    ],
)
def test_an_output_that_would_not_be_what_its_name_says_is_refused(call, model, work, output, advice):
    said = call("title", *model, "--text", "a", "-o", output)

    assert (said.code, said.out) == (2, "")
    assert advice in said.err
    assert list(work.iterdir()) == []


@pytest.mark.parametrize("output", ["a.txt", "./a.txt", "link.txt"])
def test_the_input_is_never_overwritten(call, model, work, output):
    (work / "a.txt").write_text("riddle")
    (work / "link.txt").symlink_to("a.txt")

    said = call("title", *model, "a.txt", "-o", output)

    assert (said.code, said.err) == (2, f"llm: error: {output} is the input itself (choose another -o)\n")
    assert (work / "a.txt").read_text() == "riddle"


@pytest.mark.parametrize(
    "words",
    [
        ["--json", "--as", "model", "--text", "a"],
        ["--json", "--as", "error", "--lines"],
        ["-o", "out.jsonl", "--as", "source", "--text", "a"],
        ["--format", "csv", "--as", "source", "--text", "a"],
    ],
)
def test_the_result_takes_the_name_of_nothing_else(call, model, words):
    said = call("title", *model, *words, stdin="a\n")

    assert (said.code, said.out) == (2, "")
    assert "the result cannot be called" in said.err


def test_formats_that_contradict_each_other_are_refused(call, model):
    assert call("title", *model, "--json", "--format", "csv", "--text", "a").code == 2
    assert call("title", *model, "-o", "out.parquet", "--text", "a").code == 2


def test_on_a_terminal_labels_have_bars_and_answers_stream(call, model):
    said = call("sentiment", *model, "--text", "I love it", terminal=True)
    label, *bars = said.out.splitlines()

    assert label == "positive"
    assert [bar.split()[:2] for bar in bars] == [["positive", "90%"], ["neutral", "7%"], ["negative", "3%"]]
    assert call("title", *model, "--text", "a", terminal=True).out == "A title\n"


def test_bars_stand_in_one_column_whatever_the_labels_are_written_in(call, script):
    model = script(replies={"": {"好评": 0.5, "no": 0.5}})

    said = call("label", "-m", model, "--labels", "好评,no", "--text", "x", terminal=True)

    assert "  好评   50%  " in said.out
    assert "  no     50%  " in said.out


def test_a_stream_equals_the_whole(call, model):
    whole = call("title", *model, "--text", "two lines").out

    assert call("title", *model, "--stream", "--text", "two lines").out == whole == "one\ntwo\n"


def test_escape_sequences_reach_a_pipe_and_not_a_terminal(call, script):
    model = ("-m", script(default="\x1b[2Jred"))

    assert call("title", *model, "--text", "a").out == "\x1b[2Jred\n"
    assert "\x1b" not in call("title", *model, "--text", "a", terminal=True).out


def test_a_cut_answer_is_noted(call, model):
    said = call("title", *model, "--max-tokens", "1", "--text", "a")

    assert (said.code, said.out) == (0, "A\n")
    assert said.err == "llm: note: the answer is cut at the limit of tokens (see --max-tokens)\n"


def test_a_degenerate_answer_is_printed_and_is_76(call, model):
    said = call("title", *model, "--text", "loop")

    assert (said.code, said.out) == (76, "la la la\n")


def test_thinking_is_shown_on_request_and_beside_the_result(call, model):
    assert call("title", *model, "--text", "riddle").err == ""
    said = call("title", *model, "--show-thinking", "--text", "riddle")
    assert (said.out, said.err) == ("42\n", "  Let me see.\n")


def test_verbose_counts_tokens_and_time(call, model):
    said = call("title", "-v", *model, "--text", "a")

    assert said.out == "A title\n"
    assert "llm: note: 1 text, 9 tokens read, 2 written, 0.0 s\n" in said.err


def test_verbose_says_what_runs_where(llm):
    said = llm("sentiment", "-v", "--threads", "1", "--parallel", "3", "--text", "I love it.")

    assert said.stdout == "positive\n"
    model = r"llm: note: starter: \S+ .*Q8_0( \(layers as f16\))?, .+, 1 thread"
    assert re.match(model + r", a context of 1,024 tokens, up to 3 texts at once\n", said.stderr)


def test_flash_attention_is_as_the_settings_say(llm):
    words = ("sentiment", "--kv-type", "q8_0", "--text", "I love it.")
    assert llm(*words, env={"LLMCLI_FLASH_ATTENTION": "yes"}).stdout == "positive\n"

    said = llm(*words, env={"LLMCLI_FLASH_ATTENTION": "no"})
    assert (said.code, said.stdout) == (2, "")
    assert "a KV cache of q8_0 needs flash attention" in said.stderr


def test_a_templates_grammar_holds_its_answers_to_their_form(llm, work):
    (work / "prompts").mkdir(exist_ok=True)
    (work / "prompts" / "weight.yaml").write_text(
        'help: A weight.\nprompt: "How heavy is it? {{ text }}"\ngrammar: root ::= [0-9] " " ("kg" | "lb")\n'
    )

    said = llm("weight", "--text", "The parcel weighs 12 kilos.", "-m", "starter")

    assert said.code == 0, said.stderr
    assert re.fullmatch(r"[0-9] (kg|lb)\n", said.stdout)


UNFIT = "llm: note: starter is not made for {}: expect guesses; `llm models list` shows larger models\n"


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["label", "--labels", "question,statement"], None),
        (["moods"], None),
        (["urgency"], "the labels today, whenever"),
        (["urgency", "-q"], None),
        (["rhyme"], "`llm rhyme`"),
        (["title"], None),
        (["rewrite"], "`llm rewrite`"),
        (["translate", "--to", "de"], None),
        (["translate", "--to", "it"], "`llm translate --to Italian`"),
    ],
)
def test_the_built_in_model_says_what_it_is_not_made_for(call, work, words, what):
    prompts = work / "prompts"
    prompts.mkdir(parents=True)
    (prompts / "moods.yaml").write_text("help: Moods.\nprompt: '{{ text }}'\nlabels: [good, bad]\n")
    (prompts / "urgency.yaml").write_text("help: When?\nprompt: '{{ text }}'\nlabels: [today, whenever]\n")
    (prompts / "rhyme.yaml").write_text("help: Rhyme.\nprompt: '{{ text }}'\n")

    said = call(*words, "-m", "starter", "--dry-run", "--text", "x")

    assert (said.code, said.err) == (0, UNFIT.format(what) if what else "")


@pytest.mark.parametrize(
    ("labels", "strange"),
    [
        ("question,politics,sports", "the labels politics, sports"),
        ("question,politics", "the label politics"),
        ("a,b,c,d,e,f", "the labels a, b, c, d, e, …"),
    ],
)
def test_the_built_in_model_does_not_guess_among_labels(call, work, labels, strange):
    rows = work / "rows.csv"
    rows.write_text("text\nThe match was lost.\n")
    for given in (["--text", "x"], [str(rows), "-o", str(work / "out.csv")]):
        said = call("label", "-m", "starter", "--labels", labels, *given)

        assert (said.code, said.out) == (2, "")
        assert said.err == (
            f"llm: error: starter is not made for {strange} and would guess (use -m with a larger one, "
            "see `llm models list`; its own labels: `llm models show starter`)\n"
        )
    assert not (work / "out.csv").exists()
    shown = call("models", "show", "starter").out
    assert (
        "\nmade for        translate (English, German, French, Spanish, Chinese), summarize, title\n" in shown
    )
    assert "\nits labels      positive, neutral, negative, " in shown


def test_a_dry_run_shows_the_prompt_and_asks_nothing(call, model, work, asked):
    said = call("title", *model, "--dry-run", "--text", "a")

    assert said.out == "[user]\na\n\nWrite a short title for the text above.\n\n9 tokens of 60\n"
    assert asked() == []
    made = json.loads(call("title", *model, "--dry-run", "--json", "--text", "a").out)
    assert (made["tokens"], made["context"], made["messages"][0]["role"]) == (9, 60, "user")


def test_extracted_sentences_are_the_texts_own(call, script):
    model = ("-m", script(scores="hash"))
    text = "Nobody loves rain.\nThe shop closes at five. We love cake."
    made = json.loads(call("summarize", *model, "--extract", "--json", "--text", text).out)

    assert made["spans"]
    assert all(text[span["start"] : span["end"]] == span["text"] for span in made["spans"])


# ------------------------------------------------------------ parameters and models


def test_a_templates_parameters_are_options(call, model, work, asked):
    call("translate", *model, "--to", "de", "--from", "en", "--text", "Hello there")

    assert "German" in asked()[0]["prompt"]
    assert "English" in asked()[0]["prompt"]


@pytest.mark.parametrize("words", [["spam, ham,unsure"], ["spam,ham", "--labels", "unsure"]])
def test_a_list_is_given_at_once_or_bit_by_bit(call, model, asked, words):
    call("label", *model, "--labels", *words, "--text", "x")

    assert asked()[0]["labels"] == ["spam", "ham", "unsure"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["translate"], "translate needs --to"),
        (["ask", "--question", " "], "ask needs --question"),
        (
            ["summarize", "--length", "sort"],
            "--length is one of short, medium, long, not 'sort' (did you mean 'short'?)",
        ),
        (["label", "--labels", "spam"], "label needs two labels or more"),
        (["label", "--labels", "spam,spam"], "the label 'spam' is given twice"),
        (["keypoints", "--points", "many"], "--points is a whole number, not 'many'"),
        (["keypoints", "--points", "0"], "--points is a whole number from 1, not '0'"),
        (["extract", "--fields", "name,date,name"], "the field 'name' is given twice"),
        (["title", "--field", ""], "--field is empty"),
        (["title", "-m", "startr"], "did you mean starter?"),
        (["title", "--gpu-layers", "some"], "--gpu-layers some: not a number"),
        (["title", "--lora", ""], "--lora '' is no adapter (--lora FILE, or FILE:SCALE)"),
        (["title", "--lora", "a.gguf:nan"], "--lora 'a.gguf:nan' is no adapter"),
        (["title", "--as", ""], "--as is empty"),
        (["title", "--error-as", ""], "--error-as is empty"),
        (
            ["title", "--probabilities", "--format", "csv"],
            "--probabilities is for labels, and title has none",
        ),
        (["title", "--copies", "2"], "--copies is of a cluster (with --on ray)"),
    ],
)
def test_a_wrong_parameter_is_a_usage_error(call, words, line):
    said = call(*words, "--text", "x")

    assert (said.code, said.out) == (2, "")
    assert line in said.err


def test_the_model_comes_from_the_option_then_the_variable_then_the_settings(call, work, home, monkeypatch):
    for name in ("option", "variable", "settings"):
        (work / f"{name}.yaml").write_text(f"default: {name}")
    (home / "config").mkdir(parents=True)
    (home / "config" / "config.yaml").write_text(f"model: scripted:{work}/settings.yaml\n")

    assert call("title", "--text", "a").out == "settings\n"
    monkeypatch.setenv("LLMCLI_MODEL", f"scripted:{work}/variable.yaml")
    assert call("title", "--text", "a").out == "variable\n"
    assert call("title", "-m", f"scripted:{work}/option.yaml", "--text", "a").out == "option\n"


def test_a_projects_template_that_hides_another_is_told(call, model, work, asked):
    (work / "prompts").mkdir()
    (work / "prompts" / "title.yaml").write_text("help: Mine.\nprompt: 'Mine: {{ text }}'\n")

    said = call("title", *model, "--text", "a")

    assert said.err.count("\n") == 1
    assert "prompts/title.yaml is used" in said.err
    assert asked()[0]["prompt"] == "Mine: a"


@pytest.mark.parametrize(
    ("words", "stdin"),
    [(["a.txt"], ""), (["--text", "Rain in May"], ""), ([], "Rain in May"), (["--lines"], "Rain in May\n")],
)
def test_a_new_template_takes_every_form_of_input(call, model, work, asked, words, stdin):
    (work / "a.txt").write_text("Rain in May")
    (work / "prompts").mkdir()
    (work / "prompts" / "haiku.yaml").write_text("help: Haiku.\nprompt: 'Haiku: {{ text }}'\n")

    said = call("haiku", *model, *words, stdin=stdin)

    assert (said.code, said.out, said.err) == (0, "A title\n", "")
    assert asked()[0]["prompt"] == "Haiku: Rain in May"


# ------------------------------------------------------------ pipes


def test_head_stops_ten_thousand_lines_at_once_and_quietly(work, model):
    lines = subprocess.Popen(["yes", "I love it"], stdout=subprocess.PIPE)
    child = subprocess.Popen(
        [LLM, "sentiment", *model, "--lines"], cwd=work, stdin=lines.stdout,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    first = child.stdout.readline()
    child.stdout.close()
    errors = child.stderr.read()
    code = child.wait(timeout=10)
    lines.kill()
    lines.wait()

    assert (first, errors, code) == (b"positive\t0.9000\tI love it\n", b"", 141)


def test_a_line_is_answered_before_the_next_one_is_written(work, model):
    child = subprocess.Popen(
        [LLM, "sentiment", *model, "--lines"], cwd=work, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    watchdog = threading.Timer(20, child.send_signal, [signal.SIGKILL])
    watchdog.start()
    answers = []
    for _ in range(2):
        child.stdin.write(b"I love it\n")
        child.stdin.flush()
        answers.append(child.stdout.readline())
    child.stdin.close()
    assert child.wait(timeout=10) == 0
    watchdog.cancel()

    assert answers == [b"positive\t0.9000\tI love it\n"] * 2


def test_a_crashed_engine_is_70(call, model):
    said = call("title", *model, "--text", "bomb")

    assert said.code == 70
    assert said.err.startswith("llm: error: ")
