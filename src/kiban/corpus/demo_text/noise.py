"""What real archives have too much of: copies, near-copies, page furniture, personal data, broken encodings.

Every person, number and address is invented. Numbers carry right check digits, since masks go by them.
"""

import unicodedata
from random import Random

FURNITURE = (
    "ホーム｜製品情報｜会社案内｜採用情報｜お問い合わせ\n",
    "トップページへ戻る　｜　サイトマップ　｜　プライバシーポリシー\n",
    "このサイトではクッキーを使用しています。閲覧を続けると、使用に同意したものとみなされます。\n",
    "Copyright (c) All rights reserved. 無断転載を禁じます。\n",
)
HALF_KANA = {full: half for half in map(chr, range(0xFF66, 0xFF9E)) for full in [unicodedata.normalize("NFKC", half)]}


def my_number(rng: Random) -> str:
    """12 digits with the check digit of 平成26年総務省令第85号."""
    digits = [rng.randrange(10) for _ in range(11)]
    weighted = sum(d * (n + 1 if n <= 6 else n - 5) for n, d in enumerate(reversed(digits), 1))
    remainder = weighted % 11
    return "".join(map(str, digits)) + str(0 if remainder <= 1 else 11 - remainder)


def card(rng: Random) -> str:
    """16 digits with Luhn's check digit, in groups of four."""
    digits = [4, *(rng.randrange(10) for _ in range(14))]
    total = sum(sum(divmod(2 * d, 10)) if i % 2 == 0 else d for i, d in enumerate(digits))
    text = "".join(map(str, digits)) + str(-total % 10)
    return " ".join(text[i : i + 4] for i in range(0, 16, 4))


def personal_data(rng: Random) -> str:
    name = rng.choice(["佐藤", "鈴木", "高橋", "田中", "伊藤"])
    rows = [
        f"連絡先：{name}　電話 0{rng.randint(3, 6)}-{rng.randint(1000, 9999)}-{rng.randint(1000, 9999)}",
        f"携帯 090-{rng.randint(1000, 9999)}-{rng.randint(1000, 9999)}",
        f"〒{rng.randint(100, 999)}-{rng.randint(0, 9999):04}",
        f"メール {rng.choice(['info', 'contact', 'support'])}{rng.randint(1, 99)}@example.co.jp",
        f"個人番号 {my_number(rng)}",
        f"カード番号 {card(rng)}",
    ]
    return "\n".join(rng.sample(rows, rng.randint(2, 4)))


def half_width(text: str) -> str:
    """Katakana as half-width kana, dakuten as signs of their own."""
    out = []
    for character in text:
        parts = unicodedata.normalize("NFD", character) if "ァ" <= character <= "ヶ" else character
        out.append("".join(HALF_KANA.get(p, {"\u3099": "ﾞ", "\u309a": "ﾟ"}.get(p, p)) for p in parts))
    return "".join(out)


def mojibake(text: str) -> str:
    """UTF-8 that was read as Latin-1: what a careless conversion leaves."""
    return text.encode().decode("latin-1")


def near_copy(rng: Random, text: str) -> str:
    """A few characters changed, and a line put at the end."""
    at = rng.randrange(max(1, len(text) - 4))
    return text[:at] + text[at + 1 :] + f"\n（第{rng.randint(2, 9)}版）"


def spam(rng: Random) -> str:
    line = rng.choice(
        ["今すぐ登録で全員にポイント進呈！", "お得な情報はこちらをクリック！", "売れ筋ランキング公開中！"]
    )
    return "\n".join([line] * rng.randint(20, 60))


def table(rng: Random) -> str:
    rows = ["\t".join(f"{rng.randint(0, 99999)}" for _ in range(8)) for _ in range(rng.randint(12, 30))]
    return "測定値\n" + "\n".join(rows)


def english(rng: Random) -> str:
    sentences = (
        "The pump was inspected and no abnormality was found.",
        "Please read the manual before operating the machine.",
        "All parts shall be cleaned with a dry cloth.",
        "The next inspection is scheduled for the end of the month.",
        "Tighten the bolts to the specified torque.",
    )
    return " ".join(rng.choice(sentences) for _ in range(rng.randint(6, 14)))
