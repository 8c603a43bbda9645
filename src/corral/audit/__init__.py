"""The audit of any model: targets, checks of inputs and outputs, diagnostics of gradient masking."""
