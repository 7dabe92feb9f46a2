"""The encodings that are asked for, and how each is read."""

from enum import StrEnum
from typing import Final

from kbe_nat.sources.kubernetes.answers import AnswerError, Decoder
from kbe_nat.sources.kubernetes.json_answers import JsonDecoder
from kbe_nat.sources.kubernetes.protobuf_answers import ProtobufDecoder


class Encoding(StrEnum):
    """The encodings that may be asked for."""

    PROTOBUF = "protobuf"
    """And for JSON where it has no protobuf."""
    JSON = "json"

    @property
    def accept(self) -> str:
        """The `Accept` header."""
        decoders: tuple[Decoder, ...] = (PROTOBUF, JSON) if self is Encoding.PROTOBUF else (JSON,)
        return ", ".join(decoder.media_type for decoder in decoders)


def decoder_for(content_type: str) -> Decoder:
    """The decoder of a `Content-Type`, whose parameters do not count. Raises `AnswerError`."""
    media_type = _media_type(content_type)
    decoder = DECODERS.get(media_type)
    if decoder is None:
        raise AnswerError(f"the answer is {media_type[:60] or 'of no type'!r}")
    return decoder


def refusal_decoder(content_type: str) -> Decoder:
    """The decoder of a refusal, which may call itself plain text and yet have a Status in JSON."""
    return DECODERS.get(_media_type(content_type), JSON)


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


PROTOBUF: Final = ProtobufDecoder()
JSON: Final = JsonDecoder()
DECODERS: Final[dict[str, Decoder]] = {PROTOBUF.media_type: PROTOBUF, JSON.media_type: JSON}
