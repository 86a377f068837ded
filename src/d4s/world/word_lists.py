"""Words of the made-up world: names, some composed of syllables, and lists of ordinary words.

Every name is one word, so that it is one token of a closed vocabulary. Lists are long enough for the default world; a
world that needs more names than a list gives is refused.
"""

from dataclasses import dataclass

import numpy as np

from d4s.errors import SettingsError


@dataclass(frozen=True, slots=True)
class NamePool:
    """All names of one kind."""

    what: str
    known: tuple[str, ...]

    @classmethod
    def joined(cls, what: str, beginnings: str, endings: str) -> "NamePool":
        """Names of every first part with every last part."""
        return cls(what, tuple(first + last for first in beginnings.split() for last in endings.split()))

    def draw(self, count: int, rng: np.random.Generator) -> list[str]:
        """Distinct names in random order.

        Raises:
            SettingsError: if there are fewer names than asked for.
        """
        if count > len(self.known):
            raise SettingsError(f"{count} {self.what} asked for, but only {len(self.known)} are known; ask for fewer")
        return [self.known[int(index)] for index in rng.permutation(len(self.known))[:count]]


FIRST_NAMES = NamePool(
    "first names",
    tuple(
        (
            "Ada Agnes Albert Alma Amos Anton Astrid Bella Boris Bruno Carl Carmen Cecil Clara Conrad Cora Edgar Edith Elias Ella"
            " Elmer Emil Erik Esther Felix Fiona Flora Frida Gideon Gloria Greta Gustav Hanna Harold Hazel Hector Helga Hugo Ida"
            " Igor Ingrid Irene Iris Ivan Jasper Jonas Judith Julius Karl Klara Lars Laura Lena Leon Lorenz Lucia Lydia Magda"
            " Malcolm Marta Martin Maud Milo Mina Miriam Moritz Nadia Nils Nina Nora Olga Olive Oscar Otis Otto Paula Pavel Petra"
            " Philip Quentin Ralph Ramona Rhoda Rosa Rudolf Rufus Sara Selma Silas Simon Sofia Stella Sven Tamara Tessa Theo Thora"
            " Tilda Ursula Valentin Vera Victor Walter Wanda Willa Xenia Yuri Zelda"
        ).split()
    ),
)
LAST_NAMES = NamePool.joined(
    "last names",
    "Ash Black Bram Cole Dun East Fair Glen Hart King Lang Moor North Oak Pen Raven Sand Thorn Under West Win",
    "bridge bury croft dale field ford grove ham hurst ley more stead ton well wick worth",
)
CITIES = NamePool.joined(
    "cities",
    "Alta Bel Cala Dora Esta Fjor Gran Helm Ista Kor Lumi Monte Nova Ost Port Rosa Sol Terra Val Zara",
    "bay dor grad haven mar nica polis vera",
)
EMPLOYERS = NamePool.joined(
    "employers",
    "Amber Blue Bright Cedar Clear Copper Crown Ever Gold Green High Iron Maple Red Silver Star Stone Swift",
    "forge gate lab line mill press soft works",
)

JOBS = (
    "baker barber beekeeper botanist butcher carpenter chemist clerk cobbler dentist diver farmer florist gardener jeweller"
    " lawyer librarian mason nurse painter pilot plumber sailor tailor teacher translator vet watchmaker weaver"
).split()
INSTRUMENTS = (
    "accordion banjo bassoon bugle cello clarinet cornet drums dulcimer fiddle flute guitar harmonica harp horn lute mandolin"
    " marimba oboe organ piano saxophone sitar trombone trumpet tuba viola violin zither"
).split()

# actions of PersonX: every verb may have every object
HEAD_VERBS = (
    "admires borrows brings burns buries buys cleans collects counts covers delivers describes designs draws drops finds fixes"
    " forgets guards hides hires inspects kicks lends lifts loses measures moves names orders paints photographs polishes"
    " praises protects rents repairs returns sells shakes sketches steals stores tests trades washes weighs wraps"
).split()
HEAD_OBJECTS = (
    "anchors apples balloons baskets bells benches bicycles blankets boats books boxes bricks brushes candles canoes carpets"
    " chairs chests clocks coats coins compasses cradles cups curtains dolls doors drums engines envelopes fences flags gloves"
    " hammers hats helmets jars kites knives ladders lamps lanterns letters maps masks medals mirrors nets ovens paintings"
    " pianos pillows plates pots puppets radios ropes rugs saddles scarves shovels sledges spoons statues stoves swords tables"
    " tents toys trumpets umbrellas vases wagons whistles windows"
).split()

# desires, needs and effects of an event: verbs with their possible objects
BASE_TAILS = {
    "ask": "experts friends neighbours strangers",
    "avoid": "crowds debts noise rain",
    "bake": "biscuits bread cake",
    "brew": "coffee tea",
    "buy": "bread paint paper tickets tools",
    "call": "experts friends neighbours relatives",
    "collect": "money recipes stories tools",
    "earn": "fame money praise respect",
    "enjoy": "coffee music silence sunshine tea",
    "find": "advice friends shelter tools work",
    "gather": "advice courage energy supplies",
    "hear": "advice music praise songs stories",
    "invite": "friends guests neighbours relatives",
    "learn": "recipes skills songs tricks",
    "make": "friends money music plans soup",
    "pack": "biscuits supplies tickets tools",
    "plan": "holidays lessons parties repairs",
    "save": "energy money paper time",
    "share": "biscuits cake recipes songs stories",
    "study": "plans prices recipes tricks",
    "thank": "experts friends guests neighbours relatives",
    "visit": "experts friends markets museums relatives",
    "watch": "crowds films sunsets tutorials",
    "write": "diaries plans poems songs stories",
}
EFFECT_TAILS = {
    "attracts": "attention crowds guests thieves visitors",
    "avoids": "debts repairs trouble",
    "causes": "noise rumours trouble wonder",
    "discovers": "poems recipes talents tricks",
    "earns": "attention fame money praise respect",
    "feels": "joy pain pride regret relief",
    "gains": "courage energy friends skills",
    "gets": "applause attention bruises help letters visitors",
    "hears": "applause complaints music noise rumours",
    "loses": "courage energy money patience sleep time",
    "meets": "collectors experts neighbours strangers",
    "misses": "buses dinner lessons lunch",
    "needs": "coffee help sleep sunshine",
    "receives": "complaints letters praise tickets",
    "saves": "energy money time",
    "spends": "energy money time",
    "starts": "debates parties rumours trends",
    "wins": "debates friends medals respect",
}
TAIL_ADJECTIVES = "better cheap famous good new old quiet rare small strange".split()
TAIL_PLACES = (
    "abroad",
    "at home",
    "at night",
    "at school",
    "at work",
    "by accident",
    "in public",
    "in secret",
    "in town",
    "on Sunday",
)

FILLER_ADJECTIVES = "broken bright calm cold dark distant empty gentle green large loud narrow pale small tall wild".split()
FILLER_NOUNS = (
    "bird bridge castle child cloud dog door forest garden hill horse house king market mill river road ship stone stranger tower"
    " tree valley village wind"
).split()
FILLER_VERBS = "crossed followed found heard kept left liked passed reached remembered saw watched".split()
FILLER_PLACES = "above behind beside near under".split()
FILLER_TIMES = ("", "after lunch", "at dusk", "before dawn", "every day", "in spring", "in winter", "last week", "long ago")
