"""Every text the golden files are made from: written for this purpose, English, Chinese and both, plain and nasty."""

# The records of each model: (text, pair or None). The first TRAIN of them play the training set, the rest the queries.
RECORDS = [
    ("The movie was great, and I loved the acting!", None),
    ("这个房间很好,服务也不错。", None),
    ("I bought this book for 25 dollars; 质量 is not bad.", None),
    ("", None),
    ("good", None),
    ("So happy 😀👍🏽 with it... 太好了!!", None),
    ("Is the hotel near the station?", "The hotel is two minutes from the station."),
    ("这本书怎么样?", "内容很差,不值这个价。"),
    ("Café Müller — naïve façade, coöperate; ÅNGSTRÖM", None),
    ("tabs\tand\nnew lines \u00a0 and\u3000wide\u200b spaces\u0000\u0007 ", None),
    ("the food was bad and the staff was not good to us, " * 6, None),
    ("see [SEP] and [MASK] or [PAD] or <pad> or <s> here", None),
    ("The service was not good.", None),
    ("服务很差,再也不来了", "I will not come again."),
    ("a " * 30 + "short of the end", "and a second text that is long enough to be cut as well, by a lot of words " * 2),
    ("1,024 x 768 = 786432 (ＡＢＣ１２３) www.example.com/a?b=c&d", "x" * 120),
]
TRAIN = 12

# What is explained token by token: 8 to 30 tokens with each tokenizer, and one text of at most 8 for exact Shapley values.
EXPLAINED = [
    ("The service was not good.", None),
    ("房间很好,也不贵。", None),
    ("Is the hotel good?", "服务很差。"),
]
EXPLAINED_SHORT = ("The food was bad.", None)
EXPLAINED_LONGER = ("The movie was great, and I loved the acting!", None)

# For the tokenizers alone. Each text is encoded by itself, and as the first of a pair with its successor.
TOKEN_TEXTS = [
    "Hello, World!",
    "unaffable UNBELIEVABLE loved loving lovely",
    "don't can't I'll we're 'quoted' \"double\" `back` ``tick''",
    "服务很好,房间也不错。",
    "這個房間很漂亮,我們很喜歡。",
    "我在2023年11月买了3本book,价格是25.50元",
    "𠀀𠮷𡃁 rare hanzi outside the BMP",
    "これはペンです。カタカナ、한국어 텍스트",
    "😀 😃👍🏽 👨‍👩‍👧‍👦 🏳️‍🌈 🇨🇳",
    "e\u0301 vs é, n\u0303 vs ñ, a\u030a\u0323 stacked, Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢",
    "İstanbul ıssız ŞĞÜ ß ẞ ǅ ﬁne ﬀ ﬃ",
    "ΑΒΓ αβγ ς Ὀδυσσεύς",
    "Привет, мир! ЁЖИК ёжик",
    "مرحبا بالعالم שלום עולם",
    "नमस्ते दुनिया ภาษาไทย",
    "ＦＵＬＬ　ｗｉｄｔｈ　１２３！？",
    "㎏ ㍿ ① ½ Ⅷ ℃ № …",
    "https://www.example.com/path/to?query=1&x=%20#frag",
    "someone@example.com +1 (555) 123-4567",
    "3.14159 1,000,000 0x1F 1e-5 50% $9.99 €10 ¥20 £5",
    "a+b=c; x<y>z; {k: [v]} | \\ / ~ ^ _ @ # & *",
    "snake_case camelCase kebab-case dotted.name",
    "",
    " ",
    "   \t\n\r  ",
    "\u3000\u3000",
    " leading and trailing  ",
    "double  spaces   between    words",
    "line one\nline two\r\nline three\rline four",
    "nul\u0000bell\u0007escape\u001bdel\u007f",
    "zero\u200bwidth\u200cjoin\u200der\ufeffbom\u00adsoft",
    "no\u00a0break\u2009thin\u202fnarrow\u2028line\u2029para",
    "rtl \u202eoverride\u202c private \ue000 noncharacter \ufffe replacement \ufffd",
    "[CLS] [SEP] [PAD] [UNK] [MASK] [cls] [sep]",
    "<s> </s> <pad> <unk> <mask> <S>",
    "[SEP]glued[MASK]together<mask>here",
    "## ##ing a##b ▁ ▁the Ġthe",
    "a",
    "中",
    "。",
    "😀",
    "x" * 101,
    "好" * 120,
    "the quick brown fox " * 40,
    "!" * 60,
]

# For a real sentence-embedding model.
SENTENCES = [
    ("The cat sits outside.", None),
    ("A man is playing guitar.", None),
    ("The new movie is so great, I watched it twice!", None),
    ("How do I reset my password?", None),
    ("Congratulations! You have WON a $1,000 gift card. Click http://example.com/claim now!!!", None),
    ("", None),
    ("ok", None),
    ("这个房间很好,服务也不错。", None),
    ("Café naïve 😀 — e\u0301\u0000\u200b", None),
    ("The quarterly report shows that revenue grew by 12.5% year over year, while operating costs fell. " * 20, None),
    ("What is the capital of France?", "Paris is the capital of France."),
    ("one two three four five six seven eight nine ten " * 20, "eleven twelve thirteen fourteen " * 40),
]
