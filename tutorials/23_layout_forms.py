# %% [markdown]
# # 23 · What belongs in this blank? LayoutLM
#
# A court's form has hundreds of blanks, and as text they are all the same: `____`. Which one wants a date, which one a
# sum of money, and which is a box to tick? People see it from where the blank stands and how large it is. LayoutLM (Xu
# et al. 2019, arXiv:1912.13318) is BERT that sees this too: to BERT's three tables it adds tables of places.
#
# $x = \mathrm{norm}(E_i + S_s + P_t + X_{x_0} + Y_{y_0} + X_{x_1} + Y_{y_1} + H_{y_1 - y_0} + W_{x_1 - x_0})$
#
# # 23 · 这个空该填什么？LayoutLM
#
# 法院的一份表格有几百个空，作为文字它们全都一样：`____`。哪个填日期，哪个填金额，哪个只是打勾的方框？
# 人一看空在哪里、有多大就知道。LayoutLM（Xu 等，2019，arXiv:1912.13318）就是看得见这些的 BERT：
# 在 BERT 的三张表之外，再加上位置的表。
#
# $x = \mathrm{norm}(E_i + S_s + P_t + X_{x_0} + Y_{y_0} + X_{x_1} + Y_{y_1} + H_{y_1 - y_0} + W_{x_1 - x_0})$

# %%
import re
import sys
from collections import Counter
from pathlib import Path

import kerasnets as kn

import keras
import matplotlib
import numpy as np
from tqdm import tqdm

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

folder = Path("saved_models")
folder.mkdir(exist_ok=True)
to_numpy = keras.ops.convert_to_numpy
try:
    kn.datasets.find_file("pypdf", "__init__.py")
    first = kn.datasets.find_file(
        "docassemble",
        "LAWVFamilyLaw/data/templates/sca_fc_101.pdf",
        install="pypdf && pip install --no-deps docassemble.LAWVFamilyLaw==0.1.8",
    )
except ModuleNotFoundError as error:
    print(f"Skipped 跳过: {error}")
    sys.exit()
from pypdf import PdfReader  # noqa: E402

# %% [markdown]
# ## The forms
# Ten forms of the family courts of West Virginia, 45 pages. pypdf tells where each run of letters begins, and a letter
# is taken to be 0.45 of its size wide. A blank knows its own box, and its name: whoever programmed the form called it
# `p_dob` or `debt_amount_3`. The name is what the network has to find out, so it sees nothing of it: only words, with
# one word `[blank]` for every blank, and boxes, in thousandths of the page, 0 at the top left.
#
# ## 表格
# 西弗吉尼亚州家事法庭的十份表格，45 页。pypdf 给出每串字从哪里开始，每个字母的宽度按字号的 0.45 倍估计。
# 空知道自己的方框，也知道自己的名字：制作表格的人给它起名 `p_dob` 或 `debt_amount_3`。名字正是网络要猜的，
# 所以网络看不到它：只看到词（所有的空都是同一个词 `[blank]`）和方框，单位是页面的千分之一，左上角为 0。

# %%
KINDS = {  # how names end that mean this kind
    "tick": None,  # the file itself says which blanks are boxes to tick
    "time": "hour|minute",
    "date": "dob|date|dates|day|month|year|begin|end",
    "name": "name|individual|employer|owed_to|custodian|child|supervisor|recipient|party|position",
    "place": "address|county|state|location|line",
    "number": "ssn|snn|phone|license|num|age|policy|group|id|copies|percent",
    "money": "value|owed|amount|payment|payments|expenses|bill|income|pay|debt|salary|wages|secured|support",
    "words": "",
}
kinds = list(KINDS)


def kind_of(is_button, name):
    name = re.sub(r"[_\d]+$", "", name.lower())
    found = (kind for kind, endings in KINDS.items() if endings is not None and re.search(rf"({endings})$", name))
    return "tick" if is_button else next(found)


