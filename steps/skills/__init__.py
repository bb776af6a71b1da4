"""Focused skill discovery: skills that control one state variable and leave the others as they were."""
