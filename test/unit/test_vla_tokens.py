"""Words in, tokens out: which sentences are understood, and what is said about those that are not."""

from __future__ import annotations

import numpy as np
import pytest

from wbvla_core.errors import ErrorCode, InstructionError
from wbvla_sim.instructions import TASKS, paraphrases
from wbvla_vla.tokens import InstructionTokenizer, act_token, build_tokenizer, query_token


@pytest.fixture(scope="module")
def tokenizer() -> InstructionTokenizer:
    sentences = [sentence for task in TASKS for sentence in paraphrases(task)]
    return InstructionTokenizer(build_tokenizer(sentences, codebook_size=16, tokens_per_kind=4), max_words=12)


def test_every_sentence_of_the_teleoperator_fits(tokenizer: InstructionTokenizer) -> None:
    for task in TASKS:
        for sentence in paraphrases(task):
            ids = tokenizer.encode(sentence)
            assert ids.shape == (12,) and tokenizer.unknown_id not in ids
            assert (ids != tokenizer.pad_id).sum() == len(sentence.split())


def test_case_and_punctuation_do_not_matter(tokenizer: InstructionTokenizer) -> None:
    np.testing.assert_array_equal(tokenizer.encode("Walk to the RED box!"), tokenizer.encode("walk to the red box"))
    np.testing.assert_array_equal(tokenizer.encode(" walk, to the  red box."), tokenizer.encode("walk to the red box"))


@pytest.mark.parametrize(
    ("sentence", "code", "says"),
    [
        ("", ErrorCode.INSTRUCTION_EMPTY, "empty"),
        ("   ", ErrorCode.INSTRUCTION_EMPTY, "empty"),
        ("?!", ErrorCode.INSTRUCTION_EMPTY, "no word"),
        ("walk " * 100, ErrorCode.INSTRUCTION_TOO_LONG, "500 characters"),
        ("walk " * 13, ErrorCode.INSTRUCTION_TOO_LONG, "13 words"),
        ("walk to the bleu box", ErrorCode.INSTRUCTION_UNKNOWN_WORDS, "'bleu' (did you mean 'blue'?)"),
        ("open the fridge", ErrorCode.INSTRUCTION_UNKNOWN_WORDS, "'open'"),
        ("<ACT_MANI_3> walk", ErrorCode.INSTRUCTION_UNKNOWN_WORDS, "plain words"),
        ("<unk>", ErrorCode.INSTRUCTION_UNKNOWN_WORDS, "plain words"),
    ],
)
def test_what_cannot_be_followed_is_refused_with_its_reason(tokenizer: InstructionTokenizer, sentence: str, code: ErrorCode, says: str) -> None:
    with pytest.raises(InstructionError) as refusal:
        tokenizer.encode(sentence)
    assert refusal.value.code == code
    assert says in str(refusal.value)


def test_action_tokens_come_after_the_words_manipulation_first(tokenizer: InstructionTokenizer) -> None:
    ids = tokenizer.act_ids(16)
    assert ids.shape == (2, 16)
    np.testing.assert_array_equal(ids.ravel(), np.arange(ids[0, 0], ids[0, 0] + 32))
    assert tokenizer.tokenizer.id_to_token(int(ids[1, 5])) == act_token("LOCO", 5) == "<ACT_LOCO_5>"
    queries = tokenizer.query_ids(4)
    assert [tokenizer.tokenizer.id_to_token(int(i)) for i in queries[:5]] == [*(query_token("MANI", i) for i in range(4)), query_token("LOCO", 0)]
    assert queries[-1] == tokenizer.vocab_size - 1


def test_a_prompt_that_names_the_pictures_place_is_read_from_there_on_and_must_name_it_once(tokenizer: InstructionTokenizer) -> None:
    words = build_tokenizer(["user please answer walk"], 16, 4)
    words.add_special_tokens(["<image>"])
    found = InstructionTokenizer(words, 4, "user <image> please {instruction} answer", "<image>")
    said = lambda ids: [words.id_to_token(int(i)) for i in ids]  # noqa: E731
    assert said(found.opening_ids) == ["user"] and said(found.encode("walk")) == ["please", "walk", "answer", "<pad>"]
    with pytest.raises(InstructionError, match="5 words, at most 4"):
        found.encode("walk walk walk")
    assert tokenizer.opening_ids == [tokenizer.bos_id]
    for prompt in ("please {instruction}", "<image> {instruction}", "user <image> <image> {instruction}"):
        with pytest.raises(ValueError, match="one image token, with something before it"):
            InstructionTokenizer(words, 4, prompt, "<image>")


def test_a_saved_tokenizer_reads_back_the_same(tokenizer: InstructionTokenizer, tmp_path) -> None:
    tokenizer.save(tmp_path)
    again = InstructionTokenizer.load(tmp_path, 12, "{instruction}")
    np.testing.assert_array_equal(again.encode("wave your left arm"), tokenizer.encode("wave your left arm"))
    assert again.vocab_size == tokenizer.vocab_size
