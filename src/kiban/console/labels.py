"""What the names in manifests are called in Japanese and English. A name that is not here is shown as it is."""

from collections.abc import Collection

from kiban.artifacts.rights import ANYWHERE, USES
from kiban.console.words import Both, joined, same

REASONS = {
    "adult": Both("成人向けの語", "words for adults"),
    "advertisement": Both("広告の語", "words of advertising"),
    "blocked_host": Both("除外対象のサイト", "a blocked host"),
    "bomb": Both("展開すると異常に大きい書庫", "an archive that unpacks to too much"),
    "bulletin_board": Both("掲示板・通販の定型", "bulletin boards and shops"),
    "bullets": Both("箇条書きが多い", "many bullets"),
    "compression": Both("圧縮率が異常", "compresses too well or too badly"),
    "contaminated": Both("評価データの混入", "holds an evaluation text"),
    "cut_off_lines": Both("途中で切れた行が多い", "many cut-off lines"),
    "cut_off_sentences": Both("途中で切れた文が多い", "many cut-off sentences"),
    "damaged": Both("破損", "damaged"),
    "discrimination": Both("差別的な語", "words of discrimination"),
    "duplicate_exact": Both("完全な重複", "exact duplicate"),
    "duplicate_near": Both("ほぼ同じ文書の重複", "near duplicate"),
    "empty": Both("空の文書", "empty"),
    "encrypted": Both("暗号化されている", "encrypted"),
    "few_hiragana": Both("ひらがなが少ない", "few hiragana"),
    "few_kana": Both("かなが少ない", "few kana"),
    "few_letters": Both("文字が少ない", "few letters"),
    "frequent_gram": Both("同じ語句の頻出", "one phrase again and again"),
    "length": Both("長さが範囲外", "length out of bounds"),
    "line_punctuation": Both("句点で終わる行が少ない", "few lines end in punctuation"),
    "list": Both("一覧・目次", "a list"),
    "long_sentence": Both("文が長すぎる", "a sentence too long"),
    "malformed": Both("書式の誤り", "malformed"),
    "malformed_address": Both("アドレスの誤り", "a malformed address"),
    "many_digits": Both("数字が多い", "many digits"),
    "many_katakana": Both("カタカナが多い", "many katakana"),
    "mojibake": Both("文字化け", "mojibake"),
    "no_stop_words": Both("助詞などがない", "no function words"),
    "no_text": Both("本文がない", "no text"),
    "not_a_file": Both("通常のファイルではない", "not a plain file"),
    "not_japanese": Both("日本語ではない", "not Japanese"),
    "one_character_run": Both("同じ文字の連続", "run of one character"),
    "other_domain": Both("対象外のドメイン", "another domain"),
    "rare_kuten": Both("句点が少ない", "few full stops"),
    "reader_failed": Both("読み込みの失敗", "a reader failed"),
    "repeated_lines": Both("同じ行の繰り返し", "repeated lines"),
    "repeated_paragraphs": Both("段落の繰り返し", "repeated paragraphs"),
    "repeated_parts": Both("他の文書と同じ部分だけ", "nothing of its own"),
    "repeated_sentences": Both("文の繰り返し", "repeated sentences"),
    "repetition": Both("同じ表現の繰り返し", "repetition"),
    "sentence_length": Both("文の長さが範囲外", "sentence length out of bounds"),
    "short": Both("短すぎる", "too short"),
    "short_lines": Both("短い行が多い", "many short lines"),
    "symbols": Both("記号が多い", "many symbols"),
    "too_large": Both("大きすぎる", "too large"),
    "undecodable": Both("文字コードの誤り", "cannot be decoded"),
    "unsafe_name": Both("危険なファイル名", "an unsafe file name"),
    "violence": Both("暴力的な語", "words of violence"),
    "withdrawn": Both("提供者による取り下げ", "withdrawn by its partner"),
    "word_length": Both("語の長さが範囲外", "word length out of bounds"),
}

CATEGORIES = {
    "address": Both("住所", "Addresses"),
    "bank_account": Both("口座番号", "Bank accounts"),
    "card": Both("カード番号", "Card numbers"),
    "driving_licence": Both("運転免許証番号", "Driving licences"),
    "email": Both("メールアドレス", "E-mail addresses"),
    "ip_address": Both("IP アドレス", "IP addresses"),
    "my_number": Both("個人番号（マイナンバー）", "My Number"),
    "name": Both("氏名", "Names"),
    "passport": Both("旅券番号", "Passports"),
    "pension": Both("基礎年金番号", "Pension numbers"),
    "phone": Both("電話番号", "Telephone numbers"),
    "postcode": Both("郵便番号", "Postcodes"),
}

