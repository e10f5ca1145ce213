"""Which tier a request belongs to and what work it asks for, by rules over its words.

Used offline, and online where a model's own decision cannot be used; what is decided with a model
is processors.py's.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from minutehand_apps.chat.models import MOST_ITEMS, Item, Kind, Text
from minutehand_apps.chat.tables import find_data

Tier = Literal["instant", "standard", "async"]
LABELS: Final[dict[Kind, str]] = {
    "research": "Research",
    "summarise": "Summary",
    "compare": "Comparison",
    "draft": "Draft",
    "build": "Build",
}

#: Said of every direct answer, since a request in another language is one as well.
NO_WORK: Final = (
    "no deliverable was found in English, German, French, Spanish or Portuguese, which the rules"
    " read"
)
#: Where a part of a request begins and ends.
Place = tuple[int, int]


@dataclass(frozen=True)
class Classification:
    """A request's tier, the work it asks for in the order it names it, and why."""

    tier: Tier
    items: list[Item] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    @property
    def kinds(self) -> list[Kind]:
        """The kinds of its work."""
        return [item.kind for item in self.items]


# Words, without accents and in lower case: German, French, Spanish and Portuguese with English.

_POLITE: Final = (
    r"(?:can|could|would|will) you(?: please)?|(?:koennten|konnten|konnen|wuerden|wurden) sie"
    r"|(?:kannst|konntest|wurdest) du|(?:peux|pourrais)[- ]tu|(?:pouvez|pourriez)[- ]vous"
    r"|(?:tu )?(?:puedes|podrias)|(?:usted )?(?:puede|podria)"
    r"|(?:tu |voce )?(?:podes|pode|poderia|podias)|est-ce que tu peux"
)
_WISH: Final = (
    r"i(?:'d| would) (?:like|love)(?: you)?(?: to)?|i (?:need|want)(?: you)?(?: to)?"
    r"|we (?:need|want)(?: you)?(?: to)?|let(?:'s| us)|ich (?:mochte|brauche|hatte gern)"
    r"|ich will|wir brauchen|j'ai besoin d(?:e |'|')|je (?:veux|voudrais)|il me faut|nous voulons"
    r"|(?:yo )?(?:necesito|quiero|quisiera|me gustaria)(?: que)?"
    r"|(?:eu )?(?:preciso de|quero|queria|gostaria de)(?: que)?|help me(?: to)?"
)
_FILLER: Final = (
    r"please|now|then|also|but|just|next|finally|afterwards|go ahead and|so|aber|sondern|mais"
    r"|pero|mas|well|ok(?:ay)?|hey|hi"
    r"|hello|instead|simply|first|bitte|nun|jetzt|dann|danach|auch|nur|mal|zuerst|und|and|et|y|e"
    r"|s'il (?:te|vous) plait|ensuite|puis|maintenant|d'abord|por favor|luego|despues|ahora|primero"
    r"|depois|agora|tambem|tambien|aussi|entao|bonjour|hola|ola|hallo"
)
_LEAD: Final = re.compile(rf"^\W*(?:(?:{_FILLER})\b[\s,]*)+")
_POLITE_LEAD: Final = re.compile(rf"^\W*(?:{_POLITE})\b\s*")
_WISH_LEAD: Final = re.compile(rf"^\W*(?:{_WISH})\b\s*")

