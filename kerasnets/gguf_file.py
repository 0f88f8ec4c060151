"""A GGUF file as it lies on the disk: what it says of itself, where its tensors are. The `gguf` package reads it."""

import struct

import numpy as np

LENGTH = struct.Struct("=Q")  # of an array, and of each text


def metadata(path):
    """{name: value} of a GGUF file: `tokenizer.ggml.tokens`, `tokenizer.chat_template`, `llama.block_count`, …"""
    return values_of(reader(path))


def values_of(file):
    return {name: field.contents() for name, field in file.fields.items() if not name.startswith("GGUF.")}


def reader(path):
    """The `gguf` package's reader of a file, which maps the tensors.

    Raises `ValueError` for a file that is no GGUF file, not a whole one, or in the other byte order.
    """
    try:
        import gguf
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"{path}: GGUF files need: pip install 'kerasnets[hub]'") from None
    with open(path, "rb") as start:
        if start.read(4) != b"GGUF":
            raise ValueError(f"{path} is neither a checkpoint's folder nor a GGUF file.")
    try:
        file = quick(gguf.GGUFReader, gguf.GGUFValueType)(path)
    except Exception as error:
        raise ValueError(f"{path} is not a whole GGUF file: {error}") from error
    if file.byte_order != "I":
        raise ValueError(f"{path} is a GGUF file in the other byte order.")
    return file


def quick(Reader, Kind):
    """The library's `Reader`, but with one view of each token of a vocabulary, where it makes five arrays."""

    class Quick(Reader):
        @property
        def data(self):
            return self.plain

        @data.setter
        def data(self, mapped):
            self.plain = np.asarray(mapped)  # plain arrays cost less than mapped ones, of which each slice is one

        def _get_field_parts(self, start, kind):
            """(bytes, parts, which of the parts are values, kinds), as the library has them."""
            item = Kind(self._get(start, np.uint32)[0]) if kind == Kind.ARRAY else None
            if item in (None, Kind.ARRAY) or self.byte_order != "I":
                return super()._get_field_parts(start, kind)
            (count,) = LENGTH.unpack_from(self.plain, start + 4)
            if item == Kind.STRING:
                values, end = texts(memoryview(self.plain), start + 12, count)
            else:
                dtype = np.dtype(self.gguf_scalar_to_np[item])
                end = start + 12 + count * dtype.itemsize
                values = [self.plain[start + 12 : end].view(dtype)]
            if end > len(self.plain):
                raise ValueError("it ends within its metadata")
            return end - start, values, list(range(len(values))), [Kind.ARRAY, item][: 1 + (count > 0)]

    return Quick


def texts(memory, place, count):
    """([the bytes of each of `count` texts, whose lengths stand before them], where the last one ends)."""
    found = []
    for _ in range(count):
        (length,) = LENGTH.unpack_from(memory, place)
        place += LENGTH.size + length
        found.append(memory[place - length : place])
    return found, place
