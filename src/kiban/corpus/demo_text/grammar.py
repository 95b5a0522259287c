"""A grammar of whole documents: for each kind of document a plan, for each sentence several frames, and words that fit.

Verbs stand in the form that a frame needs, and things come with their counters, so that what is composed is correct.
"""

from collections.abc import Callable
from random import Random

from kiban.corpus.demo_text import words

KANJI_DIGITS = "〇一二三四五六七八九"


def kanji(number: int) -> str:
    """1 to 99 in kanji."""
    tens, ones = divmod(number, 10)
    return ("" if tens == 0 else "十" if tens == 1 else KANJI_DIGITS[tens] + "十") + (
        KANJI_DIGITS[ones] if ones else ""
    )


def _date(rng: Random) -> str:
    month, day = rng.randint(1, 12), rng.randint(1, 28)
    return rng.choice(
        [f"{month}月{day}日", f"{kanji(month)}月{kanji(day)}日", f"令和{rng.randint(4, 8)}年{month}月{day}日"]
    )


def _goods(rng: Random, kinds: tuple[tuple[str, str], ...] = words.GOODS) -> str:
    thing, counter = rng.choice(kinds)
    return f"{thing}{kanji(rng.randint(2, 48))}{counter}"


def _object(rng: Random) -> str:
    return rng.choice(rng.choice(words.COLOURS)) + rng.choice(words.SHAPES)


def _fill(rng: Random, frame: str, **given: str) -> str:
    """Numbers of the usual sizes under their letters, and what is given."""
    low = rng.randint(1, 3)
    numbers = {
        "n": kanji(rng.randint(3, 19)),
        "m": kanji(rng.randint(2, 4)),
        "h": kanji(rng.randint(2, 8)),
        "d": kanji(rng.randint(2, 9)),
        "x": kanji(low),
        "y": kanji(low + rng.randint(1, 3)),
    }
    return frame.format(**(numbers | given))


def maintenance_report(rng: Random) -> tuple[str, str]:
    machine = rng.choice(list(words.MACHINES))
    part = rng.choice(words.MACHINES[machine])
    unit = f"{machine}{kanji(rng.randint(1, 9))}号機"
    place, by = rng.choice(words.PLACES), rng.choice(words.NAMES)
    symptom, cause, measure, check = (
        _fill(rng, rng.choice(frames), p=part)
        for frames in (words.SYMPTOMS, words.CAUSES, words.MEASURES, words.CHECKS)
    )
    outlook = _fill(rng, rng.choice(words.OUTLOOKS))
    if rng.random() < 0.5:
        when = rng.choice(
            ["始業点検の際", "運転開始から間もなく", "夜勤の巡回中", "定期点検において", "品種の切り替え後"]
        )
        rows = [
            f"設備名　{place}　{unit}",
            f"実施日　{_date(rng)}　　担当　{by}",
            f"【症状】{when}、{symptom}。",
            f"【原因】{cause}。",
            f"【処置】{measure}。",
            f"【確認】{check}。",
            f"【今後】{outlook}。",
        ]
        return f"保守報告　{unit}", "\n".join(rows)
    opening = rng.choice(
        [
            f"{_date(rng)}、{place}の{unit}において、{symptom}。",
            f"{place}の作業者から連絡を受け、{unit}を調べたところ、{symptom}。",
            f"{unit}について報告する。{_date(rng)}の午前、{symptom}。",
        ]
    )
    stop = rng.choice(
        [
            "直ちに運転を止め、電源を切ってから点検した。",
            "運転を続けながら様子を見た後、昼休みに停止した。",
            "予備機に切り替え、生産を続けながら点検した。",
        ]
    )
    return f"{unit}の不具合", f"{opening}{stop}\n{cause}。{measure}。\n{check}。{outlook}。"