_QUESTION: Final = re.compile(
    r"^\W*(?:(?:what|who|whom|whose|when|where|why|which|how|is|are|was|were|am|does|did|do you"
    r"|do we"
    r"|do i|has|have|had|should|shall|may|might|must)(?:'s|'re)?"
    r"|was|wer|wen|wem|wann|wo|warum|wieso|welche[rsmn]?|wie|ist|sind|hat|hast|haben|soll|muss|darf"
    r"|qu'est-ce|que |qui|quoi|quand|ou est|pourquoi|comment|quel(?:le)?s?|combien|est-ce que"
    r" (?!tu peux)"
    r"|por que|quien(?:es)?|cuando|donde|como|cual(?:es)?|cuant[oa]s?|o que|quem|quando|onde|porque"
    r"|qual|quais|quant[oa]s?)\b"
)
_NEGATION: Final = re.compile(
    r"\b(?:don't|do not|doesn't|does not|didn't|did not|dont|won't|not|never|no need|no|without"
    r"|instead of|rather than|already|stop|nicht|nichts|kein\w*|ohne|statt|nie|schon"
    r"|ne|n'|pas|rien|sans|au lieu|jamais|deja|nada|sin|en vez|nunca|ya|nao|sem|em vez|ja)(?:\b"
    r"|(?<='))"
)
#: Where the verb comes first, what denies it follows at once: "recherchiere nichts".
_AFTER_VERB: Final = re.compile(
    r"^\W*(?:no|not|without|ohne|sin|sem|sans)\b|^\W*[\w'-]+\s+(?:\w+\s+)?"
    r"(?:nothing|nicht|nichts|kein\w*|rien|pas|nada)\b"
)
_QUOTED: Final = re.compile(r"\"[^\"]*\"|“[^”]*”|„[^“”]*[“”]|«[^»]*»|‹[^›]*›|`[^`]*`")
_SENTENCE: Final = re.compile(r"(?<=[.!?;])\s+|\n+")
_CLAUSE: Final = re.compile(
    r"\s*[,:]\s+|\s+(?:but|just|only|rather|sondern|aber|lieber|mais|plutot|pero|sino|solo|mas|so)\s+"
)
_JOINED: Final = re.compile(r"\s+(?:and|then|und|dann|et|puis|y|luego|e|depois|as well as|&|\+)\s+")

#: Two words that are one thing are not taken apart.
_PAIR: Final = re.compile(
    r"(?:pros and cons|advantages and disadvantages|vor- und nachteile|avantages et (?:les"
    r" )?inconv.nients"
    r"|pros y contras|ventajas y desventajas|pr.s e contras|vantagens e desvantagens)",
    re.IGNORECASE,
)

