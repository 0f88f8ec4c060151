"""The files of Mikolov's word2vec, text and binary: a line "V D", then each word and its D numbers.

write_word2vec("vectors.txt", words, vectors)
words, vectors = read_word2vec("vectors.bin", binary=True)
"""

import numpy as np


def write_word2vec(path, words, vectors, binary=False):
    """Raises `ValueError` for a word that the format cannot hold: an empty one, or one with white space."""
    if wrong := [word for word in words if not word or word.split() != [word]]:
        raise ValueError(f"{path}: word2vec's format has no place for white space within a word: {wrong[0]!r}.")
    with open(path, "wb") as file:
        file.write(f"{len(words)} {vectors.shape[1]}\n".encode())
        for word, row in zip(words, np.asarray(vectors, "<f4"), strict=True):
            numbers = row.tobytes() if binary else " ".join(map(str, row)).encode()
            file.write(word.encode() + b" " + numbers + b"\n")


def read_word2vec(path, binary=False):
    """(the words as a tuple, float32 (V, D)).

    Raises `ValueError`, with the place, for a file that is cut off, of another format or holds what is no number.
    """
    with open(path, "rb") as file:
        header = file.readline(100).split()
        if len(header) != 2 or not all(number.isdigit() for number in header) or 0 in map(int, header):
            raise ValueError(f"{path}: the first line must be the numbers of words and dimensions: {header!r:.80}.")
        count, size = map(int, header)
        rows = (read_binary if binary else read_text)(path, file, count, size)
        words, vectors = zip(*rows, strict=True)
        if file.read().strip():
            raise ValueError(f"{path}: there is more than the {count} words that its first line says.")
    if len(set(words)) != count:
        raise ValueError(f"{path}: a word stands twice.")
    vectors = np.stack(vectors)
    if not np.isfinite(vectors).all():
        raise ValueError(f"{path}: the vector of {words[np.argmin(np.isfinite(vectors).all(axis=1))]!r} is not finite.")
    return words, vectors


def read_text(path, file, count, size):
    """(word, vector) of each line."""
    for i in range(count):
        parts = file.readline().rstrip().split(b" ")
        try:
            if len(parts) != size + 1:
                raise ValueError(f"it has {len(parts) - 1} numbers")
            yield parts[0].decode(), np.array([float(number) for number in parts[1:]], "float32")
        except ValueError as error:
            raise ValueError(f"{path}: line {i + 2} must be a word and {size} numbers: {error}.") from None


def read_binary(path, file, count, size):
    """(word, vector) of each word, its space, its numbers; the line's end may be there or not."""
    for i in range(count):
        word = bytearray()
        while (letter := file.read(1)) not in (b" ", b""):
            word += letter
        numbers = file.read(4 * size)
        try:
            if len(numbers) < 4 * size or len(word) > 10_000:
                raise ValueError("the file ends too early")
            yield word.lstrip(b"\n").decode(), np.frombuffer(numbers, "<f4").astype("float32")
        except ValueError as error:
            raise ValueError(f"{path}: word {i + 1} of {count} is broken: {error}.") from None