def words_of(page):
    """(word, left, bottom, right, top, None) of a page, in points from the bottom left."""
    words, last = [], (None, 0.0)

    def visit(text, matrix, text_matrix, font, size):
        nonlocal last
        em = size * abs(text_matrix[3])
        start = text_matrix[4] * matrix[0] + matrix[4], text_matrix[5] * matrix[3] + matrix[5]
        x = last[1] if start == last[0] else start[0]  # a run that goes on where another one ended
        for word in re.finditer(r"\S+", text):
            left, right = x + 0.45 * em * word.start(), x + 0.45 * em * word.end()
            words.append((word[0].lower(), left, start[1] - 0.2 * em, right, start[1] + 0.8 * em, None))
        last = start, x + 0.45 * em * len(text.rstrip("\n"))

    page.extract_text(visitor_text=visit)
    return words


def blanks_of(page):
    """("[blank]", left, bottom, right, top, kind)."""
    for field in (reference.get_object() for reference in page.get("/Annots", ())):
        both = {**field.get("/Parent", {}), **field}
        if both.get("/FT") in ("/Tx", "/Btn"):
            x0, y0, x1, y1 = map(float, both["/Rect"])  # any two corners that face each other
            box = min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)
            yield "[blank]", *box, kind_of(both["/FT"] == "/Btn", str(both["/T"]))


def in_reading_order(items):
    """Line by line from the top, in a line from the left."""
    lines, height = [], None
    for item in sorted(items, key=lambda item: -(item[2] + item[4])):
        middle = (item[2] + item[4]) / 2
        if height is None or height - middle > 6:
            lines.append([])
            height = middle
        lines[-1].append(item)
    return [item for line in lines for item in sorted(line, key=lambda item: item[1])]


pages = []
for path in tqdm(sorted(first.parent.glob("*.pdf")), desc="Forms 表格"):
    for page in PdfReader(path).pages:
        width, height = float(page.mediabox.width), float(page.mediabox.height)
        items = in_reading_order([*words_of(page), *blanks_of(page)])
        boxes = np.array([(left / width, 1 - top / height, right / width, 1 - low / height)
                          for _, left, low, right, top, _ in items])  # fmt: skip
        labels = [-100 if kind is None else kinds.index(kind) for *_, kind in items]
        pages.append(([item[0] for item in items], np.clip(boxes, 0, 1) * 1000, np.array(labels)))
counts = Counter(kinds[label] for _, _, labels in pages for label in labels if label >= 0)
print(
    f"{len(pages)} pages, {sum(len(words) for words, *_ in pages):,} words and blanks 词和空; blanks 空:", dict(counts)
)
words, boxes, labels = pages[2]
for k in range(30):
    print(f"{words[k]:12}", boxes[k].round().astype(int), kinds[labels[k]] if labels[k] >= 0 else "")

# %% [markdown]
# ## The embedding by hand
# Six rows of four tables are added to BERT's three rows, then comes the norm.
#
# ## 手算嵌入
# 从四张表里取六行，加到 BERT 的三行上，再归一化。

# %%
keras.utils.set_random_seed(0)
small = kn.LayoutLM(vocab_size=50, hidden_size=8, num_layers=1, num_heads=2, feedforward_size=16, max_length=4)
ids, bbox = np.array([[7, 9]]), np.array([[(100, 40, 180, 60), (200, 40, 420, 60)]])
E, P, S = (
    to_numpy(table.embeddings)
    for table in (
        small.embedding.token_embedding,
        small.embedding.position_embedding,
        small.embedding.segment_embedding,
    )
)
X, Y, H, W = (to_numpy(getattr(small.box_embedding, name)) for name in ("across", "down", "height", "width"))
x0, y0, x1, y1 = bbox[0].T
total = E[ids[0]] + S[0] + P[:2] + X[x0] + Y[y0] + X[x1] + Y[y1] + H[y1 - y0] + W[x1 - x0]
gamma, beta = small.embedding.norm.get_weights()
variance = total.var(axis=1, keepdims=True) + small.config.epsilon
by_hand = (total - total.mean(axis=1, keepdims=True)) / np.sqrt(variance) * gamma + beta
first_input = kn.trace(small, {"input_ids": ids, "bbox": bbox}, only="embedding")["embedding"][0]
assert np.allclose(by_hand, first_input, atol=1e-5)
print(f"By hand = the layer, largest difference 最大差异 {abs(by_hand - first_input).max():.1e}")