_RESEARCH_VERB: Final = (
    r"research|investigate|look into|find out|dig into|dig up|explore|analy[sz]e|study|examine"
    r"|gather|collect|survey|deep[- ]dive into"
    r"|recherchier\w*|untersuch\w*|analysier\w*|erforsch\w*|ermittle?\w*|sammle?\w*"
    r"|(?:find|finde)\b.*\bheraus|herausfinden|informiere dich"
    r"|recherche[rz]?|cherche[rz]?|enquete[rz]?|renseigne[rz]?(?:-toi|-vous)?|analyse[rz]?|etudie[rz]?"
    r"|trouve[rz]?|explore[rz]?|documente[rz]?-(?:toi|vous)|rassemble[rz]?"
    r"|investig(?:a|ue|ar|ad)|averigu(?:a|e|ar)|indaga(?:r)?|analiza(?:r)?|analice|estudia(?:r)?"
    r"|busca(?:r)?|busque|explora(?:r)?|recopila(?:r)?"
    r"|pesquis(?:a|e|ar)|descobr(?:e|ir)|descubra|procur(?:a|e|ar)|analis(?:a|e|ar)|estud(?:a|e|ar)"
    r"|reun(?:e|a|ir)"
)
_RESEARCH_NOUN: Final = (
    r"research|investigation|deep dive|study|analysis|recherchen?|untersuchung|analyse"
    r"|recherches?|enquete|etude|investigacion|estudio|analisis|pesquisa|investigacao|analise"
)
#: What may also be asked in passing ("collect my parcel") is research of information alone.
_WEAK_RESEARCH: Final = re.compile(
    r"^(?:gather|collect|sammle?\w*|trouve[rz]?|cherche[rz]?|busca(?:r)?|busque|procur(?:a|e|ar)"
    r"|reun(?:e|a|ir)|rassemble[rz]?|recopila(?:r)?|explore[rz]?|study|explora(?:r)?)\b"
    r"(?!.*\b(?:info\w*|sources?|data|facts?|evidence|literature|options?|dat(?:en|os|a)|fakten"
    r"|quellen|donnees|faits|fuentes|hechos|dados|fontes|factos|fatos|options)\b)"
)
_COMPARE: Final = (
    r"compare[rz]?|contrast|weigh|vergleich\w*|stelle?n?\b.*\bgegenuber|gegenuberstellen|wage?\b.*\bab"
    r"|mets?\b.*\ben regard|confronte[rz]?|compara(?:r)?|contrasta(?:r)?|coteja(?:r)?|compare"
)
_COMPARISON: Final = (
    r"(?:comparison|comparative|vergleich|gegenuberstellung|comparaison|comparacion|comparativa"
    r"|comparacao|comparativo)\b|pros-(?:and|y|e)-con\w+|advantages-and-dis|vor--und-nachteile"
    r"|avantages-et-|ventajas-y-des|vantagens-e-des"
)
_SUMMARISE: Final = (
    r"summari[sz]e|sum up|recap|condense|tl;?dr|fasse?\b.*\bzusammen|zusammenfass\w*"
    r"|resume[rz]?|fais\b.*\bresume|synthetise[rz]?|resum(?:e|a|ir|an)|sintetiza(?:r)?"
)
_SUMMARY: Final = r"summary|zusammenfassung|resume de|synthese|resumen|resumo"
_MAKE: Final = (
    r"build|make|create|generate|draw|design|produce|put together|set up|show|display|give me|turn"
    r"|convert|prepare|render|lay out|present|write|develop"
    r"|baue?n?|erstelle?n?|mache?n?|zeichne\w*|zeige?n?|generier\w*|gestalte\w*|entwickle?\w*"
    r"|stelle?n?|verwandle?\w*|gib mir|schreibe?n?"
    r"|construi[st]\w*|construire|cree[rz]?|fai[st]|faire|faites|dessine[rz]?|montre[rz]?|genere[rz]?"
    r"|affiche[rz]?|prepare[rz]?|transforme[rz]?|donne[rz]?(?:-moi)?|realise[rz]?"
    r"|cre(?:a|e|ar)|haz|hacer|haga|hazme|constru(?:ye|ya|ir)\w*|dibuja(?:r)?|genera(?:r)?|muestra(?:me)?"
    r"|elabora(?:r)?|dame|convierte|prepara(?:r)?|disena(?:r)?"
    r"|cri(?:a|e|ar)|faz|faca|fazer|constro[ie]\w*|construa|construir|desenh(?:a|e|ar)|ger(?:a|e|ar)"
    r"|mostr(?:a|e|ar)(?:-me)?|elabor(?:a|e|ar)|transform(?:a|e|ar)|prepar(?:a|e|ar)"
)
#: An English deliverable's name is one where its phrase ends: no more than "guide" names a guide
#: dog, "table" names table tennis.
_ALONE: Final = (
    r"\b(?=\W*$|\s*[^\w\s'-]|\s+\d|\s+(?:of|for|from|with|about|on|in|into|to|at|by|as|and|or|that|which"
    r"|who|so|if|but|when|because|please|now|today|out|over|between|against|per|like|where|whose"
    r"|showing|comparing|covering|explaining|using|asking|telling|thanking|saying|inviting|listing"
    r"|announcing|describing|plotting|including|containing|addressed|based|sorted|made|written"
    r"|template|page|view|draft|outline|version|format|form|design|copy|text"
    r"|an|fur|uber|mit|zu[mr]?|vo[nm]|aus|de[rsnm]|die|das|wegen|unsere[rs]?|meine[rs]?|nach|als|im|bei"
    r"|und|oder|de[l]?|du|aux?|pour|sur|avec|en|dans|et|ou|qu[ei]|d[ao]s?|par[ao]?|con|com|sobre|em|n[ao]"
    r"|por|y|e|o|a|ao)\b)"
)
_COUNT: Final = r"\d+|one|two|three|four|five|six|seven|eight|nine|ten|twelve|everyone"
#: What is to be made whatever stands beside it.
_CLEAR: Final = (
    r"dashboards?|timelines?|infographics?|scorecards?|one-pager|(?:mind |road)maps?|slide ?decks?"
    r"|histograms?|(?:bar|pie|line|gantt) ?charts?"
)
_CLEAR_ELSEWHERE: Final = (
    r"zeit(?:leiste|achse|strahl)|\w+diagramme?|tableaux? de bord|frises?|cuadro de mando"
    r"|lineas? de(?:l)? tiempo|linhas? do tempo"
)
ARTEFACT: Final = (
    r"(?:maps?|slides?|presentations?|(?:\w+ )?charts?|graphs?|plots?|diagrams?|web ?pages?"
    rf"|websites?|report page|tables?(?! for (?:{_COUNT})\b)|{_CLEAR}){_ALONE}|{_CLEAR_ELSEWHERE}"
    r"|folien|praesentation|prasentation|diapositiv\w+|presentacion|apresentacao|landkarte"
    r"|carte mentale|diagramme?|tabellen?|\w*grafik(?:en)?|webseite|ubersichtsseite|tableaux?"
    r"|graphiques?|diagrammes?|histogrammes?|chronologie|page web|panel|tablero|graficos?|graficas?"
    r"|tablas?|cronologia|diagramas?|pagina web|painel|paineis|tabelas?|cronograma"
)
#: Verbs that name what they build.
_PLOT: Final = (
    r"plot|chart|graph|visuali[sz]e|tabulate|visualisier\w*|visualise[rz]?|trace[rz]?"
    r"|visualiza(?:r)?|grafica(?:r)?|visualiz(?:a|e|ar)"
)
_DRAFT_VERB: Final = (
    r"draft|compose|entwirf|entwerfen|verfass\w*|formulier\w*|redige[rz]?|compose[rz]?"
    r"|redact(?:a|e|ar)|redij(?:a)|redig(?:e|ir)"
)
_WRITE: Final = (
    r"write(?: up)?|prepare|create|make|give me|put together|produce|schreibe?n?|erstelle?n?"
    r"|ecri(?:s|vez|re)|prepare[rz]?|fai[st]|escrib(?:e|a|ir)|prepara(?:r)?|haz(?:me)?|crea(?:r)?"
    r"|escrev(?:e|a|er)|prepar(?:a|e|ar)|faz|faca|cri(?:a|e|ar)|generate"
)
_DOCUMENT: Final = (
    r"(?:hand ?books?|white ?papers?|cheat ?sheets?|letters?|e-?mails?|reports?|articles?|posts?"
    r"|memos?|speech(?:es)?|proposals?|press releases?|essays?|complaints?|statements?|briefs?"
    r"|newsletters?|scripts?|stories|contracts?|specifications?|applications?|recommendation"
    rf"|invitations?|manuals?|guides?|documents?){_ALONE}|une? (?:article|document|guide)"
    r"|leitfaden|handbuch|manuel|manuales?|livre blanc"
    r"|\w*briefe?|berichte?n?|artikel|reden?|\w+mails|\w*schreiben|aufsatz|protokolle?|vorschlage?"
    r"|pressemitteilung|einladung|beitrag|vermerk|gutachten|konzept"
    r"|lettres?|courriels?|courriers?|rapports?|discours|memoires?|propositions?|communiques?|invitation"
    r"|cartas?|correos?|informes?|articulos?|discursos?|propuestas?|comunicados?|ensayos?|invitacion"
    r"|relatorios?|artigos?|propostas?|comunicados?|convites?|ensaios?|textos?|redacao"
)
_SMALL: Final = re.compile(
    r"\b(?:haiku|poem|limerick|joke|sentence|word|title|headline|name|slogan|tweet|rhyme|line|caption"
    r"|gedicht|witz|satz|titel|poeme|blague|phrase|titre|poema|chiste|frase|titulo|piada)s?\b"
)