# The order of the frames is that of the work.
STEP_FRAMES = (
    "{wrench}と{gauge}を用意し、使用できる状態であることを確かめる",
    "主電源を切り、操作盤に「作業中」の札を掛ける",
    "{part}の取り付け状態を、正面と側面から目で確認する",
    "{wrench}を当て、{part}の固定に緩みがないことを確かめる",
    "替えの{goods}を取り出し、数と傷の有無を確認する",
    "{part}の汚れを綿布で拭き取る。溶剤は使わない",
    "{part}の覆いを外し、外した順に作業台へ並べる",
    "{part}の向きが図面と合っていることを確かめる",
    "{gauge}で三か所を測り、平均を記録用紙に記入する",
    "覆いを戻し、指で押して浮きがないことを確かめる",
    "札を外し、主電源を入れて{minutes}分間の空運転を行う",
    "異音や振動がないことを確認し、班長に完了を報告する",
)


def work_instruction(rng: Random) -> tuple[str, str]:
    machine = rng.choice(list(words.MACHINES))
    part = rng.choice(words.MACHINES[machine])
    chosen = sorted(rng.sample(range(len(STEP_FRAMES)), rng.randint(5, 8)))
    style = rng.choice(["手順{}　", "{}．", "（{}）"])
    rows = []
    for number, index in enumerate(chosen, 1):
        step = STEP_FRAMES[index].format(
            part=part,
            wrench=rng.choice(words.WRENCHES),
            gauge=rng.choice(words.GAUGES),
            goods=_goods(rng, words.SMALL_PARTS),
            minutes=kanji(rng.randint(2, 15)),
        )
        rows.append(style.format(number) + step + "。")
    title = f"{machine}の{part}の" + rng.choice(["点検", "清掃と点検", "調整", "月例点検"])
    notes = [
        "作業中に異常を見つけたときは、手を止めて責任者の指示を受けること。",
        "保護眼鏡と手袋を着用する。袖口は必ず留めること。",
        "この作業は、資格を持つ者が二人一組で行う。",
        "所要時間の目安は" + kanji(rng.randint(15, 60)) + "分である。",
        "使った工具は、数を数えてから元の場所に戻す。",
    ]
    head = f"{title}\n対象　{rng.choice(words.PLACES)}の{machine}\n"
    return title, head + "\n".join(rows) + "\n注意　" + rng.choice(notes)


RISKS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "挟まれ",
        (
            "{m}の{p}に手を近づけないでください",
            "清掃は、{m}が完全に止まってから始めてください",
            "二人で作業するときは、起動の前に声を掛け合ってください",
            "安全柵を開けたまま運転してはいけません",
        ),
    ),
    (
        "転倒",
        (
            "{l}の床は、雨の日に滑りやすくなります",
            "通路に工具やホースを置いたままにしないでください",
            "荷物を抱えて歩くときは、足元が見える高さまでにしてください",
            "こぼれた油は、見つけた人がすぐに拭き取ってください",
        ),
    ),
    (
        "感電",
        (
            "ぬれた手で{m}の操作盤に触れないでください",
            "電源を切った後も、検電器で確かめるまでは通電中と考えてください",
            "傷んだコードは、使わずに設備課へ届けてください",
            "{p}の点検は、資格のある人が行います",
        ),
    ),
    (
        "やけど",
        (
            "{m}の表面は、停止後も{n}分ほど高温のままです",
            "蒸気の出る弁の正面に立たないでください",
            "熱いものを運ぶときは、通る道を先に空けてください",
            "耐熱の手袋に穴がないか、着用の前に確かめてください",
        ),
    ),
)
IF_HURT = (
    "けがをしたときは、程度にかかわらず、すぐに上長へ知らせてください。",
    "危ないと感じた場所は、写真を撮って安全衛生課に届けてください。",
    "分からないことがあれば、作業を始める前に責任者にお尋ねください。",
    "決まりを守れない事情があるときは、作業を止めて相談してください。",
)


