"""The verdict: trusted code that asks a program for answers and alone decides whether they are right."""