def _rule(verbs: str, *, needs: str = "") -> re.Pattern[str]:
    """Verbs at the beginning, with a word among the next ones that says what they make."""
    return re.compile(rf"^(?:{verbs})(?!\w)" + (rf"(?=.*\b(?:{needs})\b)" if needs else ""))


_LIGHT: Final = (
    r"do|make|run|carry out|conduct|perform|start|give me|mache?n?|fuhre?n?|starte?n?"
    r"|fai[st](?:es)?"
    r"|faire|mene[rz]?|haz|hacer|haga|realiza(?:r)?|faz|faca|fazer"
)
#: In the order of their judgement: the first that fits a part of the request names its work.
_RULES: Final[list[tuple[Kind, re.Pattern[str]]]] = [
    ("compare", _rule(_COMPARE)),
    ("summarise", _rule(_SUMMARISE)),
    ("build", _rule(_PLOT)),
    ("draft", _rule(_DRAFT_VERB)),
    ("build", _rule(_MAKE, needs=ARTEFACT)),
    ("build", _rule("build", needs="reports?")),
    ("draft", _rule(_WRITE, needs=_DOCUMENT)),
    ("compare", re.compile(rf"^(?:{_LIGHT}|list|write|create|{_MAKE})\b.*\b(?:{_COMPARISON})")),
    ("summarise", re.compile(rf"^(?:{_LIGHT}|write|create|{_MAKE})\b.*\b(?:{_SUMMARY})\b")),
    ("research", re.compile(rf"^(?:{_LIGHT})\b.*\b(?:{_RESEARCH_NOUN})\b")),
    ("research", _rule(_RESEARCH_VERB)),
]
#: After "I need" and the like no verb is due: the thing itself is asked for.
_WISHED: Final[list[tuple[Kind, re.Pattern[str]]]] = [
    ("compare", re.compile(rf"\b(?:{_COMPARISON})")),
    ("build", re.compile(rf"^(?:\W*\w+){{0,4}}?\W*\b(?:{ARTEFACT})\b")),
    ("draft", re.compile(rf"^(?:\W*\w+){{0,4}}?\W*\b(?:{_DOCUMENT})\b")),
    ("summarise", re.compile(rf"^(?:\W*\w+){{0,3}}?\W*\b(?:{_SUMMARY})\b")),
    ("research", re.compile(rf"^(?:\W*\w+){{0,3}}?\W*\b(?:{_RESEARCH_NOUN})\b")),
]
#: German and polite requests put the verb last.
_LAST: Final[list[tuple[Kind, re.Pattern[str]]]] = [
    (
        "research",
        re.compile(r"\b(?:recherchieren|untersuchen|herausfinden|analysieren|erforschen)\W*$"),
    ),
    ("compare", re.compile(r"\b(?:vergleichen|gegenuberstellen)\W*$")),
    ("summarise", re.compile(r"\bzusammenfassen\W*$")),
    ("draft", re.compile(r"\b(?:entwerfen|verfassen|formulieren)\W*$")),
    ("build", re.compile(rf"\b(?:{ARTEFACT})\b.*\b(?:bauen|erstellen|machen|zeichnen|zeigen)\W*$")),
    ("draft", re.compile(rf"\b(?:{_DOCUMENT})\b.*\b(?:schreiben|erstellen)\W*$")),
]


