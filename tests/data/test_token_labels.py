from __future__ import annotations

import pytest

from layerwise.data.build import from_frame
from layerwise.data.config import ColumnsConfig, DatasetConfig, LabelsConfig
from layerwise.data.load import load_dataset
from layerwise.errors import UserError

WORDS = {"words": [["Ann", "sleeps"], ["The", "cat", "ran"]], "tags": [["N", "V"], ["_", "N", "V"]]}
TAGGED = DatasetConfig("tagged", columns=ColumnsConfig(words="words", tags="tags"))
TREEBANK = """# sent_id = 1
# text = Don't run, Ann.
1-2\tDon't\t_\t_\t_\t_\t_\t_\t_\t_
1\tDo\tdo\tAUX\tVBP\tMood=Imp|VerbForm=Fin\t3\taux\t_\t_
2\tn't\tnot\tPART\tRB\t_\t3\tadvmod\t_\t_
3\trun\trun\tVERB\tVB\tVerbForm=Inf\t0\troot\t_\tSpaceAfter=No
4\t,\t,\tPUNCT\t,\t_\t5\tpunct\t_\t_
5\tAnn\tAnn\tPROPN\tNNP\tNumber=Sing\t3\tvocative\t_\tSpaceAfter=No
6\t.\t.\tPUNCT\t.\t_\t3\tpunct\t_\t_

1\tHe\the\tPRON\tPRP\tNumber=Sing\t3\tnsubj\t_\t_
2\thas\thave\tAUX\tVBZ\tTense=Pres|VerbForm=Fin\t3\taux\t_\t_
2.1\telided\t_\t_\t_\t_\t_\t_\t_\t_
3\tgone\tgo\tVERB\tVBN\tTense=Past|VerbForm=Part\t0\troot\t_\t_

# text = It was red
1\tIt\tit\tPRON\tPRP\tNumber=Sing\t3\tnsubj\t_\t_
2\twas\tbe\tAUX\tVBD\tTense=Past|VerbForm=Fin\t3\tcop\t_\t_
3\tred\tred\tADJ\tJJ\t_\t0\troot\t_\t_
"""


def pieces(data, row: int) -> list[tuple[str, str]]:
    return [(data.texts[row][start:end], data.label_names[label]) for start, end, label in data.token_labels[row]]


def test_words_and_tags_become_spans_of_their_text():
    data = from_frame(WORDS, TAGGED)
    assert (data.task, data.labels, data.texts) == ("tokens", None, ("Ann sleeps", "The cat ran"))
    assert pieces(data, 0) == [("Ann", "N"), ("sleeps", "V")]
    assert pieces(data, 1) == [("cat", "N"), ("ran", "V")]


def test_numbered_tags_take_their_names_and_minus_100_is_ignored():
    columns = {"words": WORDS["words"], "tags": [[1, 2], [-100, 1, 2]]}
    data = from_frame(columns, DatasetConfig("x", columns=TAGGED.columns, labels=LabelsConfig(names=["O", "N", "V"])))
    assert pieces(data, 1) == [("cat", "N"), ("ran", "V")]
    assert from_frame(columns, TAGGED).label_names == ("1", "2")


def test_spans_of_characters(write):
    rows = [
        {"text": "Ann sleeps", "marks": [[0, 3, "N"], [4, 10, "V"]]},
        {"text": "no", "marks": [{"start": 0, "end": 2, "label": "V"}]},
    ]
    data = load_dataset(
        DatasetConfig(write("spans.jsonl", rows), text="text", columns=ColumnsConfig(token_spans="marks"))
    )
    assert pieces(data, 0) == [("Ann", "N"), ("sleeps", "V")]
    assert pieces(data, 1) == [("no", "V")]


def test_lists_in_a_csv_cell_are_json(write):
    path = write("x.csv", 'words,tags\n"[""Ann"",""ran""]","[""N"",""V""]"\n')
    assert pieces(load_dataset(DatasetConfig(path, columns=TAGGED.columns)), 0) == [("Ann", "N"), ("ran", "V")]


