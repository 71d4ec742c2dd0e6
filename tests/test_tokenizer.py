"""Tokenizers: cleaning, bytes, files in a folder, and what is said when there are none."""

import numpy as np
import pytest
import tokenizers
import transformers

from livetalk_jax.tokenizer import clean, load_tokenizer


@pytest.mark.parametrize(
    "text, cleaned",
    [
        ("  a  man\n\tspeaks  ", "a man speaks"),
        ("salt &amp;amp; pepper", "salt & pepper"),
        ("caf\u00c3\u00a9", "café"),
        ("a\u3000b\u00a0c", "a b c"),
        ("", ""),
    ],
)
def test_clean(text, cleaned):
    assert clean(text) == cleaned


def test_bytes():
    ids, mask = load_tokenizer("bytes", 12)(["A  man", "é"])
    expected = np.zeros((2, 12), np.int32)
    expected[0, :6] = [*(byte + 3 for byte in b"A man"), 1]
    expected[1, :3] = [*(byte + 3 for byte in "é".encode()), 1]
    assert ids.dtype == mask.dtype == np.int32
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(mask, expected != 0)


def test_bytes_are_cut():
    ids, mask = load_tokenizer("bytes", 8)(["a long prompt, longer than that"])
    assert ids.shape == (1, 8)
    assert ids[0, -1] == 1, "the end token stays"
    assert mask.all()


def test_folder(tmp_path):
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "man": 4}, unk_token="<unk>")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(tmp_path)
    ids, mask = load_tokenizer(str(tmp_path), 5)(["a man", "a &amp; b c d e"])
    np.testing.assert_array_equal(ids, [[3, 4, 1, 0, 0], [3, 2, 2, 2, 1]])
    np.testing.assert_array_equal(mask, [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])


def test_no_files(tmp_path):
    with pytest.raises(OSError, match=r"no tokenizer found at .*tokenizer\.json.*google/umt5-xxl") as raised:
        load_tokenizer(str(tmp_path), 5)
    assert "\n" not in str(raised.value)