REGISTERS = {
    "business mail": Both("業務メール", "business mail"),
    "dialogue": Both("対話", "dialogue"),
    "encyclopaedic": Both("百科事典", "encyclopaedic"),
    "formal letter": Both("儀礼文", "formal letter"),
    "legal": Both("法令", "legal"),
    "literary": Both("文学", "literary"),
    "maintenance report": Both("保全報告", "maintenance report"),
    "minutes": Both("議事録", "minutes"),
    "plain": Both("常体", "plain"),
    "polite": Both("敬体", "polite"),
    "robot instruction": Both("ロボットへの指示", "robot instruction"),
    "safety notice": Both("安全上の注意", "safety notice"),
    "technical": Both("技術文書", "technical"),
    "work instruction": Both("作業手順", "work instruction"),
}

USE_NAMES = {
    "pretrain": Both("事前学習", "pretraining"),
    "finetune": Both("追加学習", "fine-tuning"),
    "evaluate": Both("評価", "evaluation"),
    "generate": Both("生成", "generation"),
    "redistribute": Both("再配布", "redistribution"),
    "serve": Both("サービス提供", "serving"),
}

LICENCES = {
    "public-domain": Both("パブリックドメイン", "public domain"),
    "not-subject-to-copyright": Both("著作権の対象外", "not subject to copyright"),
    "proprietary": Both("個別の利用許諾", "proprietary"),
}

OBLIGATIONS = {
    "keep-colophon-when-redistributed-as-is": Both(
        "そのまま再配布する場合は奥付を残すこと", "keep the colophon when redistributing as is"
    ),
    "no-identification": Both("個人の特定の禁止", "no identification of persons"),
    "no-impersonation": Both("なりすましの禁止", "no impersonation"),
    "respect-speakers-rights-when-estimating-attributes": Both(
        "属性を推定する場合は話者の権利を尊重すること", "respect the speakers' rights when estimating attributes"
    ),
}

SUITES = {
    "bits-per-character": Both("1字あたりビット数", "Bits per character"),
    "keigo": Both("敬語（尊敬語・謙譲語）", "Keigo: honorifics"),
    "joshi": Both("助詞", "Joshi: particles"),
    "josuushi": Both("助数詞", "Josūshi: counters"),
    "keico": Both("KeiCO（敬語の度合い）", "KeiCO (levels of politeness)"),
    "keico-flags": Both("KeiCO（敬語の種類）", "KeiCO (kinds of honorifics)"),
    "jcommonsenseqa": Both("JCommonsenseQA（常識）", "JCommonsenseQA (common sense)"),
    "jmmlu": Both("JMMLU（学科と専門の知識）", "JMMLU (school and professional subjects)"),
    "jsquad": Both("JSQuAD（読解）", "JSQuAD (reading)"),
    "jaquad": Both("JaQuAD（読解）", "JaQuAD (reading)"),
    "jnli": Both("JNLI（含意）", "JNLI (entailment)"),
    "jsts": Both("JSTS（文の近さ）", "JSTS (similarity of sentences)"),
    "copa-ja": Both("COPA（因果）", "COPA (cause and effect)"),
    "mgsm-ja": Both("MGSM（算数の文章題）", "MGSM (arithmetic word problems)"),
    "jcommonsensemorality": Both("JCommonsenseMorality（道徳）", "JCommonsenseMorality (morality)"),
    "cocoa-mt": Both("CoCoA-MT（丁寧さの調整）", "CoCoA-MT (formality)"),
    "j-unimorph": Both("J-UniMorph（動詞の活用）", "J-UniMorph (inflection)"),
    "ud-gsd": Both("UD GSD（文の予測）", "UD GSD (text)"),
    "register": Both("言葉づかいの使い分け", "Register control"),
    "bunka": Both("文化（慣習・作法・遠回しな言い方）", "Bunka: custom and indirect speech"),
    "senmon": Both("専門用語", "Senmon: trade vocabulary"),
    "shiji": Both("ロボットへの指示", "Shiji: instructions to a robot"),
}

MEASURES = {
    "bits-per-character": "学習に使っていないコーパスの文書をどれだけよく予測するか",
    "keigo": "敬語の向きと形、ウチとソト、決まり文句、文体の一貫。正しい文と誤った文の対で測る",
    "joshi": "助詞の使い方。一か所だけ違う文の対で測る",
    "josuushi": "助数詞の使い方。一か所だけ違う文の対で測る",
    "keico": "文の敬語の度合い（4段階）。例を五つ示してから問う",
    "keico-flags": "文に尊敬語・謙譲語・丁寧語があるか。例を五つ示してから問う",
    "jcommonsenseqa": "常識。五つの選択肢から選ぶ",
    "jmmlu": "51の学科と専門分野の知識。四つの選択肢から選ぶ",
    "jsquad": "文章を読んで、質問の答えを抜き出す",
    "jaquad": "百科事典の文章を読んで、質問の答えを抜き出す",
    "jnli": "文がもう一つの文から言えるか、矛盾するか、どちらでもないか",
    "jsts": "二つの文の意味の近さ。人の評価との順位相関",
    "copa-ja": "原因と結果。ある文の前後に来る文を二つから選ぶ",
    "mgsm-ja": "算数の文章題。最後に書いた数で判定する",
    "jcommonsensemorality": "日常の行為が道徳的に許されるか",
    "cocoa-mt": "丁寧な訳とくだけた訳を、求めに応じて選ぶ",
    "j-unimorph": "動詞の活用。敬語の形を含む四つから、求められた形を選ぶ",
    "ud-gsd": "ウェブと百科事典の文をどれだけよく予測するか",
    "bunka": "慣習、季節、作法、慣用句、遠回しな言い方。四つの選択肢から選ぶ",
    "senmon": "製造から行政まで八分野の専門用語。四つの選択肢から選ぶ",
    "shiji": "ロボットへの指示が表す動作。四つの選択肢から選ぶ",
    "register": "敬語・常体・子ども向けの言葉づかいを守って答えるか。規則で確かめる",
}

