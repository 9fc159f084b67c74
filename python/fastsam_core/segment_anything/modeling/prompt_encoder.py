"""The prompt encoder under Meta's path."""

from ...models.prompt_encoder import PositionEmbeddingRandom, PromptEncoder

__all__ = ["PositionEmbeddingRandom", "PromptEncoder"]
