"""The verdict: trusted code that asks a program for answers and alone says whether they are right."""