def safety_notice(rng: Random) -> tuple[str, str]:
    risk, rules = rng.choice(RISKS)
    machine = rng.choice(list(words.MACHINES))
    place = rng.choice(words.PLACES)
    chosen = rng.sample(rules, rng.randint(3, 4))
    rows = [_fill(rng, rule, m=machine, p=rng.choice(words.MACHINES[machine]), l=place) for rule in chosen]
    opening = rng.choice(
        [
            f"先月、{place}で{risk}の報告が{kanji(rng.randint(2, 6))}件ありました。次のことを守ってください。",
            f"{place}で作業する皆さんへ。{risk}を防ぐために、もう一度確認しましょう。",
            f"{_date(rng)}から{place}の配置が変わります。{risk}に特に注意してください。",
        ]
    )
    marks = rng.choice(["・", "●", "－"])
    body = "\n".join(f"{marks}{row}。" for row in rows)
    return f"{risk}災害の防止", f"{opening}\n{body}\n{rng.choice(IF_HURT)}"


GREETINGS = (
    "いつもお世話になっております。{f}の{w}でございます。",
    "平素は格別のお引き立てを賜り、厚く御礼申し上げます。{f}の{w}です。",
    "お世話になっております。{f}{d}の{w}と申します。",
    "ご多用のところ恐れ入ります。{f}の{w}でございます。",
)
MATTERS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    (
        "納期のご連絡",
        (
            "ご注文いただいた{t}は、{day}にお届けできる見込みとなりました。",
            "{t}の件でございますが、製造が順調に進み、{day}に出荷いたします。",
            "お急ぎと伺っておりました{t}につきまして、{day}の着荷で手配いたしました。",
        ),
        (
            "お受け取りになる場所に変更がございましたら、前日までにお知らせください。",
            "ご都合が悪い場合は、ご遠慮なくお申し付けください。",
        ),
    ),
    (
        "お打ち合わせのお願い",
        (
            "{m}の更新について、改めてご説明の機会を頂戴したく存じます。",
            "先日ご相談いただいた{m}の改良につきまして、案がまとまりましたので、ご覧いただきたく存じます。",
            "{m}の保守契約の内容について、ご意見を伺いたく存じます。",
        ),
        (
            "{day}の午後はいかがでしょうか。ご希望の時間に合わせて伺います。",
            "ご都合のよい日時を、二、三お知らせいただけますと幸いに存じます。",
        ),
    ),
    (
        "不具合のお詫び",
        (
            "このたびは、お納めした{m}の{p}に不具合がございましたこと、心よりお詫び申し上げます。",
            "{m}の{p}に関するご指摘を承り、直ちに調査を始めました。ご迷惑をおかけし、申し訳ございません。",
        ),
        (
            "代わりの部品を本日発送いたしました。{day}の午前にお手元に届く予定でございます。",
            "原因が分かり次第、改めて書面にてご報告申し上げます。",
        ),
    ),
    (
        "資料送付のご案内",
        (
            "ご依頼いただいた{m}の資料を、別便にてお送りいたしました。",
            "お問い合わせいただいた{t}のお見積書を添付いたしました。ご査収ください。",
            "{m}の点検結果がまとまりましたので、報告書をお届けいたします。",
        ),
        (
            "ご不明な点がございましたら、{d}の{w2}までお尋ねください。",
            "お目通しのうえ、お気づきの点をお聞かせいただければ幸いです。",
        ),
    ),
)
CLOSINGS = (
    "何とぞよろしくお願い申し上げます。",
    "今後とも変わらぬお付き合いのほど、お願い申し上げます。",
    "お忙しいところ恐縮ですが、ご検討くださいますようお願いいたします。",
    "まずは取り急ぎ、ご連絡申し上げます。",
    "末筆ながら、皆様のご健勝をお祈り申し上げます。",
)


