"""The model: a Prismatic vision-language-action model, its sizes and its checkpoints."""
