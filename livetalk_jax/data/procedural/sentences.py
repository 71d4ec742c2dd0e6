"""What is said: sentences of nine languages, written for this project, and the synthesiser's voices that say them."""

import json
from importlib import resources

# Language: espeak-ng's voices of it.
ACCENTS: dict[str, tuple[str, ...]] = {
    "English": ("en-us", "en", "en-gb-x-rp", "en-gb-scotland", "en-029"),
    "Mandarin": ("cmn-latn-pinyin",),
    "German": ("de",),
    "Spanish": ("es", "es-419"),
    "French": ("fr", "fr-be"),
    "Italian": ("it",),
    "Portuguese": ("pt", "pt-br"),
    "Hindi": ("hi",),
    "Japanese": ("ja",),
}
# How often each is spoken.
SHARES: dict[str, int] = {
    "English": 6, "Mandarin": 6, "German": 2, "Spanish": 2, "French": 2, "Italian": 1, "Portuguese": 1, "Hindi": 2, "Japanese": 1,
}  # fmt: skip

# Variants of espeak-ng's `!v` folder that sound like people (robots, whispers and croaks are left out).
VARIANTS: tuple[str, ...] = (
    "f1", "f2", "f3", "f4", "f5", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "Alex", "Alicia", "Andrea", "Andy", "Annie",
    "Denis", "Diogo", "Gene", "Henrique", "Hugo", "Jacky", "Lee", "Marco", "Mario", "Michael", "Mike", "Nguyen", "adam", "anika",
    "antonio", "aunty", "belinda", "benjamin", "boris", "caleb", "david", "edward", "grandma", "grandpa", "gustave", "iven",
    "john", "linda", "marcelo", "max", "michel", "miguel", "norbert", "pablo", "paul", "pedro", "quincy", "rob", "robert",
    "sandro", "shelby", "steph", "travis", "victor", "zac",
)  # fmt: skip


def _load() -> dict[str, tuple[str, ...]]:
    text = resources.files(__package__).joinpath("sentences.json").read_text(encoding="utf-8")
    return {language: tuple(lines) for language, lines in json.loads(text).items()}


SENTENCES = _load()


def words(language: str) -> list[str]:
    """The words of a language's sentences; in Mandarin, which is written without spaces, the phrases between its commas."""
    found = [word.strip("¿?¡!.,।。，？ ") for sentence in SENTENCES[language] for word in sentence.replace("，", " ").split()]
    return sorted({word for word in found if word})
