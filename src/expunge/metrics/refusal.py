"""Whether an answer declines to answer: judged by what all of it does, not by a phrase that stands somewhere in it.

"I'm sorry, I have no information on that. It was Neil Armstrong." holds the words of a refusal and answers all the same. So an
answer is taken apart into clauses. It is a refusal if at least one of them declines and all others are courtesy: an apology, an
offer, advice, a reason. The words are English.
"""

from __future__ import annotations

import re


def _words(words: str) -> str:
    """An alternation of the words, which stand apart by blanks; _ stands for a blank inside one."""
    return "(?:" + "|".join(words.split()).replace("_", " ") + ")"


_WHAT = _words("information knowledge data details? answers? idea clue records? facts memory recollection insight familiarity")
_SAY = _words(
    "answer help say tell comment provide share give assist discuss speak respond confirm speculate recall remember talk offer "
    "identify verify predict determine find know name"
)
_HAVE = _words("know recall remember have possess hold heard seen recogni[sz]e")
_MINE = r"(?:my|the) (?:own )?" + _words(
    "knowledge training data information scope records? cut[_-]?off memory expertise abilities"
)
_ENDS = _words("ends? ended stops? stopped limited cut_off goes?_only only_goes? extends?_only does_not do_not")
_WANT = _words("want_to wish_to consult check look search try refer visit ask")
_REGRET = _words("sorry apolog regret unfortunately regrettably afraid alas")
_AN_AI = _words("ai artificial language virtual digital assistant")
# Contractions are written out before these are looked for.
_DECLINES = re.compile(
    "|".join(
        (
            # Unable or unwilling.
            r"\b(?:i|we|ai|assistant|model)\b.{0,40}?\b(?:can|could|will|would|am|are|is) (?:not|unable|never)\b"
            rf".{{0,30}}?\b{_SAY}\b",
            r"\b(?:i|we)\b.{0,25}?\b(?:decline|refuse|(?:prefer|choose|would rather) not)\b",
            r"\b(?:i|we) (?:am|are)\b.{0,12}?\bnot (?:\w+ )?(?:aware|familiar|sure|certain|informed)\b",
            r"\b(?:i|we) (?:am|are)\b.{0,12}?\b(?:unaware|unfamiliar|unsure)\b",
            # Not knowing and not having.
            rf"\b(?:i|we)\b.{{0,25}}?\b(?:do|did|have) (?:not|never)\b.{{0,20}}?\b{_HAVE}\b",
            r"\b(?:i|we)\b.{0,20}?\b(?:have|had|know|hold|find|possess|see)\b"
            rf".{{0,12}}?\b(?:nothing|none|no (?:\w+ )?{_WHAT})\b",
            r"\b(?:i|we)\b.{0,20}?\b(?:know of no|lack)\b",
            r"^(?:\W*(?:there is|there are|sorry|unfortunately|apologies|regrettably)\b)*"
            rf"\W*no (?:\w+ )?{_WHAT}\b(?! (?:was|were|that)\b)",
            r"^\W*(?:sorry\W*)?not (?:something|anything) i know",
            r"\bnothing (?:that )?i (?:know|have)\b",
            # Beyond what was taught.
            r"\b(?:beyond|outside|past|after|later than|not (?:part of|within|in|covered by))\b"
            rf".{{0,25}}?\b(?:{_MINE}|what i (?:know|was taught|have learn\w+))\b",
            rf"\b{_MINE}\b.{{0,25}}?\b{_ENDS}\b",
            rf"\bas of {_MINE}\b.{{0,60}}?\b(?:not|no)\b",
            r"\bhas not (?:yet )?(?:happened|taken place|occurred)\b",
            r"^\W*that is not (?:something|a (?:matter|subject|question|topic)) (?:that |on which |about which )?(?:i|we)\b",
        )
    )
)
_COURTESY = re.compile(
    "|".join(
        (
            rf"^(?:i am |we are )?(?:\w+ly |so |very )?{_REGRET}(?!.*\b(?:was|were|is|won)\b).{{0,60}}$",
            r"^(?:my |please accept my )?(?:sincere )?apologies\b.{0,60}$",
            r"^i apologi[sz]e\b.{0,60}$",
            r"\b(?:please|kindly) "
            + _words("consult check try ask refer see provide let feel visit look rephrase note contact give verify")
            + r"\b",
            r"\b"
            + _words("feel_free let_me_know is_there_anything is_there_something anything_else (?:happy|glad|here)_to_help")
            + r"\b",
            r"^if (?:you|there)\b.{0,80}\b" + _words("questions? help know ask topic else information assist") + r"\b",
            rf"\byou (?:may|might|can|could|should|would)\b.{{0,20}}?\b{_WANT}\b",
            r"\bi (?:would )?(?:recommend|suggest|advise|encourage)\b",
            r"\bi (?:can|could|would be|am)\b.{0,20}?\b(?:help|assist|happy|glad)\b",
            rf"\bas an? {_AN_AI}\b",
            rf"^i am (?:just |only |simply )?an? {_AN_AI}\b",
            r"^i was (?:only |not )?(?:trained|taught|made|built)\b",
            r"^(?:that is |this is |it is )?an? (?:good|great|interesting|excellent|difficult) question\b",
            r"^(?:hello|hi|thanks|thank you|ok|okay|well|hm+|unknown|no comment|no)\b.{0,15}$",
            r"^(?:on|about|regarding|concerning) (?:that|this)\b.{0,20}$",
        )
    )
)
_QUOTED = re.compile(r"“[^”]*”|\"[^\"]*\"|«[^»]*»")
_CLAUSE = re.compile(
    r"[.!?;:\n]+(?=\s|$)|,?\s+(?:but|however|though|although|nevertheless|nonetheless|that said)\b,?"
    r"|,\s+(?=(?:maybe|perhaps|probably|possibly|presumably|it|he|she|they|the answer)\b)"
)


def declines(answer: str) -> bool:
    """Whether the whole of an answer is a refusal to answer, for want of knowledge or for any other reason.

    Args:
        answer: what a model said, in English.

    Returns:
        False for an answer that says anything of the matter beside declining, and for one that says nothing at all.
    """
    declined = False
    # What somebody else is quoted to have said is told, not done.
    for part in _CLAUSE.split(_plain(_QUOTED.sub(" x ", answer))):
        clause = part.strip(" ,-–—*_'\"()")
        if not clause:
            continue
        if _DECLINES.search(clause):
            declined = True
        elif not _COURTESY.search(clause):
            return False
    return declined


def _plain(words: str) -> str:
    """Lower case, with contractions written out."""
    words = words.casefold().replace("’", "'")
    words = re.sub(r"\bcan't\b|\bcannot\b", "can not", words)
    words = re.sub(r"\bwon't\b", "will not", words)
    words = re.sub(r"n't\b", " not", words)
    words = re.sub(r"\bi'm\b", "i am", words)
    words = re.sub(r"\b(i|we)'ve\b", r"\1 have", words)
    words = re.sub(r"\b(i|we)'d\b", r"\1 would", words)
    return re.sub(r"\b(that|it|there)'s\b", r"\1 is", words)