# %% [markdown]
# ## The pages as arrays
# Every fifth page is held out. A page is cut into pieces of 128 words that overlap; words that occur once are unknown.
# With 36 pages to learn from, no table of a thousand rows can be learned, so places are rounded to 20 thousandths; and
# in training each page is also seen shifted a little, as scanners do.
#
# ## 把页面变成数组
# 每五页留出一页。每页切成有重叠的、128 个词的片段；只出现一次的词算作未知。只有 36 页可学，
# 一千行的表学不起来，所以位置按千分之二十取整；训练时每页还会稍稍挪动几次，就像扫描时那样。

# %%
length = 128
held_out = [i % 5 == 2 for i in range(len(pages))]
seen = Counter(word for (words, *_), out in zip(pages, held_out, strict=True) if not out for word in words)
number = {word: i for i, word in enumerate((word for word in seen if seen[word] > 1), start=2)}


def arrays(chosen, stride, shifts=1, random=None):
    """{input_ids (B, T), attention_mask (B, T), bbox (B, T, 4)}, labels (B, T)."""
    rows = []
    for _ in range(shifts):
        for words, boxes, labels in chosen:
            moved = boxes if random is None else boxes + np.tile(random.uniform(-15, 15, 2), 2)
            moved = (np.clip(moved, 0, 1000) / 20).round().astype("int32") * 20
            for k in range(0, max(len(words) - length, 0) + stride, stride):
                part = slice(k, k + length)
                fill = length - len(words[part])
                ids = [number.get(word, 1) for word in words[part]] + [0] * fill
                rows.append((ids, np.pad(moved[part], ((0, fill), (0, 0))),
                             np.pad(labels[part], (0, fill), constant_values=-100)))  # fmt: skip
    ids, bbox, labels = (np.array(column, "int32") for column in zip(*rows, strict=True))
    return {"input_ids": ids, "attention_mask": (ids > 0).astype("int32"), "bbox": bbox}, labels