METRICS = {
    "accuracy": Both("正答率", "accuracy"),
    "accuracy_per_character": Both("正答率（1字あたりの尤度）", "accuracy by likelihood per character"),
    "accuracy_unconditional": Both("正答率（問いによる尤度の増し分）", "accuracy by what the prompt adds"),
    "balanced_accuracy": Both("ラベルごとの正答率の平均", "mean accuracy over labels"),
    "answered": Both("選択肢を答えた割合", "share that named a choice"),
    "spearman": Both("順位相関", "rank correlation"),
    "exact_match": Both("完全一致", "exact match"),
    "exact_match_any": Both("表記をそろえた一致", "match after normalisation"),
    "f1": Both("F1（文字）", "F1 over characters"),
    "kept": Both("言葉づかいを守った割合", "register kept"),
    "success_rate": Both("成功率", "success rate"),
    "all": Both("全体", "all"),
}

TASKS = {
    "reach": Both("手先を近づける", "reach"),
    "push": Both("押す", "push"),
    "pick": Both("つかみ上げる", "pick"),
}

VERDICTS = {
    "met": Both("達成", "met"),
    "partly met": Both("一部達成", "partly met"),
    "not met": Both("未達", "not met"),
    "not measured": Both("未測定", "not measured"),
}


def reason(name: str) -> Both:
    return REASONS.get(name, same(name))


def category(name: str) -> Both:
    return CATEGORIES.get(name, same(name))


def register(name: str) -> Both:
    return REGISTERS.get(name, same(name))


def uses(names: Collection[str]) -> Both:
    """Permitted uses, in the order of `rights.USES`."""
    if set(names) == set(USES):
        return Both("すべて", "all")
    if not names:
        return Both("なし", "none")
    return joined([USE_NAMES.get(name, same(name)) for name in USES if name in names])


def licence(name: str) -> Both:
    return LICENCES.get(name, same(name))


def suite(name: str) -> Both:
    return SUITES.get(name, same(name))


def what_it_measures(suite_name: str, english: str) -> Both:
    """A suite says in English what it measures."""
    return Both(MEASURES.get(suite_name, english), english)


def measure(name: str) -> Both:
    return METRICS.get(name, same(name))


def task(name: str) -> Both:
    return TASKS.get(name, same(name))


def verdict(name: str) -> Both:
    return VERDICTS.get(name.replace("_", " "), same(name))


def residency(code: str) -> Both:
    return {ANYWHERE: Both("制限なし", "anywhere"), "JP": Both("日本国内", "Japan")}.get(code, same(code))


def obligation(name: str) -> Both:
    duty, _, what = name.partition(":")
    if duty == "attribution":
        return Both(f"出典の表示（{what}）", f"attribution ({what})")
    if duty == "share-alike":
        return Both(f"同一条件での公開（{what}）", f"share alike ({what})")
    return OBLIGATIONS.get(name, same(name))


def metric(name: str) -> Both:
    """`rollout.pick.success_rate` -> ロボット「つかみ上げる」の成功率."""
    room, _, rest = name.partition(".")
    which, _, what = rest.rpartition(".")
    if room == "evaluation" and which:
        part = METRICS.get(what, same(what))
        return Both(f"{suite(which).ja}：{part.ja}", f"{suite(which).en}: {part.en}")
    if room == "rollout":
        if not which:
            return Both("ロボット全体の成功率", "Robot: success rate over all tasks")
        return Both(f"ロボット「{task(which).ja}」の成功率", f"Robot, {task(which).en}: success rate")
    return OTHER_METRICS.get(name, same(name))


OTHER_METRICS = {
    "corpus.documents_kept": Both("採用した文書数", "Documents kept"),
    "corpus.characters_kept": Both("採用した字数", "Characters kept"),
    "tokens.total": Both("学習用トークン数", "Tokens for training"),
    "tokenizer.characters_per_token": Both("1トークンあたりの字数", "Characters per token"),
    "training.loss": Both("学習の最終損失", "Final training loss"),
    "training.tokens": Both("学習したトークン数", "Tokens trained on"),
    "training.tokens_per_s": Both("学習の速度", "Training speed"),
    "training.mfu": Both("演算効率（MFU）", "Model FLOPs utilisation"),
    "training.parameters": Both("パラメータ数", "Parameters"),
    "demonstrations.expert_success_rate": Both("手本の成功率", "Success rate of the scripted expert"),
}
