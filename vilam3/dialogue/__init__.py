"""The one conversation path of training, evaluation and serving: prompts, engine protocol and the bounded loop."""