def business_mail(rng: Random) -> tuple[str, str]:
    title, matters, requests = rng.choice(MATTERS)
    machine = rng.choice(list(words.MACHINES))
    own, theirs = rng.sample(words.FIRMS, 2)
    writer, reader, other = rng.sample(words.NAMES, 3)
    given = {
        "f": own,
        "w": writer,
        "w2": other,
        "d": rng.choice(words.DEPARTMENTS),
        "t": _goods(rng),
        "m": machine,
        "p": rng.choice(words.MACHINES[machine]),
        "day": _date(rng),
    }
    head = f"件名　{title}\n{theirs}株式会社\n{reader}様\n\n"
    sentences = [rng.choice(GREETINGS), "\n", rng.choice(matters), rng.choice(requests), "\n", rng.choice(CLOSINGS)]
    return title, head + "".join(sentence.format(**given) for sentence in sentences)


def robot_instruction(rng: Random) -> tuple[str, str]:
    """A few requests in one register, or a dialogue with answers."""
    register = rng.randrange(3)
    acts = [rng.choice(words.ACTS) for _ in range(rng.randint(3, 6))]
    rows = []
    dialogue = rng.random() < 0.5
    for number, act in enumerate(acts):
        given = {"o": _object(rng), "s": rng.choice(words.SPOTS)}
        said = act[register].format(**given)
        if register == 2 and rng.random() < 0.4:
            said = rng.choice(["恐れ入りますが、", "お手数ですが、", "恐縮ですが、"]) + said
        elif number and rng.random() < 0.5:
            said = rng.choice(["次に、", "それから、", "終わったら、", "そのあと、"]) + said
        if dialogue:
            rows.append(f"人：{said}。")
            rows.append(f"ロボット：はい。{act[3].format(**given)}。……{act[4].format(**given)}。")
        else:
            rows.append(said + "。")
    if not dialogue and rng.random() < 0.5:
        rows.append(
            rng.choice(
                [
                    f"{_object(rng)}には触れないでください。",
                    "途中で物が倒れたら、手を止めて知らせてください。",
                    "一つ終わるごとに、結果を報告してください。",
                    "人が近くにいる間は、ゆっくり動いてください。",
                ]
            )
        )
    joint = "\n" if dialogue else rng.choice(["", "\n"])
    return "ロボットへの指示", joint.join(rows)


def service_dialogue(rng: Random) -> tuple[str, str]:
    name, staff = rng.sample(words.NAMES, 2)
    day, hour = _date(rng), kanji(rng.randint(9, 19))
    number = kanji(rng.randint(2, 8))
    subject = rng.choice(
        [
            (
                "お部屋",
                f"{day}に{number}名で泊まりたいのですが、空いていますか。",
                "お調べいたします。和室と洋室がございますが、どちらになさいますか。",
                "和室でお願いします。",
                f"かしこまりました。{name}様のお名前で承りました。お着きは何時ごろでいらっしゃいますか。",
                f"{hour}時ごろになると思います。",
            ),
            (
                "配送",
                f"{day}に届くはずの荷物が、まだ来ていません。",
                "ご心配をおかけして申し訳ございません。伝票の番号をお聞かせいただけますか。",
                f"控えが手元にないのですが、名前は{name}です。",
                f"確認できました。本日の{hour}時までに、必ずお届けいたします。",
                "分かりました。家にいるようにします。",
            ),
            (
                "修理",
                "洗濯機から水が漏れるのですが、見に来てもらえますか。",
                "お困りのことと存じます。お使いの年数はお分かりでしょうか。",
                f"{number}年ほどになります。",
                f"承知いたしました。{day}の{hour}時に、係の{staff}がお伺いいたします。",
                "お願いします。それまでは使わないほうがいいですか。",
            ),
            (
                "席",
                f"{day}の夜、{number}人で予約できますか。",
                f"ありがとうございます。{hour}時からでしたら、ご用意できます。",
                "では、その時間でお願いします。子どもの椅子はありますか。",
                f"ございます。{name}様、お料理にお苦手なものはございませんか。",
                "そばを使わないものにしてください。",
            ),
        ]
    )
    kind, *turns = subject
    speakers = ["お客様", "係"]
    rows = [f"係：お電話ありがとうございます。{kind}の受付、{staff}でございます。"]
    rows += [f"{speakers[i % 2]}：{turn}" for i, turn in enumerate(turns)]
    rows.append(
        "係："
        + rng.choice(
            [
                "ご来店を心よりお待ちしております。",
                "ほかにご用はございませんでしょうか。",
                "お電話いただき、ありがとうございました。",
                "また何かございましたら、いつでもお申し付けください。",
            ]
        )
    )
    return f"{kind}の受付", "\n".join(rows)


