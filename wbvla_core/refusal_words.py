"""English that :mod:`wbvla_core.refusal` knows, to say why a sentence is no task and which one was meant. It decides
nothing.

A synonym is offered only where the policy knows the word that it stands for. Every list is ours, from what people
type; none is complete, and a word that is missing costs a vaguer hint.
"""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# word -> words of which one may be meant; the first that the policy knows is offered
SYNONYMS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("crimson", "scarlet", "reddish", "ruby", "maroon", "vermilion", "cherry"), ("red",)),
    **dict.fromkeys(("navy", "azure", "bluish", "cobalt", "indigo"), ("blue",)),
    **dict.fromkeys(("emerald", "lime", "greenish", "olive", "jade"), ("green",)),
    **dict.fromkeys(("golden", "gold", "yellowish", "lemon", "amber"), ("yellow",)),
    **dict.fromkeys(("crate", "cube", "block", "carton", "container", "package", "parcel", "chest", "case", "cuboid", "cardboard", "one"), ("box",)),
    **dict.fromkeys(("counterclockwise", "anticlockwise", "leftward", "leftwards", "lefthand"), ("left",)),
    **dict.fromkeys(("clockwise", "rightward", "rightwards", "righthand", "write"), ("right",)),
    **dict.fromkeys(("palm", "fist"), ("hand",)),
    "limb": ("arm",),
    **dict.fromkeys(("towards", "toward"), ("to",)),
    "upright": ("straight",),
}
# The same for the word that a sentence begins with.
VERB_SYNONYMS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("head", "run", "stroll", "stride", "drive", "proceed", "navigate", "travel", "march", "jog", "wander", "come"), ("walk", "go")),
    **dict.fromkeys(("advance", "walking", "going", "moving"), ("walk", "go")),
    **dict.fromkeys(("spin", "pivot", "twist", "swivel", "turning", "rotating", "rotate"), ("turn", "rotate")),
    **dict.fromkeys(("sidestep", "shuffle", "strafe", "sidle", "stepping"), ("step",)),
    **dict.fromkeys(("duck", "hunker", "squatting", "crouching", "stoop"), ("squat", "crouch")),
    **dict.fromkeys(("straighten", "arise", "standing"), ("stand",)),
    **dict.fromkeys(("waving", "swing", "wiggle"), ("wave",)),
    "approaching": ("approach",),
}

# Whole sentences that mean a task although they share few words with it: sentence -> one that the policy may know.
PHRASES: dict[str, str] = {
    "get low": "squat down",
    "duck": "squat down",
    "duck down": "squat down",
    "hunker down": "squat down",
    "crouch low": "crouch down",
    "squat low": "squat down",
    "stand": "stand up",
    "stand upright": "stand up",
    "stand straight": "stand up straight",
    "rise up": "rise",
    "straighten up": "stand up",
    "get back up": "get up",
}

ARTICLES = _words("the a an this that these your my its")
# Words that may be added without another meaning.
FILLERS = ARTICLES | _words("of at please me us over just now again there hello it them")
IGNORED = FILLERS | _words("to and in with up for side sides sideways on")  # say nothing of what is meant

OPENINGS = tuple(  # longest first: what a person may say before the sentence
    sorted(
        (
            *("please", "kindly", "pls", "plz", "now", "ok", "okay", "hey", "hi", "hello", "robot", "so", "well", "just", "then", "x2", "alright", "sir"),
            *("could you", "can you", "would you", "will you", "would you mind", "could you please", "can we", "could we"),
            *("i want you to", "i would like you to", "i d like you to", "i need you to", "you can", "you may", "you should", "you must", "you need to"),
            *("let s", "lets", "let us", "try to", "go ahead and", "it is time to", "your task is to"),
        ),
        key=lambda text: -len(text.split()),
    )
)
CLOSINGS = ("please", "now", "for me", "thanks", "thank you", "robot", "pls", "plz", "will you", "at once", "immediately")

STOP_WORDS = _words("stop halt freeze wait stay pause cancel abort enough quit stopp whoa cease")
STOP_PHRASES = (
    *("stand still", "keep still", "hold still", "be still", "hold on", "hold it", "do nothing", "do not move", "don t move", "dont move"),
    *("emergency stop", "e stop", "estop", "that is enough", "stay where you are", "stop moving", "power off", "switch off", "shut down"),
)
NEGATIONS = _words("not dont never no without neither nor except cannot cant wont isnt avoid nowhere none")
NEGATED = _words("don doesn didn won isn aren wasn can couldn wouldn shouldn")  # before "t": what an apostrophe leaves of them
QUESTIONS = _words("what where which who whose why how when is are am was were do does did has have had can could will would should may might shall")
ASKS_ABOUT = _words("do does did have has had")  # a question only before one of these
SUBJECTS = _words("you i we they it he she the there")
PERCEIVING = _words("see find hear count describe identify tell say speak recognise recognize know")
CONDITIONS = _words("if unless until till when whenever after before later tomorrow soon minute minutes hour hours provided")
NUMBERS = _words(
    "two three four five six seven eight nine ten eleven twelve twenty hundred half twice thrice third quarter degree degrees deg "
    "metre metres meter meters cm mm centimetre centimetres centimeter centimeters inch inches foot feet second seconds percent"
)
JOINERS = _words("and then while or but afterwards next plus")
BOTH = _words("both each all either")
DIRECTIONS = _words(
    "forward forwards back backward backwards ahead straight away home here past through behind around round on onto off under over "
    "between beside along across out from by near above below inside outside"
)
# Verbs that people use with the same objects. One that begins a sentence of the policy is not meant by this list.
VERBS = _words(
    "take push pull pick lift grab grasp hold carry bring fetch drop put place throw toss kick touch open close look see find search watch count "
    "point show give hand hide sit lie kneel jump hop climb dance bow nod shake clap salute raise lower reach press hit punch catch follow "
    "release let keep use clean wipe turn tell say speak sing talk listen read write draw play eat drink sleep lean bend crawl roll slide "
    "move leave return guard describe inspect check examine identify repeat ignore disregard forget open drive knock poke tap grip squeeze "
    "rotate flip stack load unload collect gather remove clear carry swap sort paint break destroy attack charge fly swim"
)
# Words of other languages that say plainly that it is not English.
FOREIGN = _words(
    "gehe geh zur zum bitte nach links rechts roten rote kiste karton drehe dich nimm und der die das den "
    "va vers la le les gauche droite boite rouge tourne prends camina hasta caja roja rojo gira izquierda derecha ve el los "
    "vai alla scatola rossa gira sinistra destra ga naar doos rode idi"
)
