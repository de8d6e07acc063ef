"""Words in, latent-action tokens out: the vocabulary of the VLA.

The tokenizer is one ``tokenizers`` file (``tokenizer.json``), whatever the size: the tiny model has a word-level vocabulary
made from the sentences it was trained on, a 7B model brings Llama's. Two kinds of added tokens follow the words:

    <ACT_MANI_0> .. <ACT_LOCO_15>   the codes of the two latent action models (prior work: UniVLA's <ACT_i>, one set per model)
    <QUERY_MANI_0> .. <QUERY_LOCO_3>  placeholders at whose positions the codes are predicted, all in one forward pass
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from wbvla_core.catalogue import MAX_INSTRUCTION_CHARS
from wbvla_core.errors import ErrorCode, InstructionError
from wbvla_core.refusal import nearest_word

KINDS = ("MANI", "LOCO")  # order of the predicted tokens: manipulation first (ours; the paper gives no order)
PAD, BOS, UNKNOWN = "<pad>", "<bos>", "<unk>"
LLAMA_PAD, LLAMA_BOS = "<PAD>", "<s>"  # prior work: Llama-2 has no padding token, Prismatic added this one
TOKENIZER_FILE = "tokenizer.json"


def act_token(kind: str, code: int) -> str:
    return f"<ACT_{kind}_{code}>"


def query_token(kind: str, position: int) -> str:
    return f"<QUERY_{kind}_{position}>"


def build_tokenizer(sentences: Iterable[str], codebook_size: int, tokens_per_kind: int) -> Tokenizer:
    """Word-level tokenizer over all words of ``sentences`` (lower case, punctuation dropped), plus the added tokens."""
    splitter = _word_splitter()
    words = sorted({word for sentence in sentences for word, _ in splitter[1].pre_tokenize_str(splitter[0].normalize_str(sentence))})
    vocabulary = {token: index for index, token in enumerate((PAD, BOS, UNKNOWN, *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer, tokenizer.pre_tokenizer = splitter
    add_action_tokens(tokenizer, codebook_size, tokens_per_kind)
    return tokenizer


def _word_splitter() -> tuple[normalizers.Normalizer, pre_tokenizers.PreTokenizer]:
    # Hyphens and commas become spaces, so that "step left, please" and "left-hand" need no entry of their own.
    strip = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"[^\w]+"), " ")])
    return strip, pre_tokenizers.WhitespaceSplit()


def add_action_tokens(tokenizer: Tokenizer, codebook_size: int, tokens_per_kind: int) -> None:
    """Append the latent-action tokens to any tokenizer; ids of existing words do not move."""
    names = [act_token(kind, code) for kind in KINDS for code in range(codebook_size)]
    names += [query_token(kind, position) for kind in KINDS for position in range(tokens_per_kind)]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])


class InstructionTokenizer:
    """Sentence -> fixed-length word ids, or a refusal that says which words are not understood.

    Args:
        prompt: text around the instruction.
        image_token: the token in ``prompt`` that stands where the image comes in; "" = the image comes between <bos> and the prompt.

    Attributes:
        opening_ids: what stands before the image.

    Raises:
        ValueError: a token is missing, or ``prompt`` has not exactly one place for the image.
    """

    def __init__(self, tokenizer: Tokenizer, max_words: int, prompt: str = "{instruction}", image_token: str = "") -> None:
        self.tokenizer = tokenizer
        self.max_words = max_words
        self.prompt = prompt
        self.vocab_size = tokenizer.get_vocab_size(with_added_tokens=True)
        self.pad_id = self._id(PAD, LLAMA_PAD)
        self.image_id = self._id(image_token) if image_token else None
        self.opening_ids = self._opening() if image_token else [self._id(BOS, LLAMA_BOS)]
        self.bos_id = self.opening_ids[0]
        self.unknown_id = tokenizer.token_to_id(UNKNOWN)

    def _id(self, *names: str) -> int:
        for name in names:
            found = self.tokenizer.token_to_id(name)
            if found is not None:
                return found
        raise ValueError(f"the tokenizer has none of the tokens {names}")

    def _opening(self) -> list[int]:
        ids = self.tokenizer.encode(self._text("walk"), add_special_tokens=False).ids
        if ids.count(self.image_id) != 1 or ids[0] == self.image_id:
            raise ValueError(f"the prompt {self.prompt!r} must hold one image token, with something before it")
        return ids[: ids.index(self.image_id)]

    def act_ids(self, codebook_size: int) -> np.ndarray:
        """Vocabulary ids of the code tokens [kinds, codebook_size]."""
        return np.array([[self._id(act_token(kind, code)) for code in range(codebook_size)] for kind in KINDS])

    def query_ids(self, tokens_per_kind: int) -> np.ndarray:
        """Vocabulary ids of the placeholders [kinds * tokens_per_kind], manipulation first."""
        return np.array([self._id(query_token(kind, position)) for kind in KINDS for position in range(tokens_per_kind)])

    def words(self) -> list[str]:
        """All words that are understood (word-level vocabularies only)."""
        return sorted(word for word in self.tokenizer.get_vocab(with_added_tokens=False) if not word.startswith("<"))

    def encode(self, instruction: str) -> np.ndarray:
        """Instruction -> word ids [max_words] int64, right-padded with ``pad_id``.

        Raises:
            InstructionError: empty, too long, or with words that the model was never trained on.
        """
        if not isinstance(instruction, str) or not instruction.strip():
            raise InstructionError("the instruction is empty; say what to do, for example 'walk to the blue box'", ErrorCode.INSTRUCTION_EMPTY)
        if len(instruction) > MAX_INSTRUCTION_CHARS:
            raise InstructionError(
                f"the instruction has {len(instruction)} characters, at most {MAX_INSTRUCTION_CHARS} are read; say it shorter", ErrorCode.INSTRUCTION_TOO_LONG
            )
        if "<" in instruction or ">" in instruction:
            raise InstructionError("the instruction must be plain words: '<' and '>' mark the model's own tokens", ErrorCode.INSTRUCTION_UNKNOWN_WORDS)
        encoding = self.tokenizer.encode(self._text(instruction), add_special_tokens=False)
        if not encoding.ids:
            raise InstructionError(
                f"the instruction {instruction!r} holds no word; say what to do, for example 'walk to the blue box'", ErrorCode.INSTRUCTION_EMPTY
            )
        self._refuse_unknown(instruction, encoding)
        found = encoding.ids if self.image_id is None else encoding.ids[len(self.opening_ids) + 1 :]
        if len(found) > self.max_words:
            raise InstructionError(f"the instruction has {len(found)} words, at most {self.max_words} are read; say it shorter", ErrorCode.INSTRUCTION_TOO_LONG)
        ids = np.full(self.max_words, self.pad_id, dtype=np.int64)
        ids[: len(found)] = found
        return ids

    def _text(self, instruction: str) -> str:
        return self.prompt.format(instruction=instruction.lower())  # prior work: OpenVLA was trained on lower case

    def _refuse_unknown(self, instruction: str, encoding) -> None:
        if self.unknown_id is None or self.unknown_id not in encoding.ids:
            return
        # Offsets are into the normalised text; take the words from there, so that the message shows what was looked up.
        normalised = self.tokenizer.normalizer.normalize_str(self._text(instruction)).split()
        unknown = [word for word, index in zip(normalised, encoding.ids, strict=True) if index == self.unknown_id]
        known = self.words()
        hints = {word: nearest_word(word, known) for word in unknown}
        detail = ", ".join(f"{word!r}" + (f" (did you mean {hint!r}?)" if hint else "") for word, hint in hints.items())
        raise InstructionError(
            f"the instruction uses words that this policy was not trained on: {detail}; it knows: {' '.join(known)}",
            ErrorCode.INSTRUCTION_UNKNOWN_WORDS,
        )

    def encode_batch(self, instructions: Iterable[str]) -> np.ndarray:
        """[N, max_words] int64."""
        return np.stack([self.encode(instruction) for instruction in instructions])

    def save(self, directory: Path) -> None:
        self.tokenizer.save(str(Path(directory) / TOKENIZER_FILE))

    @classmethod
    def load(cls, directory: Path, max_words: int, prompt: str, image_token: str = "") -> InstructionTokenizer:
        return cls(Tokenizer.from_file(str(Path(directory) / TOKENIZER_FILE)), max_words, prompt, image_token)
