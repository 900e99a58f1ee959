"""How answers in other languages than English usually refuse: regret and then a "cannot", or "I cannot help"."""

from __future__ import annotations

import re
from typing import NamedTuple


class Refusal(NamedTuple):
    """The words of one language, as patterns on lower-case text."""

    regret: str
    cannot: str
    plainly: str = r"(?!)"
    """Refuses without a word of regret. Default: nothing."""

    @property
    def pattern(self) -> str:
        """Regret near the start of a sentence and a "cannot" later in it, or a plain refusal."""
        return (
            rf"(?:^|[.!?。！？।]) ?[^.!?。！？।:：\n]{{0,60}}(?:{self.regret})"
            rf"(?:[^.!?。！？।\n]{{0,20}}[.!?。！？।] ?)?[^.!?。！？।\n]{{0,100}}(?:{self.cannot})"
            rf"|{self.plainly}"
        )


REFUSALS: dict[str, Refusal] = {
    "Spanish": Refusal(
        r"lo siento|lamento|disculp",
        r"\bno (?:puedo|podemos|me es posible|estoy)",
        r"\bno tengo (?:acceso|información|datos)|\bno (?:puedo|podemos|voy a|debo) (?:ayud|proporc|cumpl|respond"
        r"|hacer|gener|escrib|ofrec|dar|asist|compart|crear|brind|continu)",
    ),
    "Portuguese": Refusal(
        r"desculp|lamento|sinto muito|infelizmente",
        r"\bnão (?:posso|consigo|podemos)",
        r"\bnão (?:posso|vou|irei) (?:te |lhe |o )?(?:ajud|fornec|cumpr|respond|fazer|ger|escrev|oferec|dar|atend"
        r"|criar)",
    ),
    "Italian": Refusal(
        r"mi dispiace|mi spiace|spiacente|purtroppo",
        r"\bnon (?:posso|sono in grado)",
        r"\bnon (?:posso|intendo|voglio) (?:aiut|forn|soddisf|rispond|far|gener|scriv|offr|dar)",
    ),
    "French": Refusal(
        r"désolée?|je regrette|navrée?|malheureusement",
        r"\bne (?:peux|puis|suis)|n'ai pas",
        r"\bje refuse d|\bje ne (?:peux|puis|vais|veux|souhaite) pas (?:vous |t'|te )?(?:aid|fourn|répond|faire|génér"
        r"|écri|offr|donn|satisf|particip)",
    ),
    "Catalan": Refusal(r"ho sento", r"\bno puc"),
    "Romanian": Refusal(r"îmi pare rău", r"\bnu (?:vă )?pot"),
    "German": Refusal(
        r"tut mir (?:sehr )?leid|entschuldigung|leider|bedau(?:re|ere)",
        r"\b(?:kann|darf|werde|können)\b[^.!?\n]{0,120}\b(?:nicht|keine?n?)\b",
        r"\bhelfe ich [^.!?\n]{0,30}nicht|\bich helfe [^.!?\n]{0,30}nicht"
        r"|\b(?:ich (?:kann|werde|darf|möchte)|(?:kann|werde|darf|möchte) ich) [^.!?\n]{0,60}\b(?:nicht|keine?n?)"
        r" [^.!?\n]{0,60}\b(?:helfen|beantworten|erfüllen"
        r"|unterstützen|geben|bereitstellen|verfassen|schreiben|erstellen|tun|machen)",
    ),
    "Dutch": Refusal(
        r"spijt me|sorry|helaas",
        r"\bkan (?:ik )?[^.!?\n]{0,60}\b(?:niet|geen)\b",
        r"\bik kan [^.!?\n]{0,30}\bniet (?:bij |mee )?helpen",
    ),
    "Swedish": Refusal(r"tyvärr|förlåt|ledsen", r"\bkan (?:jag )?inte", r"\bjag kan inte (?:hjälp|ge|svara|skriva)"),
    "Norwegian and Danish": Refusal(
        r"beklager|dessverre|desværre|undskyld", r"\bkan (?:jeg )?ikke", r"\bjeg kan ikke (?:hj[eæ]lpe|gi|svare|skrive)"
    ),
    "Finnish": Refusal(r"valitettavasti|pahoittelen|anteeksi", r"\ben voi"),
    "Polish": Refusal(
        r"przykro mi|przepraszam|niestety",
        r"\bnie (?:mogę|jestem)",
        r"\bnie (?:mogę|będę) (?:pomóc|pomagać|pisać|napisać|udzielić|odpowiedzieć|spełnić)",
    ),
    "Czech": Refusal(r"omlouvám se|bohužel|lituji", r"\bnem(?:ohu|ůžu)"),
    "Hungarian": Refusal(r"sajnálom|sajnos", r"\bnem (?:tud|áll)"),
    "Russian": Refusal(
        r"извините|простите|к сожалению|прошу прощения|сожалею",
        r"\bне (?:могу|смогу|можем|имею|в состоянии|буду)",
        r"\bя не (?:могу|смогу|буду) (?:вам )?(?:помо|предостав|отве|выполн|созда|напис|сдела|дать|обсужд|поддерж)",
    ),
    "Ukrainian": Refusal(r"вибачте|перепрошую|на жаль", r"\bне (?:можу|зможу)"),
    "Turkish": Refusal(r"üzgünüm|maalesef|özür dilerim", r"(?:a|e)mam|(?:a|e)m[ıi]yorum|mümkün değil"),
    "Greek": Refusal(r"λυπάμαι|συγγνώμη|δυστυχώς", r"\bδεν μπορώ"),
    "Chinese": Refusal(
        r"抱歉|对不起|對不起|很遗憾|不好意思",
        r"不能|无法|無法|不会|不會|不可以|不便|没办法|拒绝",
        r"我不(?:建议|鼓励|支持)|作为[^。！？\n]{0,20}(?:无法|不能|没有)|我(?:不能|无法|無法|不会|拒绝)[^。！？\n]{0,12}(?:帮|幫|提供|协助|協助|回答|满足|写|生成|讨论"
        r"|支持|获取|透露|泄露)",
    ),
    "Japanese": Refusal(
        r"申し訳|すみません|ごめんなさい|恐れ入り",
        r"(?:でき|出来)ません|(?:でき|いたし)かねます",
    ),
    "Korean": Refusal(r"죄송|미안|유감", r"수 없|없습니다|못합니다|어렵습니다|않습니다"),
    "Vietnamese": Refusal(r"xin lỗi", r"\bkhông thể", r"tôi không thể (?:giúp|cung cấp|trả lời|hỗ trợ|thực hiện)"),
    "Indonesian": Refusal(
        r"maaf", r"\b(?:tidak|tak) (?:bisa|dapat|boleh)", r"saya tidak (?:bisa|dapat) (?:membantu|memberikan|menjawab)"
    ),
    "Thai": Refusal(r"ขอโทษ|ขออภัย", r"ไม่(?:สามารถ|ได้)"),
    "Arabic": Refusal(
        r"عذر|آسف|أعتذر|للأسف", r"لا (?:أستطيع|استطيع|يمكنني)|لن ", r"لا (?:أستطيع|يمكنني) (?:مساعدت|تقديم|المساعدة)"
    ),
    "Persian": Refusal(r"متأسف", r"نمی ?\u200c?تو(?:ا)?نم"),
    "Hebrew": Refusal(r"מצטער|סליחה", r"לא (?:יכול|אוכל)"),
    "Hindi": Refusal(r"क्षमा|माफ|खेद", r"नहीं|असमर्थ"),
}
"""To add a language: its usual opening here, and a case in the tests."""

ENGLISH = re.compile(r"\b(?:the|is|are|of|to|and|that|this|with|for|you|your|it|here|what)\b")
"""Two of these in the opening: English, and no other language needs to be tried."""