def minutes(rng: Random) -> tuple[str, str]:
    first, second, third = rng.sample(words.DEPARTMENTS, 3)
    machine = rng.choice(list(words.MACHINES))
    title = rng.choice(
        [
            f"{machine}の更新に関する会議",
            "月例の生産会議",
            "品質改善の打ち合わせ",
            f"{rng.choice(words.PLACES)}の配置換えについて",
        ]
    )
    rows = [
        f"日時　{_date(rng)}　{kanji(rng.randint(9, 16))}時から",
        f"出席　{first}、{second}、{third}",
        rng.choice(
            [
                f"{first}から、{machine}の停止時間が先月より{kanji(rng.randint(2, 30))}時間減ったとの報告があった。",
                f"{first}から、{_goods(rng)}が不足しているとの報告があった。",
                f"{first}の{rng.choice(words.NAMES)}が、{machine}の稼働状況を説明した。",
            ]
        ),
        rng.choice(
            [
                f"これに対し{second}は、費用の内訳を示すよう求めた。",
                f"{second}からは、現場の負担が増えるのではないかという懸念が示された。",
                f"{second}は、{kanji(rng.randint(2, 6))}か月の試行を経てから判断することを提案した。",
            ]
        ),
        rng.choice(
            [
                f"協議の結果、{third}が案をまとめ、次回までに全員へ配ることとなった。",
                f"{third}が見積もりを{kanji(rng.randint(2, 4))}社から取り、比較することで合意した。",
                "結論は出ず、次回に改めて話し合う。",
                f"提案は了承され、{_date(rng)}から始めることが決まった。",
            ]
        ),
        f"次回は{_date(rng)}に開く。",
    ]
    return title, f"{title}　議事録\n" + "\n".join(rows)


def prose(rng: Random) -> tuple[str, str]:
    season = rng.choice(list(words.SEASONS))
    here, there = rng.sample(words.TOWN, 2)
    signs = rng.sample(words.SEASONS[season], 2)
    time = rng.choice(["朝のうちに", "昼過ぎ、", "日が傾くころ、", "思い立って、", "用事のついでに、"])
    done = rng.sample(words.DONE, 2)
    acts = [frame.format(t=here, u=there, w=rng.choice(words.NAMES)) for frame in done]
    thoughts = rng.sample(words.THOUGHTS, 2)
    joint = rng.choice(["それから", "そのあと", "しばらくして"])
    text = f"{signs[0]}。{time}家を出た。{acts[0]}。{thoughts[0]}\n{joint}、{acts[1]}。{signs[1]}。{thoughts[1]}"
    return f"{season}の覚え書き", text


KINDS: dict[str, tuple[Callable[[Random], tuple[str, str]], float]] = {
    "maintenance-report": (maintenance_report, 0.20),
    "work-instruction": (work_instruction, 0.15),
    "safety-notice": (safety_notice, 0.10),
    "business-mail": (business_mail, 0.15),
    "robot-instruction": (robot_instruction, 0.15),
    "service-dialogue": (service_dialogue, 0.08),
    "minutes": (minutes, 0.09),
    "plain": (prose, 0.08),
}


def compose_document(rng: Random) -> tuple[str, str, str]:
    """(register, title, text)."""
    names = list(KINDS)
    [register] = rng.choices(names, [KINDS[name][1] for name in names])
    title, text = KINDS[register][0](rng)
    return register, title, text
