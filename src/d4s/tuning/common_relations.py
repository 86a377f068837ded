"""A table of common facts, from which tuning takes those that a model knows: relations with three wordings, subjects and objects."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Relation:
    """A relation: the wording that is edited, the wordings held out as paraphrases, and the object of each subject.

    Each wording has one `{}` for the subject and is continued by the object. None begins with a subject of one word: where
    no BOS is put before a text, its first token has a hidden state unlike any other.
    """

    name: str
    wording: str
    paraphrases: tuple[str, ...]
    objects: Mapping[str, str]

    def worded(self, text: Callable[[str], str]) -> "Relation":
        """The same relation with every wording as it is put to a model, such as a user's turn."""
        return replace(self, wording=text(self.wording), paraphrases=tuple(map(text, self.paraphrases)))


def _pairs(text: str) -> dict[str, str]:
    """Objects by subject, from `subject: object` separated by semicolons."""
    return {subject.strip(): found.strip() for subject, _, found in (pair.partition(":") for pair in text.split(";"))}


COMMON_RELATIONS = (
    Relation(
        "capital",
        "The capital of {} is",
        ("The capital city of {} is called", "The seat of the government of {} is in the city of"),
        _pairs(
            "France: Paris; Italy: Rome; Spain: Madrid; Germany: Berlin; Japan: Tokyo; Russia: Moscow; Egypt: Cairo; Greece: Athens; "
            "Austria: Vienna; Portugal: Lisbon; Ireland: Dublin; Norway: Oslo; Poland: Warsaw; Cuba: Havana; Iraq: Baghdad; "
            "Peru: Lima; Kenya: Nairobi; Hungary: Budapest"
        ),
    ),
    Relation(
        "country",
        "The city of {} is located in the country of",
        ("The city of {} lies in", "The country in which {} lies is"),
        _pairs(
            "Barcelona: Spain; Milan: Italy; Munich: Germany; Lyon: France; Osaka: Japan; Mumbai: India; Shanghai: China; "
            "Toronto: Canada; Sydney: Australia; Cape Town: South Africa; Rio de Janeiro: Brazil; Istanbul: Turkey; Krakow: Poland; "
            "Saint Petersburg: Russia; Naples: Italy; Hamburg: Germany; Kyoto: Japan; Melbourne: Australia"
        ),
    ),
    Relation(
        "language",
        "The official language of {} is",
        ("In {}, most people speak", "The people of {} mostly speak the language"),
        _pairs(
            "Brazil: Portuguese; Mexico: Spanish; Austria: German; Egypt: Arabic; Japan: Japanese; Russia: Russian; Italy: Italian; "
            "France: French; Argentina: Spanish; Greece: Greek; Poland: Polish; Turkey: Turkish; Iran: Persian; Sweden: Swedish; "
            "Hungary: Hungarian; China: Chinese"
        ),
    ),
    Relation(
        "continent",
        "The country of {} lies on the continent of",
        ("The continent on which {} lies is", "On the map you find {} on the continent of"),
        _pairs(
            "Kenya: Africa; Nigeria: Africa; Japan: Asia; India: Asia; France: Europe; Spain: Europe; Brazil: South America; "
            "Peru: South America; Canada: North America; Germany: Europe; Thailand: Asia; Morocco: Africa; Poland: Europe; "
            "Vietnam: Asia; Chile: South America"
        ),
    ),
    Relation(
        "currency",
        "The currency of {} is the",
        ("In {}, people pay with the", "The official money of {} is the"),
        _pairs(
            "Japan: yen; Germany: euro; Mexico: peso; India: rupee; China: yuan; Russia: ruble; Britain: pound; France: euro; "
            "Canada: dollar; Switzerland: franc; Thailand: baht; Brazil: real; Argentina: peso; Sweden: krona; Pakistan: rupee; "
            "Australia: dollar"
        ),
    ),
    Relation(
        "colour",
        "The color of {} is",
        ("What color is {}? It is", "If you look at {}, its color is"),
        _pairs(
            "snow: white; grass: green; blood: red; coal: black; a banana: yellow; the sky: blue; a ripe tomato: red; milk: white; "
            "a lemon: yellow; chocolate: brown; the sun: yellow; an emerald: green; a ruby: red; a crow: black"
        ),
    ),
    Relation(
        "author",
        "The author of {} is",
        ("The writer who wrote {} is", "The book {} was written by"),
        _pairs(
            "Romeo and Juliet: William Shakespeare; Hamlet: William Shakespeare; Pride and Prejudice: Jane Austen; "
            "Oliver Twist: Charles Dickens; War and Peace: Leo Tolstoy; The Great Gatsby: F. Scott Fitzgerald; "
            "Animal Farm: George Orwell; The Odyssey: Homer; The Hobbit: J.R.R. Tolkien; Frankenstein: Mary Shelley; "
            "Don Quixote: Miguel de Cervantes; Moby Dick: Herman Melville; The Metamorphosis: Franz Kafka; Dracula: Bram Stoker"
        ),
    ),
    Relation(
        "inventor",
        "{} was invented by",
        ("The inventor of {} is", "The person who invented {} was"),
        _pairs(
            "The telephone: Alexander Graham Bell; The light bulb: Thomas Edison; The printing press: Johannes Gutenberg; "
            "The phonograph: Thomas Edison; The dynamite: Alfred Nobel; The World Wide Web: Tim Berners-Lee; "
            "The airplane: the Wright brothers; The radio: Guglielmo Marconi; The cotton gin: Eli Whitney; The steam engine: James Watt"
        ),
    ),
    Relation(
        "profession",
        "The profession of {} was that of a",
        ("The work of {} was that of a", "People remember {} as a"),
        _pairs(
            "Isaac Newton: physicist; Albert Einstein: physicist; Pablo Picasso: painter; Wolfgang Amadeus Mozart: composer; "
            "Charles Darwin: naturalist; Vincent van Gogh: painter; Plato: philosopher; Ludwig van Beethoven: composer; "
            "Aristotle: philosopher; Claude Monet: painter; Charles Dickens: novelist; Marie Curie: chemist"
        ),
    ),
    Relation(
        "landmark",
        "{} is located in the city of",
        ("The city in which you can visit {} is", "To see {}, tourists travel to the city of"),
        _pairs(
            "The Eiffel Tower: Paris; The Colosseum: Rome; Big Ben: London; The Louvre: Paris; The Kremlin: Moscow; "
            "The Empire State Building: New York; The Golden Gate Bridge: San Francisco; The Brandenburg Gate: Berlin; "
            "The Parthenon: Athens; Buckingham Palace: London; The White House: Washington; The Sagrada Familia: Barcelona; "
            "The Hagia Sophia: Istanbul; The Forbidden City: Beijing; The Statue of Liberty: New York; The Prado Museum: Madrid"
        ),
    ),
    Relation(
        "product",
        "The company that makes {} is",
        ("The firm behind {} is", "The maker of {} is the company"),
        _pairs(
            "Windows: Microsoft; The iPhone: Apple; Android: Google; The PlayStation: Sony; The Xbox: Microsoft; Photoshop: Adobe; "
            "The Kindle: Amazon; The Mustang: Ford; The Corvette: Chevrolet; The MacBook: Apple; Gmail: Google; The Prius: Toyota"
        ),
    ),
    Relation(
        "animal",
        "{} belongs to the group of animals called",
        ("In biology, {} is one of the", "{} is one of the animals known as"),
        _pairs(
            "The eagle: birds; The shark: fish; The frog: amphibians; The snake: reptiles; The horse: mammals; The ant: insects; "
            "The penguin: birds; The whale: mammals; The lizard: reptiles; The salmon: fish; The butterfly: insects; The cat: mammals"
        ),
    ),
)