#: A request that begins with the thing itself: "dashboard of sales", "a table of …".
_NAMED_FIRST: Final = re.compile(
    rf"^\W*(?:(?:\w+ ){{0,2}}(?:{_CLEAR}|{_CLEAR_ELSEWHERE})"
    rf"|(?:an?|eine?|une?|una|uma?) (?:\w+ ){{0,2}}(?:{ARTEFACT}))\s+"
    r"(?:of|for|from|with|about|on|showing|aus|von|mit|uber|fur|de|du|des|con|com|sobre|para)\b"
)
#: The same before data, where it needs no other sign.
_NAMED: Final = re.compile(rf"^\W*(?:\w+ ){{0,3}}(?:{ARTEFACT})\b")
#: Verbs that are nouns as well, and what tells: an object begins with one of these, or is measured.
_VERB_OR_NOUN: Final = re.compile(
    r"^(?:plot|chart|graph|trace[rz]?|grafica|draft|compose|survey|weigh|recap|resume)\b"
)
_OBJECT: Final = re.compile(
    r"^\w+\s+(?:\d|(?:the|an?|this|that|these|those|m[ey]|our|your|his|her|its?|their|them|us|both|all"
    r"|each|every|some|how|what|which|why|where|whether|l[ae]s?|une?|des|ce[st]?|cette|mon|mes|nos"
    r"|notre|votre|el|los|unas?|est[aeo]s?|mis?|[oa]s?|uma?|ess[ae]s?|meus?|minhas?|noss[ao]s?)\b|l')"
    rf"|.*\b(?:per|against|versus|vs|since|over time)\b|\w+\s+(?:{_DOCUMENT})|.*="
)
#: A question that says in which form the answer is to be given; "how do I … in a table" does not.
_IN_FORM: Final = re.compile(
    r"^\W*(?:what|who|which|how|where|when|why)\b(?!.*\b(?:i|you|one|to)\b).*"
    rf"\b(?:in|as) an? (?:\w+ ){{0,2}}(?P<what>{ARTEFACT}|{_DOCUMENT})\W*$"
)
#: A request for work on nothing: "Can you analyze?"
_NO_SUBJECT: Final = re.compile(r"^\W*(?:do |make |run |some |a )*[\w-]+\W*$")
_GREETING: Final = re.compile(
    r"\W*(?:hi|hello|hey|hallo|salut|bonjour|hola|ola|servus|moin"
    r"|good (?:morning|evening|night|day)|guten (?:morgen|tag|abend)"
    r"|buen[oa]s (?:dias|tardes|noches)"
    r"|bo[ma] (?:dia|tarde|noite)"
    r"|bye|goodbye|tschuss|au revoir|adios|ciao|tchau|ok(?:ay)?|cool|great|thanks?|thank you"
    r"|danke|vielen dank|merci|(?:muchas )?gracias|(?:muito )?obrigad[oa])"
    r"(?:[ ,!.]+(?:there|all|very much|so much|a lot|beaucoup|sehr|that helped|for .{1,40}))*\W*"
)
#: What one line answers: sums, units, the clock and the calendar. A model answers it without a
#: decision before; nothing here computes.
_ONE_LINE: Final = re.compile(
    r"[-\d\s+*/x×÷^%().,=]*\d\s*[-+*/x×÷^%]\s*[-\d\s+*/x×÷^%().,=]*\d[^a-z]*"
    r"|(?:what(?:'s| is)|how much is|calculate|wie viel ist|was ist|combien font"
    r"|cuanto es|quanto e)"
    r"\W+[-\d.,(]+\s*(?:[-+*/x×÷^%]|mal|plus|minus|times|fois|por|mas|vezes|mais)"
    r"[^a-z]*\d.*"
    r"|(?:what(?:'s| is) )?\d+(?:\.\d+)? ?% of \d.*"
    r"|convert [\d.,]+ [\w° ]+ (?:to|into) [\w° ]+|rechne [\d.,]+ [\w° ]+ in [\w° ]+ um"
    r"|[\d.,]+ ?[\w°]+ (?:to|in) [\w°]+|how (?:many|much) .{1,20}(?:are|is|in) [\d.,]+ [\w°]+.*"
    r"|how much is [\d.,]+ [\w°]+ in [\w°]+"
    r"|what (?:day|date|time)\b.{0,20}(?:today|is it|now)?|what(?:'s| is) (?:today's date|the time)"
    r"|what weekday .*|how many days (?:until|between|to|since) .*"
    r"|wie viele tage .*\b(?:bis|seit)\b.*"
    r"|welcher tag ist heute|wie spat ist es|quelle heure est-il|quel jour sommes-nous"
    r"|que (?:hora|dia) es(?: hoy)?|que dia e hoje|que horas sao"
)


