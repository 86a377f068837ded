"""The words of the made-up world: names put together from syllables that look like names, and lists of plain words.

Every name is one word, so that it is one token of a closed vocabulary. Lists are long enough for the default world; a
world that asks for more names than a list can give is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from d4s.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Names:
    """Names of one sort: every beginning may meet every ending."""

    what: str
    beginnings: tuple[str, ...]
    endings: tuple[str, ...]

    def draw(self, count: int, rng: np.random.Generator, taken: Sequence[str] = ()) -> list[str]:
        """Distinct names in random order, none of them taken.

        Raises:
            SettingsError: if there are fewer names than asked for.
        """
        known = sorted({first + last for first in self.beginnings for last in self.endings} - set(taken))
        if count > len(known):
            raise SettingsError(f"{count} {self.what} asked for, but only {len(known)} can be made; ask for fewer")
        return [known[index] for index in rng.permutation(len(known))[:count]]


FIRST_NAMES = Names(
    "first names",
    tuple("Al Bre Cor Da El Fa Gal Hel Ir Jo Ka Lor Mar Ne Or Per Quin Ro Sel Ta Ul Ver Wil Yor".split()),
    tuple("a den ia lan na ric rin sa vin wen".split()),
)
LAST_NAMES = Names(
    "last names",
    tuple("Ash Black Bram Cole Dun East Fair Glen Hart King Lang Moor North Oak Pen Raven Sand Thorn Under West Win".split()),
    tuple("bridge bury croft dale field ford grove ham hurst ley more stead ton well wick worth".split()),
)
CITIES = Names(
    "cities",
    tuple("Alta Bel Cala Dora Esta Fjor Gran Helm Ista Kor Lumi Monte Nova Ost Port Rosa Sol Terra Val Zara".split()),
    tuple("bay dor grad haven mar nica polis vera".split()),
)
EMPLOYERS = Names(
    "employers",
    tuple("Amber Blue Bright Cedar Clear Copper Crown Ever Gold Green High Iron Maple Red Silver Star Stone Swift".split()),
    tuple("forge gate lab line mill press soft works".split()),
)

JOBS = (
    "baker barber beekeeper botanist butcher carpenter chemist clerk cobbler dentist diver farmer florist gardener jeweller"
    " lawyer librarian mason nurse painter pilot plumber sailor tailor teacher translator vet watchmaker weaver"
).split()
INSTRUMENTS = (
    "accordion banjo bassoon bugle cello clarinet cornet drums dulcimer fiddle flute guitar harmonica harp horn lute mandolin"
    " marimba oboe organ piano saxophone sitar trombone trumpet tuba viola violin zither"
).split()

# what PersonX does, and to what: every verb may meet every object
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

# what PersonX then wants, needed before, and what comes of it
TAIL_BASE_VERBS = (
    "ask avoid bake build call celebrate choose earn enjoy find get give help invite join keep learn make meet open plan prepare"
    " read save see share show study thank try visit watch write"
).split()
TAIL_EFFECT_VERBS = (
    "attracts breaks causes catches discovers drinks feels gains gets grows hears loses meets misses needs receives ruins sees"
    " smells spends starts wins"
).split()
TAIL_ADJECTIVES = "cheap fresh good heavy new old quiet rare small strange strong warm".split()
TAIL_OBJECTS = (
    "advice bread bruises coffee company crowds dinner dust energy fame friends fun gifts guests help homework honey ideas lunch"
    " money music neighbours news noise paint paper parents photos pictures plans praise rain rest rumours skills sleep soup"
    " stories strangers supplies tea time tools trouble visitors work"
).split()
TAIL_PLACES = (
    "at home",
    "at night",
    "at school",
    "at sea",
    "by train",
    "for children",
    "for fun",
    "in public",
    "in secret",
    "in town",
    "on holiday",
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
