import sys

import pyarrow as pa
import pytest

from kiban.artifacts.errors import KibanError
from kiban.corpus import names
from kiban.corpus.masks import is_my_number, mask


def one(text: str) -> tuple[str, dict[str, int]]:
    masked, counts = mask(pa.array([text]))
    return masked[0].as_py(), dict(counts[0])


@pytest.mark.parametrize(
    ("text", "expected", "category"),
    [
        ("電話は03-1234-5678です。", "電話は〔電話番号〕です。", "phone"),
        ("携帯 090-1234-5678", "携帯 〔電話番号〕", "phone"),
        ("携帯０９０－１２３４－５６７８まで", "携帯〔電話番号〕まで", "phone"),
        ("09012345678", "〔電話番号〕", "phone"),
        ("（06）6123-4567", "〔電話番号〕", "phone"),
        ("0742（34）1234へ", "〔電話番号〕へ", "phone"),
        ("フリーダイヤル0120-123-456", "フリーダイヤル〔電話番号〕", "phone"),
        ("+81-3-1234-5678", "〔電話番号〕", "phone"),
        ("+81 90 1234 5678", "〔電話番号〕", "phone"),
        ("TEL：0312345678", "TEL：〔電話番号〕", "phone"),
        ("〒100-0001 東京都", "〔郵便番号〕 東京都", "postcode"),
        ("〒１００－０００１", "〔郵便番号〕", "postcode"),
        ("郵便番号は100-0001だ。", "郵便番号は〔郵便番号〕だ。", "postcode"),
        ("100-0001 東京都千代田区", "〔郵便番号〕 東京都千代田区", "postcode"),
        ("個人番号は123456789018です", "個人番号は〔個人番号〕です", "my_number"),
        ("マイナンバー 1234-5678-9018", "マイナンバー 〔個人番号〕", "my_number"),
        ("宛先taro.yamada+x@mail.example.co.jpへ", "宛先〔メールアドレス〕へ", "email"),
        ("12345678@example.jp", "〔メールアドレス〕", "email"),
        ("カード4111 1111 1111 1111", "カード〔カード番号〕", "card"),
        ("3530-1113-3330-0000を", "〔カード番号〕を", "card"),
        ("378282246310005", "〔カード番号〕", "card"),
        ("カード番号は4222222222222です", "カード番号は〔カード番号〕です", "card"),
        ("+819012340000へ", "〔電話番号〕へ", "phone"),
        ("返送先（100-0001）東京都", "返送先（〔郵便番号〕）東京都", "postcode"),
        ("口座番号：7654321へ", "口座番号：〔口座番号〕へ", "bank_account"),
        ("中央支店 普通 1234567", "中央支店 普通 〔口座番号〕", "bank_account"),
        ("免許証番号は第305012345670号", "免許証番号は第〔運転免許証番号〕号", "driving_licence"),
        ("パスポート番号TK1234567です", "パスポート番号〔旅券番号〕です", "passport"),
        ("基礎年金番号 1234-567890", "基礎年金番号 〔基礎年金番号〕", "pension"),
        ("サーバー8.8.4.4に接続", "サーバー〔IPアドレス〕に接続", "ip_address"),
    ],
)
def test_personal_data_is_masked(text: str, expected: str, category: str) -> None:
    assert one(text) == (expected, {category: 1})


@pytest.mark.parametrize(
    "text",
    [
        "価格は12,345,678円、在庫は10000000個。",
        "2024-04-01 12:34:56",
        "20240401123456",
        "部品番号は123-4567、図面はAB-090-1234-5678。",
        "製造番号0312345678901234",
        "0312345678個",  # ten digits with no word that says what they are
        "123456789012",  # twelve digits, wrong check digit
        "1234-5678-9012",
        "202404011234",  # a point in time, whatever its check digit
        "4111 1111 1111 1112",  # Luhn
        "9111111111111119",  # a Luhn number of no issuer
        "円周率は3.14159265358979",
        "https://example.jp/items/09012345678",
        "id=4111111111111111",
        "https://user:pass@example.com/",
        "@decorator と a@b",
        "第三条第二項（昭和五十九年法律第百号）",
        "ISBN978-4-00-310101-8",
        "JAN 4222222222222",  # Luhn's, but of 13 digits
        "192.168.0.1、127.0.0.1、203.0.113.7",  # no one's
        "バージョン8.8.4.4、第1.2.3.4節、v8.8.4.4、8.8.4.4.1",
        "TK1234567、1234567、305012345671",  # with no word that says what they are
    ],
)
def test_ordinary_numbers_stay(text: str) -> None:
    assert one(text) == (text, {})


def test_several_in_one_text_and_texts_without() -> None:
    masked, counts = mask(pa.array(["何もない。", "〒100-0001、090-1234-5678、a@example.jp、090-8765-4321。", ""]))
    assert masked.to_pylist() == ["何もない。", "〔郵便番号〕、〔電話番号〕、〔メールアドレス〕、〔電話番号〕。", ""]
    assert counts == [{}, {"postcode": 1, "phone": 2, "email": 1}, {}]


def test_masking_twice_changes_nothing() -> None:
    once, _ = mask(pa.array(["TEL：0312345678、〒100-0001"]))
    twice, counts = mask(once)
    assert twice.equals(once) and counts == [{}]


def test_the_check_digit_of_my_number() -> None:
    # Every body has exactly one check digit.
    for body in ("12345678901", "00000000000", "98765432109"):
        assert sum(is_my_number(body + str(check)) for check in range(10)) == 1
    assert is_my_number("123456789018")
    assert not is_my_number("12345678901")


def test_a_million_digits_are_no_trouble() -> None:
    text = "1234567 " * 50_000 + "@" * 10_000 + "-" * 10_000
    assert one(text) == (text, {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("担当の山田太郎様へ。", "担当の〔氏名〕様へ。"),
        ("鈴木　一郎と申します。", "〔氏名〕と申します。"),
        ("高橋さんと田中部長", "〔氏名〕さんと〔氏名〕部長"),
        ("東京都千代田区霞が関1丁目2番3号に住む", "〔住所〕に住む"),
        ("大阪市北区梅田3-1-1 大阪ビル5階へ", "〔住所〕へ"),
        ("青森市長島１丁目１−１", "〔住所〕"),
        ("東京は晴れ、京都市は雨。", "東京は晴れ、京都市は雨。"),
        ("広島3-2阪神で終わった。", "広島3-2阪神で終わった。"),
        ("部長は先生と会った。", "部長は先生と会った。"),
    ],
)
def test_names_and_addresses(text: str, expected: str) -> None:
    pytest.importorskip("sudachipy")
    masked, counts = names.mask(pa.array([text]))
    assert masked[0].as_py() == expected
    assert sum(counts[0].values()) == expected.count("〔")


def test_names_in_a_text_that_is_longer_than_the_analyser_takes() -> None:
    pytest.importorskip("sudachipy")
    text = "何も書かれていない行が続く。" * 4000 + "山田太郎様" + "あ" * 60_000
    masked, counts = names.mask(pa.array([text]))
    assert masked[0].as_py() == text.replace("山田太郎", "〔氏名〕") and counts == [{"name": 1}]


def test_names_without_the_analyser(monkeypatch: pytest.MonkeyPatch) -> None:
    names.tokenizer.cache_clear()
    monkeypatch.setitem(sys.modules, "sudachipy", None)
    with pytest.raises(KibanError, match="mask_names needs SudachiPy"):
        names.mask(pa.array(["山田太郎様"]))
