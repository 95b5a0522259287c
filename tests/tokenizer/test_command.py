"""`kiban tokenizer`, as it is called."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kiban.artifacts.errors import KibanError
from kiban.cli.main import app
from kiban.tokenizer.bpe import Tokenizer
from tests.tokenizer.test_bpe import TEXTS


def call(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("words")
    for number in range(5):
        (work / f"{number}.txt").write_text("".join(TEXTS[number::5]), encoding="utf-8")
    call("tokenizer", "train", *sorted(work.glob("*.txt")), "--vocabulary", 450, "--to", work / "words")
    return work / "words"


def test_train_writes_a_folder_that_loads_and_keeps_what_is_there(folder: Path) -> None:
    assert Tokenizer.load(folder).vocab_size == 450
    with pytest.raises(KibanError, match="not empty"):
        call("tokenizer", "train", folder.parent / "0.txt", "--vocabulary", 400, "--to", folder)


def test_show_tells_tokens_apart_and_their_texts_add_up(folder: Path) -> None:
    text = "点検の結果、葛\U000e0100\n"
    shown = json.loads(call("tokenizer", "show", text, "--tokenizer", folder, "--json"))
    words = Tokenizer.load(folder)
    assert words.decode(shown["ids"]) == text and len(shown["tokens"]) == len(shown["ids"])
    assert "<F3>" in "".join(shown["tokens"]) and shown["tokens"][-1].endswith("⏎")
    assert f"{len(shown['ids'])} tokens, {len(text)} characters" in call(
        "tokenizer", "show", text, "--tokenizer", folder
    )


def test_compare_counts_the_same_for_the_same_tokenizer_in_three_forms(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXTS[0] * 3, encoding="utf-8")
    files = [folder, folder / "tokenizer.json", folder / "ranks.tiktoken"]
    text = ["--text", f"novel={tmp_path / 'a.txt'}", "--rounds", 1]
    figures = json.loads(call("tokenizer", "compare", *files, *text, "--json"))
    assert [figure["vocabulary"] for figure in figures] == [450, 450, 450 - 64]  # ranks have no special tokens
    for figure in figures:
        assert figure["tokens"] == len(Tokenizer.load(folder).encode(TEXTS[0] * 3))
        assert figure["characters_per_token"] == pytest.approx(3 * len(TEXTS[0]) / figure["tokens"])
    printed = call("tokenizer", "compare", *files, *text, "--picture", tmp_path / "p.svg")
    assert "ranks.tiktoken" in printed and "novel" in printed
    assert (tmp_path / "p.svg").read_text().count("<rect") == 1 + len(files)


def test_what_is_no_tokenizer_is_named(folder: Path, tmp_path: Path) -> None:
    for name, content in (("a.json", "{}"), ("a.tiktoken", "???"), ("a.txt", "")):
        (tmp_path / name).write_text(content)
        with pytest.raises(KibanError, match=name):
            call("tokenizer", "compare", tmp_path / name)
    with pytest.raises(KibanError, match="DOMAIN=FILE"):
        call("tokenizer", "compare", folder, "--text", "novel.txt")