def _is_instant(text: str) -> bool:
    words = " ".join(plain(text).split())
    if _GREETING.fullmatch(words):
        return True
    return _ONE_LINE.fullmatch(words.strip(" ?!.¿¡")) is not None


def plain(text: str) -> str:
    """Lower case without accents, with straight apostrophes."""
    folded = unicodedata.normalize("NFKD", text.replace("’", "'").casefold())
    return "".join(each for each in folded if not unicodedata.combining(each))


def classify(text: str, documents: Sequence[Text] = (), *, forced: bool = False) -> Classification:
    """A request's tier with reasons, and its work.

    Args:
        documents: Texts that came with it; they decide what forced work is.
        forced: Find work in any case.
    """
    found, reasons = _work_in(text)
    if not found and forced:
        kind: Kind = "compare" if len(documents) > 1 else "summarise" if documents else "research"
        found, reasons = {kind: (0, len(text))}, [*reasons, "background work was requested by name"]
    if found:
        kinds = sorted(found, key=lambda kind: (found[kind], kind))[:MOST_ITEMS]
        items = [
            Item(kind=kind, title=title_of(kind, text, *found[kind]), instruction=text)
            for kind in kinds
        ]
        return Classification("async", items, reasons)
    if _is_instant(text):
        return Classification("instant", reasons=["one line answers it"])
    return Classification("standard", reasons=reasons or [NO_WORK])


