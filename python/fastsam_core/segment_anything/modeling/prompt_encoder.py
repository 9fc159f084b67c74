"""The prompt encoder under the import path of Meta's package."""

from ...models.prompt_encoder import PositionEmbeddingRandom, PromptEncoder

__all__ = ["PositionEmbeddingRandom", "PromptEncoder"]