def test_a_treebank_gives_each_word_its_label_at_its_place_in_the_text(write):
    path = write("t.conllu", TREEBANK)
    data = load_dataset(path)
    assert data.texts == ("Don't run, Ann.", "He has gone", "It was red")
    assert pieces(data, 0) == [
        ("Don't", "AUX"),
        ("Don't", "PART"),
        ("run", "VERB"),
        (",", "PUNCT"),
        ("Ann", "PROPN"),
        (".", "PUNCT"),
    ]
    assert pieces(load_dataset(DatasetConfig(path, label="Tense")), 1) == [("has", "Pres"), ("gone", "Past")]


def test_a_sentence_has_the_tense_of_its_finite_verb(write):
    data = load_dataset(DatasetConfig(write("t.conllu", TREEBANK), label="sentence:Tense"))
    assert [(text, data.label_names[label]) for text, label in zip(data.texts, data.labels, strict=True)] == [
        ("He has gone", "Pres"),
        ("It was red", "Past"),
    ]
    assert [text[a:b] for text, (a, b) in zip(data.texts, data.spans, strict=True)] == ["has", "was"]
    assert data.notes == ("t.conllu: 1 of 3 sentences have no Tense on their main verb and are left out.",)


def test_treebank_files_are_the_splits_of_their_folder(write):
    write("ud/x-ud-train.conllu", TREEBANK)
    folder = write("ud/x-ud-dev.conllu", TREEBANK).rsplit("/", 1)[0]
    assert load_dataset(folder).split.tolist() == ["validation"] * 3 + ["train"] * 3


@pytest.mark.parametrize(
    ("columns", "config", "message"),
    [
        ({"words": [["a", "b"]], "tags": [["N"]]}, TAGGED, r"row 1: 2 words \(column 'words'\) but 1 tags"),
        ({"words": ["a b"], "tags": [["N"]]}, TAGGED, "row 1: column 'words' must hold a list, got str 'a b'"),
        ({"words": [["a"]], "tags": [["_"]]}, TAGGED, "no word carries a label"),
        ({"words": [["a", "b"]], "tags": [["N", "N"]]}, TAGGED, "only one class"),
        ({"text": ["ab"], "s": [[[0, 3, "N"]]]}, DatasetConfig("x", columns=ColumnsConfig(token_spans="s")), "within its text of 2 characters"),
        ({"text": ["ab"], "s": [[[1, 1, "N"]]]}, DatasetConfig("x", columns=ColumnsConfig(token_spans="s")), "no .start, end, label."),
        (WORDS, DatasetConfig("x", columns=TAGGED.columns, labels=LabelsConfig(names=["N"])), "tag 'V' is not among labels.names"),
        ({"text": ["red or red"], "label": [1], "s": ["red"]}, DatasetConfig("x", columns=ColumnsConfig(span="s")), "occurs 2 times"),
        ({"text": ["ab"], "label": [1], "s": [[0, 9]]}, DatasetConfig("x", columns=ColumnsConfig(span="s")), r"no \[start, end\] within"),
    ],
)  # fmt: skip
def test_labels_that_do_not_fit_their_text_name_the_row(columns, config, message):
    with pytest.raises(UserError, match=message):
        from_frame(columns, config)


def test_a_broken_treebank_names_the_line_and_an_unknown_feature_the_known_ones(write):
    with pytest.raises(UserError, match=r"line 2: a CoNLL-U word has 10 columns separated by tabs, got 2"):
        load_dataset(write("b.conllu", "# text = a\n1\ta\n"))
    with pytest.raises(UserError, match=r"unknown word label in t.conllu 'Tenses'. Did you mean 'Tense'"):
        load_dataset(DatasetConfig(write("t.conllu", TREEBANK), label="Tenses"))


def test_words_without_tags_are_refused_at_once():
    with pytest.raises(UserError, match=r"belong together"):
        ColumnsConfig(words="words")
    with pytest.raises(UserError, match=r"not both"):
        ColumnsConfig(words="words", tags="tags", token_spans="spans")
