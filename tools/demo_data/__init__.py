"""Training text of Quire's demo model: a manual in questions and answers, and small exact exercises.

Everything here was written for this repository. The same seed gives the same conversations.
"""
