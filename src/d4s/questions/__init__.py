"""MQD, the multi-question data set: one event asked as true/false, multiple choice, and for direct generation."""