train = [page for page, out in zip(pages, held_out, strict=True) if not out]
test = [page for page, out in zip(pages, held_out, strict=True) if out]
train_x, train_y = arrays(train, length // 2, shifts=8, random=np.random.RandomState(0))
test_x, test_y = arrays(test, length)
blanks = test_y >= 0
common = np.bincount(train_y[train_y >= 0]).argmax()
baseline = (test_y[blanks] == common).mean()
print(f"{len(train)} pages to learn from, {sum((labels >= 0).sum() for *_, labels in train):,} blanks 个空用来学习")
print(f"{len(test)} pages held out, {blanks.sum():,} blanks 个空留出")
print(f"Always 总猜 {kinds[common]!r}: {baseline:.3f}")

# %% [markdown]
# ## The same network twice
# One sees the boxes. The other, its twin, has the same layers, weights at the start and steps, but sees words alone:
# for it, every word stands at (0, 0, 0, 0).
#
# ## 同一个网络，两次
# 一个看得见方框。另一个是它的孪生兄弟：层数、初始权重、步数都一样，只是只看词：对它来说，每个词都在 (0, 0, 0, 0)。

# %%
epochs, batch_size = 6, 16


def learn(sees_boxes):
    keras.utils.set_random_seed(0)
    model = kn.LayoutLMTokenClassifier(
        vocab_size=len(number) + 2, hidden_size=64, num_layers=2, num_heads=4, feedforward_size=256,
        max_length=length, num_labels=len(kinds), labels=tuple(kinds), dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip
    steps = epochs * -(-len(train_y) // batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=2e-3, warmup_steps=steps // 10)
    model.compile(keras.optimizers.Adam(schedule), model.make_loss())
    inputs = [{name: array for name, array in x.items() if sees_boxes or name != "bbox"} for x in (train_x, test_x)]
    with tqdm(total=steps, desc="with boxes 有方框" if sees_boxes else "words alone 只有词") as bar:
        each_batch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: bar.update())
        model.fit(inputs[0], train_y, batch_size, epochs, verbose=0, callbacks=[each_batch])
    return model, model.predict(inputs[1], verbose=0).argmax(-1)


_, said_text = learn(sees_boxes=False)
model, said_layout = learn(sees_boxes=True)
accuracy = {
    "words alone 只有词": (said_text == test_y)[blanks].mean(),
    "LayoutLM": (said_layout == test_y)[blanks].mean(),
}

# %% [markdown]
# ## Side by side
# Of each kind: how many of its blanks on the held-out pages were named rightly.
#
# ## 并排比较
# 各类的空在留出页上认对了多少：

# %%
print(f"{'':8} blanks  words alone  LayoutLM")
for k, kind in enumerate(kinds):
    of_kind = test_y == k
    if of_kind.any():
        shares = [(said[of_kind] == k).mean() for said in (said_text, said_layout)]
        print(f"{kind:8} {of_kind.sum():6} {shares[0]:12.2f} {shares[1]:9.2f}")
for name, value in {f"always 总猜 {kinds[common]}": baseline, **accuracy}.items():
    print(f"{value:.3f}  {name}")
gain = accuracy["LayoutLM"] - accuracy["words alone 只有词"]
print(f"What places add 位置的贡献: {gain:+.3f}")
assert gain >= 0.15 and accuracy["LayoutLM"] > baseline + 0.15

# %% [markdown]
# 36 pages are few. The twin learns them by heart, and on other pages does worse than one who always guesses. With boxes
# the network knows what has to be ticked, and mostly what is money or an address; what needs both the place and a
# caption that was never seen, as a number in a new table, it often gets wrong: there the words' meaning, which LayoutLM
# brings along from eleven million pages, is missing.
#
# 36 页很少。孪生网络只是把它们背了下来，到了别的页上还不如总猜同一类的人。有了方框，网络就知道哪里该打勾，
# 金额和地址也多半认得；而既要看位置、又要读懂没见过的标题的空，例如新表格里的号码，它常常认错：
# 那里缺的是词的意思，真正的 LayoutLM 从一千一百万页里带来了它。

# %% [markdown]
# ## A page as the network sees it
# The held-out page with most kinds: its words, and each blank in the colour of what the network wants in it. A cross
# marks those where the form wants something else.
#
# ## 网络眼中的一页
# 种类最多的一页留出页：上面的词，以及每个空，颜色表示网络认为该填什么。打叉的是认错的。

# %%
words, boxes, labels = max(test, key=lambda page: (len(np.unique(page[2])), len(page[0])))
said = model.predict(arrays([(words, boxes, labels)], length)[0], verbose=0).argmax(-1).ravel()[: len(words)]
figure, axis = plt.subplots(figsize=(9, 11), layout="constrained")
colours = plt.get_cmap("tab10").colors
for word, (x0, y0, x1, y1), label, kind in zip(words, boxes, labels, said, strict=True):
    if label < 0:
        axis.text(x0, y1, word, fontsize=5)
        continue
    axis.add_patch(plt.Rectangle((x0, y0), x1 - x0, y1 - y0, color=colours[kind], alpha=0.6))
    if kind != label:
        axis.plot([x0, x1, None, x0, x1], [y0, y1, None, y1, y0], color="black", linewidth=0.8)
for k, kind in enumerate(kinds):
    axis.plot([], [], "s", color=colours[k], label=kind)
axis.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
axis.set(xlim=(0, 1000), ylim=(1000, 0), xticks=[], yticks=[])
figure.savefig(folder / "layout_forms.png", dpi=110)
model.save(folder / "layout_forms.keras")
print(f"Saved 已保存: {folder / 'layout_forms.keras'}, {folder / 'layout_forms.png'}")
