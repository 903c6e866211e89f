"""Running an installation: each thing an operator does or asks has a module, judgement apart from reading."""
