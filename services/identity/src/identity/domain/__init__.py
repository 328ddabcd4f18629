"""Who is who, as a pure function of what was presented and what people decided."""
