"""All drawing of the chapter, and captions."""
