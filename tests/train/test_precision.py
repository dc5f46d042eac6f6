from __future__ import annotations

import pytest

from bitlens.runtime.errors import BitlensError
from bitlens.train.precision import BITS, LayerPrecision, parse_precision


def test_fp32_has_no_layers() -> None:
    precision = parse_precision("fp32", 4)
    assert precision.is_full
    assert precision.layers == ()
    assert precision.word == "fp32"


@pytest.mark.parametrize("weight_bits", BITS)
@pytest.mark.parametrize("activation_bits", BITS)
def test_one_word_keeps_eight_bit_weights_outside(weight_bits: int, activation_bits: int) -> None:
    precision = parse_precision(f"w{weight_bits}a{activation_bits}", 4)
    assert not precision.is_full
    assert [layer.weight_bits for layer in precision.layers] == [8, weight_bits, weight_bits, 8]
    assert [layer.activation_bits for layer in precision.layers] == [activation_bits] * 4


def test_two_layers_are_both_outer() -> None:
    assert parse_precision("w1a1", 2).layers == (LayerPrecision(8, 1), LayerPrecision(8, 1))


def test_list_is_taken_literally() -> None:
    precision = parse_precision("w1a2, W2A4,w4a1,w8a8", 4)
    assert precision.word == "w1a2,w2a4,w4a1,w8a8"
    assert [str(layer) for layer in precision.layers] == ["w1a2", "w2a4", "w4a1", "w8a8"]


def test_word_survives_a_second_reading() -> None:
    for text in ("fp32", "W2A4", "w8a4,w2a4,w2a4,w8a4"):
        precision = parse_precision(text, 4)
        assert parse_precision(precision.word, 4) == precision


@pytest.mark.parametrize("word", ["", "w3a3", "w4", "a4", "w4a4x", "int8", "w16a16", "w4a4,", "fp32,w4a4,w4a4,w4a4"])
def test_unknown_word_is_refused_with_what_is_accepted(word: str) -> None:
    with pytest.raises(
        BitlensError, match=r"unknown precision word .*expected fp32, one word w<bits>a<bits>.*1, 2, 4, 8"
    ):
        parse_precision(word, 4)


def test_refusal_names_the_word() -> None:
    with pytest.raises(BitlensError, match="'w5a4'"):
        parse_precision("w4a4,w5a4,w4a4,w4a4", 4)


def test_list_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(BitlensError, match="3 words for 4 layers"):
        parse_precision("w4a4,w4a4,w4a4", 4)
