"""The encodings that are asked for, in order."""

from typing import Final

from kbe_nat.sources.kubernetes.answers import AnswerError, Decoder
from kbe_nat.sources.kubernetes.json_answers import JsonDecoder


def decoder_for(content_type: str) -> Decoder:
    """The decoder of a `Content-Type`, whose parameters do not count. Raises `AnswerError`."""
    media_type = content_type.partition(";")[0].strip().lower()
    decoder = DECODERS.get(media_type)
    if decoder is None:
        raise AnswerError(f"the answer is {media_type[:60] or 'of no type'!r}")
    return decoder


DECODERS: Final[dict[str, Decoder]] = {decoder.media_type: decoder for decoder in (JsonDecoder(),)}
ACCEPT: Final = ", ".join(DECODERS)