def _work_in(text: str) -> tuple[dict[Kind, Place], list[str]]:
    """Kinds of work by the place of their first mention, and why each was or was not taken."""
    quiet = _QUOTED.sub(lambda match: "x" * len(match.group()), text)
    quiet = _PAIR.sub(lambda match: match.group().replace(" ", "-"), quiet)
    found: dict[Kind, Place] = {}
    reasons: list[str] = []
    at, data = 0, bool(find_data([text]))
    for sentence in _SENTENCE.split(quiet):
        place = text.find(sentence[:20], at) if sentence else -1
        at = place if place >= 0 else at
        _read_sentence(plain(sentence), at, found, reasons, data=data)
    return found, list(dict.fromkeys(reasons))


def _read_sentence(
    sentence: str, at: int, found: dict[Kind, Place], reasons: list[str], *, data: bool
) -> None:
    offset = 0
    for clause in _CLAUSE.split(sentence):
        start = sentence.find(clause, offset)
        offset = max(offset, start)
        stripped = _LEAD.sub("", clause)
        form = _IN_FORM.search(clause)
        if form is not None:
            kinds: list[Kind] = ["research", "draft"]
            if re.fullmatch(ARTEFACT, form["what"]):
                kinds = ["research", "build"]
            for each in kinds:
                reasons.append(f"it asks for {LABELS[each].lower()}")
                found.setdefault(each, (at + offset, at + offset + len(clause)))
            continue
        if _QUESTION.match(clause.strip()) and not _POLITE_LEAD.match(stripped):
            reasons.append("it asks about something, and does not request work")
            continue
        negated = False
        last: Kind | None = None
        for part in _JOINED.split(clause):
            begin = clause.find(part)
            kind = _asked(part, data=data)
            words = _POLITE_LEAD.sub("", _LEAD.sub("", part))
            denied = _NEGATION.search(part) if kind is None else _AFTER_VERB.search(words)
            negated = negated or denied is not None
            if kind is None:
                named = _asked(part[denied.end() :], data=data) if denied else None
                if named is not None:
                    reasons.append(f"{named} is named, but not wanted")
                if last is not None:  # "Python and Go": both are what the verb is about
                    found[last] = (found[last][0], at + offset + max(0, begin) + len(part))
                continue
            if negated:
                reasons.append(f"{kind} is named, but not wanted")
                continue
            reasons.append(f"it asks for {LABELS[kind].lower()}")
            begin = at + offset + max(0, begin)
            last = kind if kind not in found else None
            found.setdefault(kind, (begin, begin + len(part)))


def _asked(part: str, *, data: bool) -> Kind | None:
    """The kind of work that a part of a sentence asks for, with data in the message or without."""
    words = _LEAD.sub("", part).strip(" \t¿¡")
    polite = _POLITE_LEAD.match(words)
    if polite is not None and _NO_SUBJECT.match(words[polite.end() :]):
        return None
    if polite is not None:
        words = _LEAD.sub("", words[polite.end() :]).strip()
        words = re.sub(r"^(?:me|mir|uns|moi|nos|fur mich)\s+", "", words)
        for kind, pattern in _LAST:
            if pattern.search(words):
                return kind
    wish = _WISH_LEAD.match(words)
    if wish is not None:
        words = words[wish.end() :].strip()
    if _WEAK_RESEARCH.match(words):
        return None
    if _NAMED_FIRST.match(words) or (data and _NAMED.match(words)):
        return "build"
    if _VERB_OR_NOUN.match(words) and not (data or _OBJECT.match(words)):
        return None
    for kind, pattern in _RULES:
        if pattern.match(words) and not (kind == "draft" and _SMALL.search(words)):
            return kind
    if wish is not None:
        for kind, pattern in [*_WISHED, *_LAST]:
            if pattern.search(words):
                return kind
    return None


_TITLE_LEAD: Final = re.compile(
    r"^\W*(?:(?:and|then|now|please|und|dann|bitte|et|puis|y|luego|e|depois)\b\W*)+", re.IGNORECASE
)


def title_of(kind: Kind, text: str, begin: int, end: int) -> str:
    """A line that names the work, by the part of the request that asks for it."""
    line = " ".join(_TITLE_LEAD.sub("", text[begin:end]).split()) or " ".join(text.split())
    line = line.rstrip(".,;:!? ") or line
    return f"{LABELS[kind]}: {line if len(line) <= 80 else line[:79] + '…'}"
